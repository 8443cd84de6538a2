"""The graph as torch.fx modules."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from detc.compiler.emit import recompute
from detc.compiler.graph import Graph, Node, Value, Values, Weight
from detc.compiler.memory import NOTHING, Backward, Recomputed
from detc.compiler.rules import rule_of
from detc.dsl.catalogue.checkpoint import KERNEL_MISMATCH, KERNEL_MISSING, UNKNOWN_INITIALISER
from detc.dsl.diagnostics import DiagnosticError, suggest
from detc.dsl.source import Span

Kernels = Mapping[str, Callable[..., Any]]


def emit(
    graph: Graph,
    views: Sequence[str],
    kernels: Kernels,
    recomputed: Recomputed = NOTHING,
    float32: Collection[str] = (),
) -> dict[str, fx.GraphModule]:
    """The given views of a detector as modules that share their parameters.

    Modules stand at the weights' labels. The state dict of each view is that of the whole detector, in the graph's
    order, freshly initialised as the graph says; after `torch.manual_seed` always with the same values, whichever views
    are asked for. Weights that training does not reach take no gradient.

    A module takes `image` (N, 3, H, W), and for `train` also `truth_boxes` (N, G, 4) and `truth_labels` (N, G); it
    returns a dict of tensors, or tuples of tensors (one a level), named as the view's outputs. The nodes of its
    torch.fx graph have the name of the graph's in `meta["node"]`.

    Args:
        kernels: the arithmetic of each op; see `detc.runtime.kernels`.
        recomputed: what the backward pass of the train view computes again.
        float32: names of nodes that compute in float32 under autocast too.

    Raises:
        DiagnosticError: kernel-missing, kernel-mismatch or unknown-initialiser.
    """
    root = _modules(graph, kernels)

    def traced(view: str) -> fx.Graph:
        return _trace(graph.view(view), view, kernels, recomputed if view == "train" else NOTHING, float32)

    return {view: DetectorModule.of(root, traced(view), graph.name) for view in views}


class DetectorModule(fx.GraphModule):
    """A graph module that keeps all modules of its detector, those too that its own view does not call.

    torch's own copies and pickles hold only what the graph calls, which would drop keys from the state dict and change
    their order.
    """

    @classmethod
    def of(cls, root: nn.Module, graph: fx.Graph, name: str) -> Self:
        """The module that runs `graph` on the children of `root`, which it shares."""
        module = cls(root, graph, name)
        module._modules = dict(root._modules)
        return module

    def __deepcopy__(self, memo: dict[int, Any]) -> DetectorModule:
        copied = super().__deepcopy__(memo)
        assert isinstance(copied, DetectorModule)
        copied._modules = copy.deepcopy(self._modules, memo)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, arguments = super().__reduce__()
        return _restore, (rebuild, arguments, self._modules, type(self).__name__, self.training)


def _restore(
    rebuild: Callable[..., fx.GraphModule],
    arguments: tuple[Any, ...],
    modules: dict[str, nn.Module | None],
    name: str,
    training: bool,
) -> DetectorModule:
    """What `DetectorModule.__reduce__` took apart."""
    root = nn.Module()
    root._modules = modules
    module = DetectorModule.of(root, rebuild(*arguments).graph, name)
    module.training = training
    return module


# ---- modules and their tensors ---------------------------------------------------------------------------------------


def _modules(graph: Graph, kernels: Kernels) -> nn.Module:
    """A tree of modules with exactly the graph's weights, in its order, initialised."""
    owners: dict[str, Node] = {}
    for node in graph.nodes:
        if node.weights:
            owners.setdefault(_path(node), node)
    built = {path: _build(node, graph.weights, kernels) for path, node in owners.items()}
    root = nn.Module()
    for key in graph.weights:
        _owner(root, key, built)
    trained = {_source(graph, k) for n in graph.reached("train") if n in graph for k in graph[n].weights.values()}
    frozen = {_source(graph, key) for key, weight in graph.weights.items() if not weight.trainable}
    tensors: dict[str, Tensor] = {}
    for key, weight in graph.weights.items():
        source = _source(graph, key)
        if source not in tensors:
            tensor = _initialised(graph.weights[source], _origin(owners.values(), source))
            if not weight.buffer:
                takes_gradient = source not in frozen and (source in trained or "train" not in graph.views)
                tensor = nn.Parameter(tensor, requires_grad=takes_gradient)
            tensors[source] = tensor
        _place(_owner(root, key, built), key.rpartition(".")[2], tensors[source])
    return root


def _path(node: Node) -> str:
    """The label of the node's module: what its weights' keys have in common."""
    name, key = next(iter(node.weights.items()))
    return key.removesuffix(f".{name}")


