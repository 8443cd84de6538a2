"""Convolutions on tensor cores: the kernels run on this processor against numpy, and compiled for GPUs."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from host_kernels import HostKernels, aligned

from detc.compiler.emit.precision import rounded
from detc.compiler.emit.tvm import conv_cuda, tuning
from detc.compiler.emit.tvm.conv_cuda import Ending
from detc.compiler.emit.tvm.own import CudaKernel, joined
from detc.compiler.emit.tvm.tuning import TILES, Choice, Convolution, Tile

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

# Of a rounded number, as a share of it.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALL = Tile(32, 32, 32, (2, 1), 3)
DEEP = Tile(32, 32, 64, (1, 2), 2)
# Four pixels a thread, two warps in each direction, as the large tiles have.
LARGE = Tile(128, 64, 32, (2, 2), 4)


def stored(array: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 numbers as a GPU has them in memory, 16-byte aligned."""
    bits = rounded(array.astype(np.float32), dtype)
    result = aligned(bits.shape, bits.dtype)
    result[...] = bits
    return result


def loaded(array: np.ndarray, dtype: str) -> np.ndarray:
    """The float32 numbers of what is in memory."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def expected(x: np.ndarray, weight: np.ndarray, layer: Convolution, groups: int) -> np.ndarray:
    """The sums, by torch in double precision; x and result with channels last."""
    pairs = (layer.stride, layer.padding, layer.dilation)
    given, kernel = (torch.from_numpy(array).double() for array in (x.transpose(0, 3, 1, 2), weight))
    return F.conv2d(given, kernel, None, *pairs, groups).numpy().transpose(0, 2, 3, 1)


def nearest(x: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = (np.arange(side) * old // side for side, old in zip((height, width), x.shape[1:3], strict=True))
    return x[:, rows][:, :, columns]


def layer_of(
    channels: int, outputs: int, kernel: int = 3, size: tuple[int, int] = (6, 7), images: int = 1, **sizes: object
) -> Convolution:
    """A layer over an image of a size, with the result's size worked out; sizes are `Convolution`'s."""
    usual = {"stride": (1, 1), "padding": (kernel // 2,) * 2, "dilation": (1, 1), "groups": 1} | sizes
    stride, padding, dilation = (usual[name] for name in ("stride", "padding", "dilation"))
    rows, columns = (
        (side + 2 * p - d * (kernel - 1) - 1) // s + 1
        for side, p, d, s in zip(size, padding, dilation, stride, strict=True)
    )
    return Convolution(images, *size, channels, rows, columns, outputs, (kernel, kernel), **usual)


# What is tried: a layer, how its input is stored (as the factors, if not said), and the tile.
CASES = {
    "chunks": (layer_of(16, 40), None, SMALL),
    "two images, many slices": (layer_of(72, 24, images=2), None, SMALL),
    "fewer channels than a slice": (layer_of(8, 32), None, DEEP),
    "pointwise": (layer_of(40, 72, 1), None, DEEP),
    "stride": (layer_of(24, 16, stride=(2, 2), size=(9, 7)), None, SMALL),
    "stride and no padding": (layer_of(16, 16, stride=(2, 1), padding=(0, 1), size=(9, 8)), None, SMALL),
    "dilation": (layer_of(16, 16, dilation=(2, 3), padding=(2, 3)), None, DEEP),
    "wide padding": (layer_of(8, 8, 2, padding=(3, 2), size=(3, 2)), None, SMALL),
    "stem": (layer_of(3, 64, 7, stride=(2, 2), size=(17, 23)), "float32", SMALL),
    "odd channels": (layer_of(5, 36), None, SMALL),
    "36 of 36": (layer_of(36, 36, 1), None, DEEP),
    "few outputs": (layer_of(32, 3, 1), None, SMALL),
    "a pixel": (layer_of(64, 48, 1, (1, 1)), None, SMALL),
    "large tile": (layer_of(24, 72, size=(13, 11)), None, LARGE),
    "groups": (layer_of(64, 64, groups=16), None, SMALL),
    "groups of odd size": (layer_of(24, 72, groups=6), None, SMALL),
    "depthwise": (layer_of(36, 36, 5, groups=36), None, SMALL),
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    kernels = {
        conv_cuda.kernel(dtype, conv_cuda.reading(packed_layer(layer), given or dtype), tile)
        for layer, given, tile in CASES.values()
        for dtype in ROUNDING
    }
    kernels |= {conv_cuda.sum_kernel(dtype) for dtype in ROUNDING}
    return HostKernels(sorted(kernels, key=lambda kernel: kernel.name), tmp_path_factory.mktemp("host"))


def packed_layer(layer: Convolution) -> Convolution:
    return replace(layer, groups=conv_cuda.joined_groups(layer.channels, layer.outputs, layer.groups))


def convolve(
    host: HostKernels,
    layer: Convolution,
    dtype: str,
    choice: Choice,
    ending: Ending,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """What a layer's kernels make of arrays as they are in memory; nothing of the result but what they write."""
    narrow = (np.float16, np.nan) if dtype == "float16" else (np.uint16, 0x7FFF)
    kind, poison = (np.float32, np.nan) if ending.result_wide else narrow
    result = aligned((layer.images, layer.rows, layer.columns, layer.outputs), kind, poison)
    reading = conv_cuda.reading(layer, "float32" if x.dtype == np.float32 else dtype)
    kernel = conv_cuda.kernel(dtype, reading, choice.tile)
    numbers = conv_cuda.numbers(layer, choice, ending)
    size = {"blocks": conv_cuda.blocks(layer, choice), "threads": choice.tile.threads, "shared": choice.tile.shared}
    if choice.splits == 1:
        host.launch(kernel.name, x, weight, bias, residual, result, *numbers, **size)
        return result
    partial = aligned((choice.splits, *result.shape), np.float32, np.nan)
    host.launch(kernel.name, x, weight, None, None, partial, *numbers, **size)
    blocks, threads = conv_cuda.sum_blocks(layer)
    name = conv_cuda.sum_kernel(dtype).name
    host.launch(name, partial, bias, residual, result, *numbers, blocks=blocks, threads=threads)
    return result


