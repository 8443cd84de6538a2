"""What convolutions of `--target llvm` take with them, how they are divided, and what they store."""

import ctypes
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from built_kernels import compiled, computed, this_processor
from small_graphs import Small

from detc.compiler.emit.precision import low_values
from detc.compiler.emit.tvm import pairs, tiles, winograd
from detc.compiler.emit.tvm.build import build_llvm
from detc.compiler.emit.tvm.fusion import chains
from detc.compiler.emit.tvm.module import rounded
from detc.compiler.emit.tvm.pairs import Strips
from detc.compiler.emit.tvm.winograd import Plan, Scheme
from detc.compiler.graph import Value


def convolved(x: np.ndarray, weight: np.ndarray, padding: tuple[int, int]) -> np.ndarray:
    """In double precision, of x (N, H, W, I)."""
    image = torch.from_numpy(x).double().permute(0, 3, 1, 2)
    return F.conv2d(image, torch.from_numpy(weight).double(), padding=padding).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("m", [2, 4])
def test_transforms_give_the_sum_of_products_exactly(m: int) -> None:
    scheme = Scheme(m)
    pixels = [Fraction(7 * i % 11 - 5, 3) for i in range(m + 2)]
    weights = [Fraction(2), Fraction(-3, 7), Fraction(5)]
    seen = [sum(a * b for a, b in zip(row, pixels, strict=True)) for row in scheme.of_pixels]
    spread = [sum(a * b for a, b in zip(row, weights, strict=True)) for row in scheme.of_weights]
    products = [a * b for a, b in zip(seen, spread, strict=True)]
    found = [sum(a * b for a, b in zip(row, products, strict=True)) for row in scheme.of_products]
    assert found == [sum(pixels[i + k] * weights[k] for k in range(3)) for i in range(m)]


# Tiles that end with the image and beyond it, surplus tiles in the last task, channels that end within a block, tasks
# that share tiles.
@pytest.mark.parametrize(("size", "out", "padding", "plan"), [
    ((1, 8, 8, 16), 32, (1, 1), Plan(Scheme(4), 4, 4, 1, 32)),
    ((2, 9, 7, 16), 36, (1, 1), Plan(Scheme(4), 6, 3, 2, 16)),
    ((1, 9, 14, 32), 16, (0, 0), Plan(Scheme(2), 8, 8, 1, 16)),
    ((1, 5, 3, 16), 20, (2, 1), Plan(Scheme(2), 7, 7, 3, 16)),
])  # fmt: skip
def test_convolutions_by_tiles(size: tuple[int, int, int, int], out: int, padding: tuple[int, int], plan: Plan) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(size).astype(np.float32)
    weight = rng.standard_normal((out, size[3], 3, 3)).astype(np.float32)

    def whole(x, weight):
        packed = winograd.pack(weight, plan)
        return winograd.conv(x, packed, [], lambda value, *_: value, padding, out, plan, 16, "float32")

    expected = convolved(x, weight, padding)
    np.testing.assert_allclose(computed(whole, x, weight), expected, atol=4e-6 * abs(expected).max())


def test_weights_are_transformed_in_double_precision() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32)
    plan = Plan(Scheme(4), 4, 4, 1, 16)
    matrix = np.array([[float(value) for value in row] for row in plan.scheme.of_weights])
    exact = np.einsum("ai,bj,ocij->abco", matrix, matrix, weight.astype(np.float64)).reshape(1, 36, 3, 16)
    np.testing.assert_allclose(computed(lambda w: winograd.pack(w, plan), weight), exact, rtol=6e-8, atol=1e-12)


@pytest.mark.parametrize(("n", "side", "inputs", "out", "m"), [
    (1, 80, 256, 256, 4),
    (1, 5, 256, 256, 2),  # tiles of 4 x 4 would end far beyond it
    (1, 2, 256, 256, None),  # so few that weights are read longer than multiplied with
    (1, 80, 3, 64, None),  # no whole vector of channels
])  # fmt: skip
def test_the_plan_is_the_one_that_costs_least(n: int, side: int, inputs: int, out: int, m: int | None) -> None:
    plan = winograd.plan(n, side, side, inputs, out, (1, 1), 16, 32)
    assert (plan and plan.scheme.m) == m
    if plan is not None:
        assert plan.tiles % plan.rows == 0
        assert plan.rows * plan.channels // 16 + plan.channels // 16 < 32, "sums are to fit the registers"