def _build(node: Node, weights: Mapping[str, Weight], kernels: Kernels) -> nn.Module:
    shapes = {name: weights[key].shape for name, key in node.weights.items()}
    module = _kernel(node, kernels)(shapes, **node.attrs)
    if not isinstance(module, nn.Module):
        raise DiagnosticError(
            KERNEL_MISMATCH.at(
                _span(node),
                f"{node.op} declares weights, and its kernel is no module",
                detail="the kernel of an op with weights is called with their shapes and gives a torch.nn.Module",
            )
        )
    held = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in dict.fromkeys((*shapes, *held)):
        if shapes.get(name) != held.get(name):
            raise DiagnosticError(
                KERNEL_MISMATCH.at(
                    _span(node),
                    f"{node.op} declares {_tensor(name, shapes)}, and its kernel holds {_tensor(name, held)}",
                )
            )
    return module


def _tensor(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{name} {list(shapes[name])}" if name in shapes else f"no {name}"


def _kernel(node: Node, kernels: Kernels) -> Callable[..., Any]:
    if node.op not in kernels:
        raise DiagnosticError(
            KERNEL_MISSING.at(_span(node), f"there is no kernel for {node.op}", detail=suggest(node.op, kernels))
        )
    return kernels[node.op]


def _owner(root: nn.Module, key: str, built: Mapping[str, nn.Module]) -> nn.Module:
    """The module that holds the tensor called `key`, made and put into the tree where it is not there yet."""
    module, path = root, ""
    for part in key.split(".")[:-1]:
        path = f"{path}.{part}" if path else part
        if part not in module._modules:
            module.add_module(part, built[path] if path in built else nn.Module())
        child = module._modules[part]
        assert child is not None
        module = child
    return module


def _place(module: nn.Module, name: str, tensor: Tensor) -> None:
    # Set directly: a kernel has registered the name already, with a tensor on the meta device.
    if isinstance(tensor, nn.Parameter):
        held = module._parameters.get(name)
        tensor.requires_grad_(tensor.requires_grad and (held is None or held.requires_grad))
        module._parameters[name] = tensor
    else:
        module._buffers[name] = tensor


def _source(graph: Graph, key: str) -> str:
    """The key under which the tensor is stored first, of several tied."""
    while (tied := graph.weights[key].tied) is not None:
        key = tied
    return key


def _origin(nodes: Iterable[Node], key: str) -> Span | None:
    return next((_span(n) for n in nodes if key in n.weights.values()), None)


def _span(node: Node) -> Span | None:
    return node.origins[0] if node.origins else None


# ---- initial values --------------------------------------------------------------------------------------------------


def _fan_in_uniform(tensor: Tensor, fan_in: int) -> None:
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(tensor, -bound, bound)


# Each sets the tensor in place; what follows it are the initialiser's parameters, in the order of specs/lib/ops.det,
# where their formulas are.
INITIALISERS: Mapping[str, Callable[..., object]] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "constant": nn.init.constant_,
    "normal": lambda tensor, std: nn.init.normal_(tensor, std=std),
    "xavier_uniform": nn.init.xavier_uniform_,
    "kaiming_normal": lambda tensor: nn.init.kaiming_normal_(tensor, mode="fan_out", nonlinearity="relu"),
    "caffe2_xavier": lambda tensor: nn.init.kaiming_uniform_(tensor, a=1),
    "fan_in_uniform": _fan_in_uniform,
    "prior": lambda tensor, probability: nn.init.constant_(tensor, -math.log((1 - probability) / probability)),
}


def _initialised(weight: Weight, span: Span | None) -> Tensor:
    name, *parameters = weight.init
    if name not in INITIALISERS:
        raise DiagnosticError(
            UNKNOWN_INITIALISER.at(
                span, f"{weight.key} is initialised with {name}", detail=suggest(str(name), INITIALISERS)
            )
        )
    tensor = torch.empty(weight.shape, dtype=getattr(torch, weight.dtype))
    INITIALISERS[str(name)](tensor, *parameters)
    return tensor


# ---- calls -----------------------------------------------------------------------------------------------------------


def _trace(graph: Graph, view: str, kernels: Kernels, recomputed: Recomputed, float32: Collection[str]) -> fx.Graph:
    traced = fx.Graph()
    values: dict[Value, fx.Node] = {}

    def lookup(value: Value) -> fx.Node:
        if value not in values:
            # One of several results, taken apart where it is first used.
            whole = results[value.node]
            values[value] = traced.create_node(
                "call_function", operator.getitem, (whole, value.output), name=f"{value.node}_result_{value.output}"
            )
        return values[value]

    def several(operand: Values) -> fx.Node | list[fx.Node]:
        return lookup(operand) if isinstance(operand, Value) else [lookup(value) for value in operand]

    results: dict[str, fx.Node] = {}
    recipes = _Recipes(traced, Backward(graph), recomputed, kernels, lookup, float32)
    for name in graph.inputs:
        values[Value(name)] = traced.placeholder(name)
    for name in graph.inputs:
        recipes.keep(Value(name))
    for node in graph.nodes:
        arguments = tuple(several(operand) for _, operand in node.inputs)
        recipes.prepare(node)
        if recipes.wanted(node) or node.name in float32:
            call = recipes.call(node, arguments)
        elif node.weights:
            call = traced.create_node("call_module", _path(node), arguments, name=node.name)
        else:
            call = traced.create_node(
                "call_function", _kernel(node, kernels), arguments, dict(node.attrs), name=node.name
            )
            # Kernels are called, never traced into, also when the module is unpickled (which traces its code again).
            call.meta["is_wrapped"] = not _is_torchs(call.target)
        call.meta["node"] = node.name
        results[node.name] = call
        if len(node.types) == 1:
            values[Value(node.name)] = call
        for index in range(len(node.types)):
            recipes.keep(Value(node.name, index))
    outputs: dict[str, Any] = {}
    for name, output in graph.views[view].items():
        outputs[name] = lookup(output) if isinstance(output, Value) else tuple(lookup(value) for value in output)
    traced.output(outputs)
    traced.lint()
    return traced


