"""Tensors that the backward pass computes again: what emitted modules call for it.

The autograd graph stays the one of the plain module, and with it the gradients, to the bit where the kernels are
deterministic. Only what autograd's nodes keep changes: where `call` runs a kernel under a hook on saved tensors, they
keep a recipe in place of a tensor. A recipe is worked out when the first of them asks, and its result lives as long as
one of them, or a recipe yet to be worked out, still refers to it. Recipes run under the autocast settings, and modules
in the mode, of the forward pass; buffers (running statistics) are not updated a second time. With `float32`, a kernel
runs without autocast, on floating-point operands cast to float32: an island of full precision.

Hooks that were active around the module get the tensors that are kept, those that recipes keep too: offloading them to
the CPU works, and so does counting them.
"""

from __future__ import annotations

import itertools
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

# A kernel: a module, or a function, named as "module:function" so that emitted code can be printed and read back.
Kernel = nn.Module | str
# What a hook made of a tensor, and what makes a tensor of that again: nothing, where there was no hook.
Packed = tuple[Any, Callable[[Any], Tensor] | None]

_numbers = itertools.count()


class Recipe:
    """How to get a value in the backward pass: by calling `kernel` on the results of other recipes."""

    __slots__ = ("_kernel", "_operands", "_result", "_settings", "number", "ready")

    def __init__(
        self, kernel: Kernel, operands: Sequence[Any], attributes: Mapping[str, Any], float32: bool = False
    ) -> None:
        self.ready = False
        self.number = next(_numbers)
        self._kernel = kernel
        self._operands = tuple(operands)
        self._settings = _Settings(kernel, attributes, float32)
        self._result: Any = None

    def operands(self) -> Iterator[Recipe]:
        return _recipes(self._operands)

    def work_out(self) -> None:
        """Computes the value from operands that are ready."""
        with torch.no_grad(), self._settings.restored():
            self._result = self._settings.run(self._kernel, _results(self._operands))
        self.ready = True
        # What was needed for it may go, if nobody else needs it.
        self._operands = ()

    def result(self) -> Any:
        """The value. What is missing for it is worked out first, in the order of the forward pass."""
        missing: dict[int, Recipe] = {}
        stack = [self]
        while stack:
            recipe = stack.pop()
            if not recipe.ready and recipe.number not in missing:
                missing[recipe.number] = recipe
                stack += recipe.operands()
        order = sorted(missing, reverse=True)
        while order:
            missing.pop(order.pop()).work_out()
        return self._result


class Kept(Recipe):
    """A value that is kept: packed as hooks around the module want it."""

    __slots__ = ("_packed",)

    def __init__(self, packed: Packed) -> None:
        self.ready = True
        self.number = next(_numbers)
        self._operands = ()
        self._packed = packed

    def result(self) -> Any:
        # Once: not every hook can undo its packing twice.
        self._packed = _unpack(self._packed), None
        return self._packed[0]


# A compiler decides by itself what it keeps: for torch.compile, these do nothing.


def kept(tensor: Tensor) -> Recipe | None:
    """The recipe of a value that stays in memory."""
    return None if torch.compiler.is_compiling() else Kept(_pack(tensor))


def size_of(tensor: Tensor) -> Recipe | None:
    """A recipe for the shape of a tensor alone: as large, and without memory."""
    if torch.compiler.is_compiling():
        return None
    return Kept((tensor.detach().new_empty(()).expand(tensor.shape), None))


def again(
    kernel: Kernel, *operands: Any, attributes: Mapping[str, Any] | None = None, float32: bool = False
) -> Recipe | None:
    """The recipe of what a kernel gives for the results of other recipes (or lists of such)."""
    return None if torch.compiler.is_compiling() else Recipe(kernel, operands, attributes or {}, float32)


def part(recipe: Recipe, index: int) -> Recipe | None:
    """The recipe of one of several results."""
    return None if torch.compiler.is_compiling() else Recipe("operator:getitem", (recipe, index), {})


def call(
    kernel: Kernel,
    *operands: Any,
    recipes: Sequence[Any] = (),
    result: Recipe | None = None,
    inside: bool = False,
    attributes: Mapping[str, Any] | None = None,
    float32: bool = False,
) -> Any:
    """The kernel's result for the operands, with recipes kept for the backward pass in place of tensors.

    `recipes` are those of the operands, None for operands that are kept themselves. `result` is the recipe of the
    result. With `inside`, whatever else autograd would keep is had by running the kernel anew.
    """
    attributes = attributes or {}
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or not (recipes or result or inside):
        return _run(kernel, operands, attributes, float32, buffers=True)
    site = _Site(kernel, operands, attributes, float32, recipes, inside)
    with saved_tensors_hooks(site.pack, _Slot.tensor):
        value = _run(kernel, operands, attributes, float32, buffers=True)
    site.settle(value, result)
    return value


