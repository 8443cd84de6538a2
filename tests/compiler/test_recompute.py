"""The choice of what is computed again, and the recipes that modules keep for it."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from handmade import Builder
from small_detectors import small_detector
from training_inputs import training_inputs

import detc
from detc.compiler.analyse import summarise
from detc.compiler.emit import recompute
from detc.compiler.graph import Graph, Value
from detc.compiler.memory import NOTHING, Memory, Recomputed, results
from detc.compiler.passes.recompute import Recompute, _cheapest

ROOT = Path(__file__).parents[2]
Loss = Callable[[torch.nn.Module], torch.Tensor]


# ---- the choice ------------------------------------------------------------------------------------------------------


def _three_convolutions() -> Graph:
    """conv, norm, relu; conv, norm and a sum with what went in; relu, conv."""
    b = Builder()
    x = b.relu("relu0", b.batch_norm("norm0", b.conv("conv0", b.image, 8, 3, bias=False)))
    y = b.add("sum", b.batch_norm("norm1", b.conv("conv1", x, 8, 1, bias=False)), x)
    return b.graph({"train": {"loss": b.conv("conv2", b.relu("relu1", y), 4)}})


def test_results_of_cheap_nodes_are_computed_again_from_what_is_kept_anyway() -> None:
    memory = Memory(_three_convolutions(), 1, 32, 32)
    # Half a byte an operation: of 4 bytes an element, an operation or two are worth it, 16 or more are not.
    found = _cheapest(memory, 1 << 19)
    assert {value.node for value in found.values} == {"norm0", "relu0", "norm1", "sum", "relu1"}
    _, sources = memory.demands(found)
    assert sources == {Value("conv0"), Value("conv1")}


@pytest.mark.parametrize("price", [1 << 8, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20])
def test_the_choice_is_the_best_of_all(price: int) -> None:
    memory = Memory(_three_convolutions(), 1, 32, 32)

    def cost(again: Recomputed) -> int:
        computed, sources = memory.demands(again)
        needed = sources | {value for node in memory.order for value in memory.keeps(node)} - computed
        kept = sum(memory.bytes(value) for value in needed if value.node in memory.graph)
        return (kept << 20) + price * memory.flops_again(again)

    inside = _cheapest(memory, price).inside
    values = [value for node in memory.order for value in results(node)]
    every = (
        Recomputed(frozenset(chosen), inside)
        for n in range(len(values) + 1)
        for chosen in itertools.combinations(values, n)
    )
    assert cost(_cheapest(memory, price)) == min(map(cost, every))


def test_nothing_is_computed_again_for_nothing(tmp_path: Path) -> None:
    assert Recompute(budget=0).run(small_detector(tmp_path, "fpg").graph) == NOTHING


def test_the_budget_is_kept_and_used(tmp_path: Path) -> None:
    graph = small_detector(tmp_path, "fpg").graph
    kept = []
    for budget in (0.01, 0.2):
        summary = summarise(graph, "train", 640, 640, recomputed=Recompute(budget).run(graph))
        assert summary.recomputation is not None
        assert 0 < summary.recomputation.flops_share <= budget
        kept.append(summary.peak_bytes)
    assert kept[0] > kept[1]


def test_what_is_drawn_at_random_is_drawn_once(tmp_path: Path) -> None:
    graph = small_detector(tmp_path, "faster_rcnn").graph
    drawn = {node.name for node in graph.nodes if node.op == "sample_rows"}
    assert drawn
    again = _cheapest(Memory(graph.view("train"), 1, 128, 128), 1)  # everything that can be, is
    assert len(again.values) > 200
    assert drawn.isdisjoint(value.node for value in again.values)


ROWS = re.findall(r"^detector (\w*_fpg_\w*)", (ROOT / "specs/fpg.det").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", [ROWS[0], *(pytest.param(row, marks=pytest.mark.slow) for row in ROWS[1:])])
def test_the_memory_of_fpg_is_halved_for_a_seventh_of_the_forward_pass(name: str) -> None:
    graph = detc.load(ROOT / "specs/fpg.det", name).graph
    summary = summarise(graph, "train", 640, 640, recomputed=Recompute().run(graph))
    plain = summary.recomputation
    assert plain is not None and plain.flops_share <= 0.15
    assert summary.total.saved_bytes < 0.4 * plain.plain_saved_bytes
    assert summary.peak_bytes < 0.5 * plain.plain_peak_bytes


# ---- the modules -----------------------------------------------------------------------------------------------------


class Twins:
    """A small detector as it is and with recomputation, on the same input."""

    def __init__(self, folder: Path, name: str = "fpg") -> None:
        self.detector = small_detector(folder, name)
        self.again = Recompute(0.15, 128, 128).run(self.detector.graph)
        plain = self.made(NOTHING)
        self.given = training_inputs(plain, 128, 128, 2, 3)
        self.expected = self.gradients(plain)

    def made(self, recomputed: Recomputed) -> torch.fx.GraphModule:
        torch.manual_seed(0)
        return self.detector.modules("train", recomputed=recomputed)["train"].train()

    def spared(self) -> torch.fx.GraphModule:
        return self.made(self.again)

    def loss(self, module: torch.nn.Module) -> torch.Tensor:
        return torch.stack([torch.stack(v).sum() for v in module(*self.given).values()]).sum()

    def gradients(self, module: torch.nn.Module, loss: Loss | None = None) -> dict[str, torch.Tensor]:
        module.zero_grad()
        (loss or self.loss)(module).backward()
        return {key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None}

    def agree(self, module: torch.nn.Module, loss: Loss | None = None) -> bool:
        return _equal(self.gradients(module, loss), self.expected)


def _equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return Twins(tmp_path_factory.mktemp("specs"))


def test_copies_and_pickles_compute_again_too(twins: Twins) -> None:
    module = twins.spared()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert list(other.state_dict()) == list(module.state_dict())
        assert "recompute_again" in other.code
        assert twins.agree(other)


def test_a_second_backward_pass_gives_the_same(twins: Twins) -> None:
    module = twins.spared()
    loss = twins.loss(module)
    loss.backward(retain_graph=True)
    module.zero_grad()
    loss.backward()
    assert _equal({key: p.grad for key, p in module.named_parameters() if p.grad is not None}, twins.expected)


def test_autocast_holds_for_what_is_computed_again(twins: Twins) -> None:
    def loss(module: torch.nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return twins.loss(module)

    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    found = []
    for module in (twins.made(NOTHING), twins.spared()):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            total = loss(module)
        total.backward()
        found.append(({key: p.grad for key, p in module.named_parameters() if p.grad is not None}, sum(kept)))
    assert _equal(found[1][0], found[0][0])
    assert found[1][1] < 0.7 * found[0][1]


def test_evaluation_mode_after_the_forward_pass_does_not_matter(twins: Twins) -> None:
    module = twins.spared()
    loss = twins.loss(module)
    module.eval()
    loss.backward()
    assert not module.get_submodule("backbone.bn1").training
    assert _equal({key: p.grad for key, p in module.named_parameters() if p.grad is not None}, twins.expected)


def test_a_weight_changed_before_the_backward_pass_is_an_error(twins: Twins) -> None:
    module = twins.spared()
    loss = twins.loss(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_without_gradients_nothing_is_prepared(twins: Twins) -> None:
    with torch.no_grad():
        assert torch.equal(twins.loss(twins.spared()), twins.loss(twins.made(NOTHING)))


def test_what_is_kept_can_be_moved_elsewhere(twins: Twins) -> None:
    def moved(module: torch.nn.Module) -> torch.Tensor:
        with torch.autograd.graph.save_on_cpu():
            return twins.loss(module)

    assert twins.agree(twins.spared(), moved)


def test_it_can_stand_within_a_checkpoint(twins: Twins) -> None:
    def within(module: torch.nn.Module) -> torch.Tensor:
        loss: torch.Tensor = torch.utils.checkpoint.checkpoint(twins.loss, module, use_reentrant=False)
        return loss

    assert twins.agree(twins.spared(), within)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_data_parallel_training_gets_each_gradient_once(twins: Twins) -> None:
    module = torch.nn.parallel.DistributedDataParallel(twins.spared())
    found = twins.gradients(module)
    assert _equal({key.removeprefix("module."): gradient for key, gradient in found.items()}, twins.expected)


def test_a_compiler_takes_the_module_whole() -> None:
    graph = _three_convolutions()
    again = Recompute(0.5, 32, 32).run(graph)
    from detc.compiler.emit.fx import emit
    from detc.runtime.kernels import KERNELS

    def gradients(recomputed: Recomputed, compiled: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        module = emit(graph, ["train"], KERNELS, recomputed)["train"]
        run = torch.compile(module, backend="aot_eager", fullgraph=True) if compiled else module
        run(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))["loss"].square().mean().backward()
        return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]

    plain = gradients(NOTHING, False)
    assert again.values and len(plain) > 5
    for found in (gradients(again, False), gradients(again, True)):
        for mine, theirs in zip(found, plain, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_long_chain_is_computed_in_order_and_let_go() -> None:
    recipe = recompute.kept(torch.ones(3))
    for _ in range(5000):
        recipe = recompute.again("detc.runtime.kernels:scale", recipe, attributes={"factor": 1.001})
    assert recipe is not None
    torch.testing.assert_close(recipe.result(), torch.full((3,), 1.001**5000), rtol=1e-3, atol=0)
    assert list(recipe.operands()) == []


def test_a_forward_pass_that_fails_leaves_no_hook_behind(twins: Twins) -> None:
    image, *rest = twins.given
    with pytest.raises(Exception, match=r".*"):
        twins.spared()(image[:, :2], *rest)
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    assert twins.agree(twins.spared())