def case(layer: Convolution, dtype: str, given: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Input and weights as they are in memory, and as numbers, rounded as they are there."""
    rng = np.random.default_rng(layer.channels)
    x = rng.standard_normal((layer.images, layer.height, layer.width, layer.channels)).astype(np.float32)
    weight = rng.standard_normal((layer.outputs, layer.depth, *layer.kernel)).astype(np.float32)
    memory = stored(x, given)
    packed, _ = conv_cuda.pack(weight, layer.groups, dtype)
    rows = aligned(packed.shape, packed.dtype)
    rows[...] = packed
    low = loaded(stored(x, dtype), dtype), loaded(stored(weight, dtype), dtype)
    return memory, rows, *low


def agree(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    assert np.isfinite(found).all(), "a part of the result was not written"
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


@needs_gxx
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", CASES)
def test_convolutions_agree_with_torch(host: HostKernels, name: str, dtype: str) -> None:
    layer, given, tile = CASES[name]
    x, weight, *rounded = case(layer, dtype, given or dtype)
    found = convolve(host, packed_layer(layer), dtype, Choice(tile), Ending(result_wide=True), x, weight)
    agree(found, expected(*rounded, layer, layer.groups), 1e-6)


@needs_gxx
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", ["chunks", "36 of 36", "groups", "few outputs", "large tile"])
def test_what_follows_the_sums(host: HostKernels, name: str, splits: int, dtype: str) -> None:
    """Bias, a residual of another size and precision, ReLU, and results in the factors' precision."""
    layer, given, tile = CASES[name]
    x, weight, *rounded = case(layer, dtype, given or dtype)
    sums = expected(*rounded, layer, layer.groups)
    rng = np.random.default_rng(1)
    bias = aligned((layer.outputs,), np.float32)
    bias[:] = rng.standard_normal(layer.outputs) * np.abs(sums).max() / 4
    for height, width, kind in ((layer.rows, layer.columns, dtype), (2, 5, dtype), (4, 3, "float32")):
        residual = rng.standard_normal((layer.images, height, width, layer.outputs)) * np.abs(sums).max() / 4
        memory = stored(residual, kind)
        ending = Ending(True, True, (height, width), kind == "float32")
        found = convolve(host, packed_layer(layer), dtype, Choice(tile, splits), ending, x, weight, bias, memory)
        wanted = sums + bias + nearest(loaded(memory, kind), layer.rows, layer.columns)
        assert (wanted < 0).any()
        agree(loaded(found, dtype), np.maximum(wanted, 0), ROUNDING[dtype])
    plain = convolve(host, packed_layer(layer), dtype, Choice(tile, splits), Ending(), x, weight)
    agree(loaded(plain, dtype), sums, ROUNDING[dtype])


@needs_gxx
def test_results_are_rounded_to_the_nearest_and_faults_stay_visible(host: HostKernels) -> None:
    """Ties go to even; what is too large is infinite; and ReLU does not make a zero of what is no number."""
    layer, _, tile = CASES["pointwise"]
    layer = replace(layer, height=1, width=1, rows=1, columns=1)
    x, weight, bias = (aligned(shape, dtype) for shape, dtype in (
        ((1, 1, 1, 40), np.float16), ((72, 40), np.float16), ((72,), np.float32)
    ))  # fmt: skip
    bias[:8] = (1 + 2**-11, 1 + 3 * 2**-11, 2**-24, 2**-25, 65519, 7e4, np.nan, -3)
    found = convolve(host, layer, "float16", Choice(tile), Ending(bias=True, relu=True), x, weight, bias)
    wanted = np.array((1, 1 + 2**-9, 2**-24, 0, 65504, np.inf, np.nan, 0), np.float16)
    np.testing.assert_array_equal(found[0, 0, 0, :8], wanted)


def compiled(kernels: list[CudaKernel], arch: str, folder: Path) -> tuple[str, str]:
    """The PTX of kernels, and what the assembler says of its registers."""
    source = folder / "kernels.cu"
    source.write_text(joined(kernels))
    options = ["-O3", f"-arch={arch}", "-Xptxas", "-v", "-keep", "-keep-dir", str(folder), "-cubin"]
    command = ["nvcc", *options, "-o", str(folder / "kernels.cubin"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "kernels.ptx").read_text(), done.stderr


@needs_nvcc
@pytest.mark.parametrize(("arch", "tiles"), [("sm_80", TILES[:1]), ("sm_90", TILES)])
def test_kernels_use_tensor_cores_and_asynchronous_copies_and_spill_nothing(
    arch: str, tiles: tuple[Tile, ...], tmp_path: Path
) -> None:
    ways = (conv_cuda.CHUNKS, conv_cuda.NUMBERS, conv_cuda.WIDE)
    kernels = [conv_cuda.kernel("bfloat16", conv_cuda.CHUNKS, tile) for tile in tiles]
    kernels += [conv_cuda.kernel("float16", reading, LARGE) for reading in ways]
    kernels.append(conv_cuda.sum_kernel("float16"))
    ptx, said = compiled(kernels, arch, tmp_path)
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)^}", ptx, re.MULTILINE | re.DOTALL))
    assert bodies.keys() == {kernel.name for kernel in kernels}
    for kernel in kernels[:-1]:
        short = "bf16" if "_bf16_" in kernel.name else "f16"
        assert f"mma.sync.aligned.m16n8k16.row.col.f32.{short}.{short}.f32" in bodies[kernel.name]
        assert "cp.async.cg.shared.global" in bodies[kernel.name]
        assert "ldmatrix.sync.aligned.m8n8.x4" in bodies[kernel.name]
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(spills) == len(kernels)
    assert set(spills) == {("0", "0", "0")}, said