# ---- what autograd's nodes hold --------------------------------------------------------------------------------------


class _Slot:
    """One tensor that autograd asked to keep. `source` gives it back."""

    __slots__ = ("held", "source")

    def __init__(self, held: Tensor | None) -> None:
        self.held = held
        self.source: Callable[[], Tensor] | None = None

    def tensor(self) -> Tensor:
        assert self.source is not None
        return self.source()


class _Site:
    """A call while it runs: decides of every tensor that autograd asks to keep what is held of it."""

    def __init__(
        self,
        kernel: Kernel,
        operands: Sequence[Any],
        attributes: Mapping[str, Any],
        float32: bool,
        recipes: Sequence[Any],
        inside: bool,
    ) -> None:
        pairs = zip(_flat(operands), _flat(recipes), strict=True) if recipes else ()
        self.known = [(tensor, recipe) for tensor, recipe in pairs if isinstance(tensor, Tensor) and recipe is not None]
        self.owned = {_storage(tensor) for tensor in _own(kernel)}
        settings = _Settings(kernel, attributes, float32)
        self.replay: _Replay | None = _Replay(kernel, operands, settings, recipes) if inside else None
        self.slots: list[_Slot] = []

    def pack(self, tensor: Tensor) -> _Slot:
        slot = _Slot(tensor.detach())
        self.slots.append(slot)
        for operand, recipe in self.known:
            if not isinstance(recipe, Kept) and _storage(tensor) not in self.owned:
                slot.source = slot.source or _made_of(operand, tensor, recipe)
        if slot.source is not None:
            slot.held = None
        return slot

    def settle(self, value: Any, recipe: Recipe | None) -> None:
        """Once the result is there."""
        for number, slot in enumerate(self.slots):
            if slot.held is None:
                continue
            if recipe is not None and isinstance(value, Tensor):
                slot.source = _made_of(value, slot.held, recipe)
            if slot.source is None:
                anew = self.replay if _storage(slot.held) not in self.owned else None
                slot.source = anew.tensor(number) if anew is not None else _Packed(slot.held)
            slot.held = None
        # Autograd holds on to its hook, and so to this.
        self.known, self.slots, self.replay = [], [], None


class _Packed:
    """A tensor that is kept after all."""

    def __init__(self, tensor: Tensor) -> None:
        self.packed = _pack(tensor)

    def __call__(self) -> Tensor:
        tensor: Tensor = _unpack(self.packed)
        return tensor


class _Replay:
    """What a kernel asks autograd to keep, by running it once more when the first of it is needed."""

    def __init__(self, kernel: Kernel, operands: Sequence[Any], settings: _Settings, recipes: Sequence[Any]) -> None:
        self.kernel, self.recipes = kernel, tuple(recipes)
        self.gradients = [isinstance(operand, Tensor) and operand.requires_grad for operand in _flat(operands)]
        self.settings = settings
        self.found: list[Tensor] = []

    def tensor(self, number: int) -> Callable[[], Tensor]:
        return lambda: self.run()[number]

    def run(self) -> list[Tensor]:
        if not self.found:
            flags = iter(self.gradients)

            def operand(recipe: Recipe) -> Any:
                value, flag = recipe.result(), next(flags)
                return value.detach().requires_grad_(flag) if isinstance(value, Tensor) else value

            operands = _mapped(self.recipes, operand)
            with torch.enable_grad(), self.settings.restored(), saved_tensors_hooks(self.keep, _never):
                self.settings.run(self.kernel, operands)
            self.recipes = ()
        return self.found

    def keep(self, tensor: Tensor) -> None:
        self.found.append(tensor.detach())


def _never(_: None) -> Tensor:
    raise AssertionError("a replay has no backward pass")