class _Recipes:
    """Writes what the backward pass computes again into a graph that is being traced: see `emit.recompute`."""

    def __init__(
        self,
        traced: fx.Graph,
        backward: Backward,
        recomputed: Recomputed,
        kernels: Kernels,
        lookup: Callable[[Value], fx.Node],
        float32: Collection[str],
    ) -> None:
        self.traced, self.backward, self.kernels, self.lookup = traced, backward, kernels, lookup
        self.float32 = float32
        self.inside = recomputed.inside
        self.again, self.sources = backward.demands(recomputed)
        self.recipes: dict[Value, fx.Node] = {}
        self.sizes: dict[Value, fx.Node] = {}
        self.modules: dict[str, fx.Node] = {}

    def keep(self, value: Value) -> None:
        """Once a value is there: the recipe that keeps it, if others need it."""
        if value in self.sources:
            of = self.lookup(value)
            self.recipes[value] = self._node(recompute.kept, (of,), {}, f"{of.name}_kept")

    def prepare(self, node: Node) -> None:
        """Before a node is called: the recipes of its results."""
        results = [Value(node.name, index) for index in range(len(node.types))]
        if any(value in self.again for value in results):
            operands = (self._function(node), *self._operands(node))
            whole = self._node(recompute.again, operands, self._options(node), f"{node.name}_again")
            for value in results:
                if len(results) == 1:
                    self.recipes[value] = whole
                elif value in self.again:
                    name = f"{node.name}_again_{value.output}"
                    self.recipes[value] = self._node(recompute.part, (whole, value.output), {}, name)

    def wanted(self, node: Node) -> bool:
        """Whether autograd is to keep recipes for a node."""
        return node.name in self.inside or any(value in self.again for value in self.backward.keeps(node))

    def call(self, node: Node, arguments: tuple[Any, ...]) -> fx.Node:
        """The call of such a node."""
        keeps = set(self.backward.keeps(node)) & self.again
        options = self._options(node)
        if node.name in self.inside:
            options |= {"recipes": self._operands(node), "inside": True}
        elif not keeps.isdisjoint(node.operands):
            options["recipes"] = [
                self._each(values, lambda value: self.recipes[value] if value in keeps else None)
                for _, values in node.inputs
            ]
        if Value(node.name) in keeps:
            options["result"] = self.recipes[Value(node.name)]
        return self._node(recompute.call, (self._function(node), *arguments), options, node.name)

    def _options(self, node: Node) -> dict[str, Any]:
        """How a node's kernel is called beside its operands."""
        options: dict[str, Any] = {} if node.weights else {"attributes": dict(node.attrs)}
        return options | ({"float32": True} if node.name in self.float32 else {})

    def _operands(self, node: Node) -> list[Any]:
        sizes = rule_of(node).sizes
        return [self._each(v, self._size if port in sizes else self.recipes.__getitem__) for port, v in node.inputs]

    @staticmethod
    def _each(values: Values, change: Callable[[Value], fx.Node | None]) -> Any:
        return change(values) if isinstance(values, Value) else [change(value) for value in values]

    def _size(self, value: Value) -> fx.Node:
        if value not in self.sizes:
            of = self.lookup(value)
            self.sizes[value] = self._node(recompute.size_of, (of,), {}, f"{of.name}_size")
        return self.sizes[value]

    def _function(self, node: Node) -> fx.Node | str:
        if not node.weights:
            return _named(node, _kernel(node, self.kernels))
        path = _path(node)
        if path not in self.modules:
            self.modules[path] = self.traced.create_node("get_attr", path, name=f"{path}.module")
        return self.modules[path]

    def _node(self, target: Any, arguments: tuple[Any, ...], options: dict[str, Any], name: str) -> fx.Node:
        made = self.traced.create_node("call_function", target, arguments, options, name=name)
        made.meta["is_wrapped"] = True
        return made


def _named(node: Node, kernel: Callable[..., Any]) -> str:
    """A kernel's name, by which code in text can refer to it."""
    name = f"{getattr(kernel, '__module__', None) or 'torch'}:{getattr(kernel, '__name__', '')}"
    try:
        found = recompute.function(name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not kernel:
        raise DiagnosticError(
            KERNEL_MISMATCH.at(_span(node), f"the kernel of {node.op} has no name under which {name} can be imported")
        )
    return name


def _is_torchs(target: Any) -> bool:
    """Whether torch.fx can trace calls of the function by itself."""
    return (getattr(target, "__module__", None) or "torch").partition(".")[0] in ("torch", "_operator")