def test_groups_are_joined_until_they_fill_a_tile() -> None:
    assert conv_cuda.joined_groups(128, 128, 32) == 4
    assert conv_cuda.joined_groups(2048, 2048, 32) == 32, "64 channels each are enough"
    assert conv_cuda.joined_groups(36, 36, 36) == 1, "no divisor makes whole chunks"
    weight = np.arange(8 * 2, dtype=np.float32).reshape(8, 2, 1, 1) + 1
    packed, groups = conv_cuda.pack(weight, 4, "float16")
    assert (packed.shape, groups) == ((8, 8), 1)
    assert packed[5].tolist() == [0, 0, 0, 0, 11, 12, 0, 0]


def test_bfloat16_weights_are_rounded_as_torch_does() -> None:
    rng = np.random.default_rng(0)
    array = np.concatenate([rng.standard_normal(999), [0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8]]).astype(
        np.float32
    )
    expected = torch.from_numpy(array).bfloat16().view(torch.uint16).numpy()
    np.testing.assert_array_equal(rounded(array, "bfloat16"), expected)
    assert np.isnan(loaded(rounded(np.array([np.nan], np.float32), "bfloat16"), "bfloat16"))


def test_the_rule_fits_tiles_to_layers() -> None:
    """Large tiles where there are many pixels, shared reductions where there are few tiles, and not many more columns
    than there are output channels."""
    sizes = {"kernel": (3, 3), "padding": (1, 1)}
    many, few, narrow = (
        tuning.by_rule(layer, "sm_90")
        for layer in (
            Convolution(16, 80, 80, 256, 80, 80, 256, **sizes),
            Convolution(1, 5, 5, 256, 5, 5, 256, **sizes),
            Convolution(16, 80, 80, 256, 80, 80, 36, **sizes),
        )
    )
    assert many.tile.pixels * many.tile.outputs >= 128 * 128
    assert many.splits == 1
    assert few.splits > 1
    assert few.tile.pixels <= 64
    assert narrow.tile.outputs == 48


def test_every_choice_fits_the_device() -> None:
    layer = Convolution(1, 20, 20, 512, 20, 20, 512, (3, 3), padding=(1, 1))
    for arch, shared in (("sm_80", 163), ("sm_86", 99), ("sm_90", 227), ("sm_120", 227)):
        choices = list(tuning.candidates(layer, arch))
        assert choices
        assert all(choice.tile.shared <= shared << 10 for choice in choices)


def test_a_measured_choice_goes_before_the_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layer = Convolution(1, 20, 20, 512, 20, 20, 512, (3, 3), padding=(1, 1))
    file = tmp_path / "tuned.json"
    file.write_text(f'{{"sm_90": {{"{layer}": "64x16x64_4x1_4 / 2"}}}}')
    monkeypatch.setattr(tuning, "table", lambda: tuning.read_table(file))
    assert tuning.choose(layer, "sm_90") == Choice(Tile(64, 16, 64, (4, 1), 4), 2)
    assert tuning.choose(layer, "sm_80") == tuning.by_rule(layer, "sm_80")
    file.write_text('{"sm_90": {"x": "large"}}')
    with pytest.raises(ValueError, match="large"):
        tuning.read_table(file)


def test_the_table_of_the_repository_can_be_read() -> None:
    for arch, layers in tuning.table().items():
        assert re.fullmatch(r"sm_\d+", arch)
        assert all(re.fullmatch(r"[\dx]+-\d+ k\S+ s\S+ p\S+ d\S+ g\d+", layer) for layer in layers)