def _pack(tensor: Tensor) -> Packed:
    """What the hooks around the module make of a tensor that is kept, and what undoes that."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if hooks is None:
        return tensor, None
    pack, unpack = hooks
    return pack(tensor), unpack


def _unpack(packed: Packed) -> Any:
    value, unpack = packed
    return value if unpack is None else unpack(value)


def _storage(tensor: Tensor) -> int:
    number: int = tensor.untyped_storage()._cdata
    return number


def _made_of(whole: Tensor, tensor: Tensor, recipe: Recipe) -> Callable[[], Tensor] | None:
    """How to get a tensor from the recipe of another: of which it is the same, a part or another shape, or a cast."""
    dtype, shape = tensor.dtype, tensor.shape
    if _storage(whole) == _storage(tensor) and whole.dtype == dtype:
        stride, start = tensor.stride(), tensor.storage_offset() - whole.storage_offset()
        if (whole.shape, whole.stride(), 0) == (shape, stride, start):
            return recipe.result
        last = start + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if whole.is_contiguous() and start >= 0 and last < whole.numel():
            return lambda: recipe.result().contiguous().as_strided(shape, stride, start)
    elif (
        torch.is_autocast_enabled(whole.device.type)
        and dtype == torch.get_autocast_dtype(whole.device.type) != whole.dtype
        and whole.is_floating_point()
        and whole.shape == shape
    ):
        return lambda: recipe.result().to(dtype)
    return None


# ---- running a kernel anew -------------------------------------------------------------------------------------------


class _Settings:
    """What a kernel's result depends on beside its operands, as it is in the forward pass."""

    __slots__ = ("attributes", "autocast", "float32", "modes", "versions")

    def __init__(self, kernel: Kernel, attributes: Mapping[str, Any], float32: bool) -> None:
        self.attributes = attributes
        self.float32 = float32
        kinds = _kinds()
        self.autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
        self.modes: list[tuple[nn.Module, bool]] = []
        self.versions: list[tuple[Tensor, int]] = []
        if isinstance(kernel, nn.Module):
            self.modes = [(module, module.training) for module in kernel.modules()]
            self.versions = [(parameter, parameter._version) for parameter in kernel.parameters()]

    @contextmanager
    def restored(self) -> Iterator[None]:
        if any(parameter._version != version for parameter, version in self.versions):
            raise RuntimeError(
                "a weight was changed in place between the forward and the backward pass, which computes with it again"
            )
        with ExitStack() as stack:
            for kind, enabled, dtype in self.autocast:
                if torch.is_autocast_enabled(kind) != enabled or (enabled and torch.get_autocast_dtype(kind) != dtype):
                    stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            for module, training in self.modes:
                stack.callback(setattr, module, "training", module.training)
                module.training = training
            yield

    def run(self, kernel: Kernel, operands: Sequence[Any]) -> Any:
        """The kernel's result, without a change to its buffers."""
        return _run(kernel, operands, self.attributes, self.float32)


def _kinds() -> tuple[str, ...]:
    """The kinds of devices that computing here may be on."""
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


def _run(
    kernel: Kernel, operands: Sequence[Any], attributes: Mapping[str, Any], float32: bool, buffers: bool = False
) -> Any:
    """The kernel's result. Only with `buffers` may it change those of its module."""
    if float32:
        with ExitStack() as stack:
            for kind in _kinds():
                stack.enter_context(torch.autocast(kind, enabled=False))
            return _run(kernel, _mapped(operands, _full), attributes, False, buffers)
    if isinstance(kernel, str):
        return function(kernel)(*operands, **attributes)
    if buffers:
        return kernel(*operands)
    with ExitStack() as stack:
        for module in kernel.modules():
            held = dict(module._buffers)
            stack.callback(module._buffers.update, held)
            module._buffers.update({name: None if b is None else b.clone() for name, b in held.items()})
        return kernel.forward(*operands)


def _full(value: Any) -> Any:
    """A floating-point tensor as float32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _own(kernel: Kernel) -> Iterator[Tensor]:
    """The parameters and buffers of a kernel."""
    if isinstance(kernel, nn.Module):
        yield from kernel.parameters()
        yield from kernel.buffers()


def function(name: str) -> Callable[..., Any]:
    """The function called "module:function"."""
    if name not in _functions:
        _functions[name] = pkgutil.resolve_name(name)
    return _functions[name]


_functions: dict[str, Callable[..., Any]] = {}


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def _mapped(values: Iterable[Any], change: Callable[[Any], Any]) -> list[Any]:
    return [[*map(change, value)] if isinstance(value, list | tuple) else change(value) for value in values]


def _recipes(values: Iterable[Any]) -> Iterator[Recipe]:
    return (value for value in _flat(values) if isinstance(value, Recipe))


def _results(values: Iterable[Any]) -> list[Any]:
    return _mapped(values, lambda value: value.result() if isinstance(value, Recipe) else value)
