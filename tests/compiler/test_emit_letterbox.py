"""Pixels of any size become the image that Python's preprocessing makes of them, in every engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest
from small_graphs import Small

from detc.compiler.emit.letterbox import Letterbox
from detc.compiler.emit.onnx import emit
from detc.compiler.emit.tvm.build import build_cuda, build_llvm
from detc.compiler.emit.tvm.cuda import device_code
from detc.compiler.graph import Value
from detc.runtime.artifact import packed
from detc.runtime.data.preprocess import Preprocess
from detc.runtime.data.transforms import fit_inside
from detc.runtime.engines import OnnxEngine, OpenVinoEngine, TvmEngine

BATCH, HEIGHT, WIDTH = 2, 96, 160
SETTINGS = Letterbox((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb")
# What a grey level is in the normalised image.
GREY = 1 / 57.12
Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]


def shown(settings: Letterbox) -> tuple[Small, dict[str, object]]:
    """A graph that gives back the image that it is given."""
    small = Small(HEIGHT, WIDTH, BATCH)
    size = {"batch": BATCH, "height": HEIGHT, "width": WIDTH, "letterbox": settings}
    return small, {"graph": small.graph(shown=small.add("scale", Value("image"), factor=1.0)), **size}


def made(engine: str, settings: Letterbox) -> Fit:
    small, arguments = shown(settings)
    if engine == "llvm":
        kernels = build_llvm(weights=small.arrays, **arguments)
        run = TvmEngine(kernels.library, {}, kernels.functions, (), kernels.outputs, "llvm", entry="detect")
    else:
        model = emit(weights=small.arrays, **arguments).SerializeToString()
        run = OnnxEngine(model) if engine == "onnx" else OpenVinoEngine(model, None, ["shown"])
    return lambda pixels, sizes: run(pixels=pixels, sizes=sizes)["shown"]


def sides(count: int) -> list[tuple[int, int]]:
    """Heights and widths: one pixel, whole multiples and parts of the image's, twice it, and any."""
    rng = np.random.default_rng(0)
    some = [(1, 1), (1, 300), (300, 1), (96, 160), (192, 320), (48, 80), (288, 480), (95, 161), (700, 30)]
    return some + [tuple(int(side) for side in np.exp(rng.uniform(0, np.log(900), 2))) for _ in range(count)]


@pytest.mark.parametrize(("engine", "most"), [("onnx", 0.0), ("llvm", 0.0), ("openvino", 1.0)])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_image_is_that_of_python(engine: str, most: float, order: str) -> None:
    """To the last bit; OpenVINO, which has no double precision, may be off by one grey level here and there."""
    settings = Letterbox(SETTINGS.mean, SETTINGS.std, order)
    fit, preprocess = made(engine, settings), Preprocess.fitting(settings, HEIGHT, WIDTH)
    rng = np.random.default_rng(1)
    tried = sides(120)
    off = []
    for pair in zip(tried[::2], tried[1::2], strict=False):
        images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in pair]
        wanted, _ = preprocess(images)
        pixels, sizes = packed(images)
        difference = np.abs(fit(pixels, sizes) - wanted)
        assert difference.max() <= most * GREY * 1.02, pair
        off.append((difference > 0).mean())
    assert np.mean(off) < 0.002


@pytest.mark.parametrize("engine", ["onnx", "llvm"])
def test_what_lies_beside_an_image_is_not_seen(engine: str) -> None:
    fit = made(engine, SETTINGS)
    images = [np.full((40, 50, 3), 90, np.uint8), np.full((70, 20, 3), 200, np.uint8)]
    pixels, sizes = packed(images)
    pixels[0, 40:] = pixels[0, :, 50:] = pixels[1, :, 20:] = 7
    found = fit(pixels, sizes)
    pixels[0, 40:] = pixels[0, :, 50:] = pixels[1, :, 20:] = 250
    np.testing.assert_array_equal(found, fit(pixels, sizes))
    assert len(np.unique(found[0, 0])) == 2, "one grey, and the padding"


def test_kernels_do_not_read_outside_whatever_the_sizes_say() -> None:
    fit = made("llvm", SETTINGS)
    pixels, _ = packed([np.full((8, 9, 3), 255, np.uint8)] * 2)
    right = fit(pixels, np.array([[8, 9], [1, 1]]))
    wrong = fit(pixels, np.array([[10**9, 2**40], [-5, 0]]))
    np.testing.assert_array_equal(wrong, right)


def test_sizes_below_one_are_one() -> None:
    fit = made("onnx", SETTINGS)
    pixels, _ = packed([np.full((8, 9, 3), 255, np.uint8)] * 2)
    np.testing.assert_array_equal(fit(pixels, np.array([[0, -3]] * 2)), fit(pixels, np.array([[1, 1]] * 2)))


@pytest.mark.parametrize("size", [(640, 480), (1333, 800), (7, 5)])
def test_the_size_inside_keeps_the_ratio_and_is_rounded_half_up(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    for width, height in np.exp(rng.uniform(0, np.log(5000), (500, 2))).astype(int).tolist():
        wide, high = fit_inside(width, height, size)
        scale = min(size[0] / width, size[1] / height)
        assert 1 <= wide <= size[0] and 1 <= high <= size[1]
        assert wide == size[0] or high == size[1]
        assert abs(wide - max(1, width * scale)) <= 0.5 + 1e-9 and abs(high - max(1, height * scale)) <= 0.5 + 1e-9
    assert fit_inside(2, 1, (5, 9)) == (5, 3)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_the_cuda_kernel_is_compiled() -> None:
    small, arguments = shown(SETTINGS)
    kernels = build_cuda(weights=small.arrays, **arguments)
    assert "sm_90" in set(device_code(kernels.library))
    assert b"detc_letterbox" in kernels.library
    assert kernels.functions["detect"] == kernels.functions["main"]
