"""The selection of the highest, as CUDA computes it, on this processor."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from host_kernels import HostKernels, aligned

from detc.compiler.emit.tvm import top
from detc.compiler.emit.tvm.own import joined

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    return HostKernels([top.CUDA], tmp_path_factory.mktemp("top"))


def check(host: HostKernels, numbers: np.ndarray, count: int, threads: int = 64) -> None:
    """Compares with a stable sort."""
    rows, length = numbers.shape
    given, best, index = (
        aligned(numbers.shape, np.float32),
        aligned((rows, count), "f4", -9),
        aligned((rows, count), "i8", -9),
    )
    given[...] = numbers
    size = top.capacity(count)
    host.launch("detc_top", given, best, index, length, count, size, blocks=rows, threads=threads, shared=8 * size)
    wanted = np.argsort(-given, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(index, wanted)
    np.testing.assert_array_equal(best, np.take_along_axis(given, wanted, 1))


@pytest.mark.parametrize(("length", "count"), [(1000, 37), (1000, 1), (130, 130), (97, 96), (5, 5), (1, 1), (300, 128)])
def test_the_highest_come_best_first(host: HostKernels, length: int, count: int) -> None:
    check(host, np.random.default_rng(length).standard_normal((2, length)), count)


@pytest.mark.parametrize("count", [3, 100, 250])
def test_of_equal_ones_the_first_come_first(host: HostKernels, count: int) -> None:
    """Few values, many zeros of both signs, and neighbours in the last bit."""
    rng = np.random.default_rng(count)
    close = np.float32(0.7) + rng.integers(0, 3, 300).astype(np.float32) * np.float32(2**-24)
    check(host, np.stack([rng.integers(0, 3, 300), rng.choice([0.0, -0.0, 1e-30], 300), close]), count)


def test_scores_that_are_mostly_absent(host: HostKernels) -> None:
    scores = np.zeros((1, 2000), np.float32)
    scores[0, [3, 900, 1999]] = (0.25, 0.5, 0.5)
    check(host, scores, 50, threads=128)


def test_infinities_have_their_places(host: HostKernels) -> None:
    check(host, np.array([[-np.inf, 1.0, np.inf, -3.4e38, 3.4e38, -1e-45]]), 4)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_a_block_of_all_threads_has_the_registers_and_the_memory_that_it_needs(tmp_path: Path) -> None:
    source = tmp_path / "top.cu"
    source.write_text(joined([top.CUDA]))
    command = ["nvcc", "-O3", "-arch=sm_90", "-Xptxas", "-v", "-cubin", "-o", str(tmp_path / "top.cubin"), str(source)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores" in said
    assert int(re.search(r"Used (\d+) registers", said)[1]) * top.THREADS <= 65536
    assert int(re.search(r"(\d+) bytes smem", said)[1]) <= top._BESIDE


def test_what_shared_memory_holds() -> None:
    assert top.capacity(1000) == 1024
    assert top.capacity(1024) == 1024
    assert top.fits(16384, 163 << 10)
    assert not top.fits(16385, 163 << 10)