def pyramid() -> tuple[Small, dict[str, Value]]:
    """Two levels, the smaller added to the larger; beside it a residual block."""
    small = Small(16, 24, batch=2)
    image = Value("image")
    stem = small.add("relu", small.conv(image, 16, 3), name="stem")
    inside = small.add("relu", small.conv(stem, 16, 3), name="inside")
    block = small.add("relu", small.add("add", small.conv(inside, 16, 3, label="second"), stem), name="block")
    top = small.conv(block, 32, 3, stride=2, label="top")
    lateral = small.conv(block, 32, 1, label="lateral")
    larger = small.add("resize", top, lateral, mode="nearest", name="larger")
    merged = small.add("add", lateral, larger, name="merged")
    output = small.conv(merged, 20, 3, label="output")
    return small, {"boxes": output, "scores": top, "classes": merged}


def test_a_convolution_takes_what_nothing_else_reads() -> None:
    small, outputs = pyramid()
    graph = small.graph(**outputs)
    found = {name: (chain.residual, chain.relu, set(chain.inner)) for name, chain in chains(graph).items()}
    convs = {label: next(n.name for n in graph.nodes if n.weights.get("weight") == f"{label}.weight") for label in
             ("second", "top", "lateral", "output")}  # fmt: skip
    add = graph[Value("block").node].operands[0].node
    assert found["block"] == (Value("stem"), True, {convs["second"], add})
    assert found[convs["top"]] == (None, False, set())
    # What is made larger for the sum alone is read as it was, though the resize asks for the convolution's size.
    assert found["merged"] == (Value(convs["top"]), False, {convs["lateral"], "larger"})
    assert found[convs["output"]] == (None, False, set())


def test_of_two_convolutions_that_are_added_the_later_takes_the_sum() -> None:
    small = Small()
    one, other = (small.conv(Value("image"), 8, label=label) for label in ("one", "other"))
    total = small.add("add", one, other, name="total")
    found = chains(small.graph(boxes=total))
    assert found["total"].conv.name == other.node
    assert found["total"].residual == one
    assert one.node in found


def test_a_convolution_takes_nothing_that_is_shown_or_read_twice() -> None:
    small = Small()
    conv = small.conv(Value("image"), 8)
    small.add("relu", conv, name="positive")
    double = small.conv(Value("positive"), 8)
    twice = small.add("add", double, double, name="twice")
    found = chains(small.graph(boxes=conv, scores=Value("positive"), classes=twice))
    assert found.keys() == {conv.node, double.node}


@pytest.mark.parametrize("arch", [None, "haswell"])
def test_what_is_taken_gives_what_it_gave(arch: str | None) -> None:
    small, outputs = pyramid()
    graph = small.graph(**outputs)
    found = compiled(small, graph, arch=arch)
    for name, expected in small.expected(graph).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5 * abs(expected).max(), err_msg=name)


def test_layers_that_only_layers_read_may_be_rounded() -> None:
    small, outputs = pyramid()
    graph = small.graph(boxes=outputs["boxes"], scores=small.add("sigmoid", outputs["scores"]))
    low = {value.node for value in low_values(graph)}
    assert {"stem", "block", "merged", "larger"} <= low
    assert outputs["boxes"].node not in low, "it is shown"
    assert outputs["scores"].node not in low, "a sigmoid reads it"


@pytest.mark.parametrize(("precision", "digits"), [("float16", 2.0**-9), ("bfloat16", 2.0**-6)])
@pytest.mark.parametrize("arch", [None, "haswell"])
def test_rounded_layers_agree_within_their_digits(precision: str, digits: float, arch: str | None) -> None:
    small, outputs = pyramid()
    graph = small.graph(**outputs)
    found = compiled(small, graph, arch=arch, precision=precision)
    for name, expected in small.expected(graph).items():
        off = abs(found[name] - expected).max() / abs(expected).max()
        assert digits / 200 < off < digits, f"{name} is off by {off}"


def of_bits(
    size: tuple[int, ...], out: int, kernel: int, stride: int, dilation: int
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Pixels (N, H, W, I) and weights (O, I, K, K) as bits of bfloat16, and their convolution."""
    rng = np.random.default_rng(0)
    x, weight = (
        rounded(rng.standard_normal(shape).astype(np.float32), "bfloat16")
        for shape in (size, (out, size[3], kernel, kernel))
    )
    image, kernels = (torch.from_numpy(bits.astype(np.int32) << 16).view(torch.float32) for bits in (x, weight))
    expected = F.conv2d(image.permute(0, 3, 1, 2), kernels, stride=stride, dilation=dilation)
    return x, weight, expected.permute(0, 2, 3, 1)


# Rows of one strip and of several, the last moved back; output channels that end within a vector; a stride over padded
# rows, and a dilation.
@pytest.mark.parametrize(("size", "out", "kernel", "stride", "dilation"), [
    ((2, 5, 7, 16), 32, 1, 1, 1),
    ((1, 9, 23, 6), 20, 3, 2, 1),
    ((1, 12, 9, 32), 70, 3, 1, 2),
])  # fmt: skip
def test_convolutions_by_pairs(size: tuple[int, ...], out: int, kernel: int, stride: int, dilation: int) -> None:
    if pairs.FEATURE not in tvm.target.codegen.llvm_get_cpu_features(this_processor()):
        pytest.xfail("this processor does not add products of pairs of bfloat16: its code is tested, and not run")
    x, weight, expected = of_bits(size, out, kernel, stride, dilation)
    shape = tuple(expected.shape)
    strips = Strips.of(shape[0] * shape[1], shape[2], 5, -(-out // 32))

    def whole(x, weight):
        packed = pairs.pack(weight, 32)
        args = ([], lambda value, *_: value, shape, (stride,) * 2, (dilation,) * 2, strips, "float32")
        return pairs.conv(x, packed, *args)

    np.testing.assert_allclose(computed(whole, x, weight), expected, atol=2e-6 * expected.abs().max())


@pytest.fixture(scope="module")
def tile_registers(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Tile registers in memory, whose functions every library loaded later finds."""
    library = tmp_path_factory.mktemp("tiles") / "registers.so"
    source = Path(__file__).parents[1] / "support" / "tile_registers.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


# Tiles that end with a row and are moved back into it, rows shorter than a tile, an odd number of tiles, all pixels as
# one row; output channels that end within a tile; a stride over padded rows, and a dilation.
@pytest.mark.parametrize(("size", "out", "kernel", "stride", "dilation"), [
    ((2, 5, 7, 32), 36, 1, 1, 1),
    ((1, 9, 47, 64), 20, 3, 2, 1),
    ((2, 12, 9, 32), 70, 3, 1, 2),
    ((1, 1, 3, 32), 16, 1, 1, 1),
])  # fmt: skip
def test_convolutions_by_tiles_of_bfloat16(
    tile_registers: ctypes.CDLL, size: tuple[int, ...], out: int, kernel: int, stride: int, dilation: int
) -> None:
    x, weight, expected = of_bits(size, out, kernel, stride, dilation)
    geometry = tiles.Geometry(tuple(expected.shape), (kernel,) * 2, (stride,) * 2, (dilation,) * 2)

    def whole(x, weight):
        return tiles.conv(
            x, tiles.pack(weight), [], lambda value, *_: value, geometry, "float32", instructions="; none"
        )

    np.testing.assert_allclose(computed(whole, x, weight), expected, atol=2e-6 * expected.abs().max())


def test_a_processor_that_has_tiles_uses_them(tmp_path: Path) -> None:
    small = Small(16, 24, batch=2)
    wide = small.conv(small.add("relu", small.conv(Value("image"), 64, 3)), 64, 3)
    graph = small.graph(boxes=wide)
    size = {"batch": 2, "height": 16, "width": 24, "arch": "sapphirerapids"}
    low, single = (build_llvm(graph, small.arrays, **size, precision=p) for p in ("bfloat16", "float32"))
    assert [name for name in low.prepared if name.endswith(".tiles")]
    assert "amx-bf16" in low.features
    assert not any(name.endswith(".tiles") for name in single.prepared)
    assert not any(feature.startswith("amx") for feature in single.features)
    (tmp_path / "kernels.so").write_bytes(low.library)
    command = ["objdump", "-d", "--no-show-raw-insn", str(tmp_path / "kernels.so")]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {"ldtilecfg", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"} <= set(code.split())


def test_a_processor_that_adds_pairs_does_so() -> None:
    small, outputs = pyramid()
    graph = small.graph(**outputs)
    size = {"batch": 2, "height": 16, "width": 24, "precision": "bfloat16"}
    able, unable = (build_llvm(graph, small.arrays, **size, arch=arch) for arch in ("cooperlake", "skylake-avx512"))
    assert "avx512bf16" in able.features
    assert any(".pairs" in name for name in able.prepared)
    assert not any(".pairs" in name for name in unable.prepared)


def test_weights_are_stored_once_as_they_are_rounded() -> None:
    small, outputs = pyramid()
    graph = small.graph(**outputs)
    kernels = build_llvm(graph, small.arrays, batch=2, height=16, width=24, precision="bfloat16")
    weights = {key: array for key, array in kernels.parameters.items() if key.endswith(".weight")}
    assert weights.keys() == {key for key in small.arrays if key.endswith(".weight")}
    assert all(array.dtype == np.uint16 and array.shape == small.arrays[k].shape for k, array in weights.items())


def test_bfloat16_is_the_nearest_and_of_two_the_even() -> None:
    values = torch.tensor([0.0, -1.0, 1.00390625, 1.01171875, 3.1415927, 1e-40, 3.0e38, float("inf"), -2.7e-5])
    expected = values.bfloat16().view(torch.uint16).numpy()
    np.testing.assert_array_equal(rounded(values.numpy(), "bfloat16"), expected)
