"""Symbolic sizes behave as the whole numbers that they stand for."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from detc.compiler import dims
from detc.compiler.dims import H, Size, W

# A chain of steps on a size: the symbolic one, and the same on a number.
Step = tuple[Callable[[Size], Size], Callable[[int], int]]


def convolution(kernel: int, stride: int, padding: int) -> Step:
    def symbolic(x: Size) -> Size:
        return dims.add(dims.floordiv(dims.add(x, 2 * padding - kernel), stride), 1)

    return symbolic, lambda x: (x + 2 * padding - kernel) // stride + 1


steps = st.one_of(
    st.builds(convolution, st.integers(1, 7), st.integers(1, 3), st.integers(0, 3)),
    st.builds(lambda k: ((lambda x: dims.mul(x, k)), (lambda x: x * k)), st.integers(1, 4)),
    st.builds(lambda k: ((lambda x: dims.minimum(x, k)), (lambda x: min(x, k))), st.integers(1, 50)),
)


@given(chain=st.lists(steps, max_size=6), height=st.integers(1, 2000))
def test_a_chain_evaluates_as_whole_numbers_do(chain: list[Step], height: int) -> None:
    size: Size = H
    number = height
    for symbolic, plain in chain:
        size, number = symbolic(size), plain(number)
    assert dims.evaluate(size, 1, height, 1) == number


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_convolutions_keep_one_form(layers: list[tuple[int, int, int]]) -> None:
    size: Size = H
    for layer in layers:
        size = convolution(*layer)[0](size)
    # floor((H + a) / s), or H + a: never a nest.
    depth = 0
    while isinstance(size, dims.Dim) and size.operator != "var":
        size = size.operands[0]  # type: ignore[assignment]
        depth += 1
    assert depth <= 2


def test_equal_sizes_need_no_divisor() -> None:
    by_convolutions = convolution(3, 2, 1)[0](convolution(3, 2, 1)[0](H))
    by_stride_four = dims.floordiv(dims.add(H, 3), 4)
    assert dims.divisor_for(by_convolutions, by_stride_four) == 1
    assert str(by_convolutions) == "ceil(H/4)"


def test_the_divisor_is_the_least_that_makes_sizes_equal() -> None:
    coarse = dims.floordiv(dims.add(H, 127), 128)
    fine = dims.floordiv(dims.add(H, 63), 64)
    assert dims.divisor_for(dims.mul(2, coarse), fine) == 128
    assert dims.divisor_for(dims.floordiv(H, 8), dims.floordiv(dims.add(H, 7), 8)) == 8


def test_sizes_that_never_agree_have_no_divisor() -> None:
    assert dims.divisor_for(H, dims.add(H, -2)) is None
    assert dims.divisor_for(H, W) is None
    assert dims.divisor_for(dims.floordiv(H, 8), dims.floordiv(H, 16)) is None


def _chained(chain: list[Step]) -> Size:
    size: Size = H
    for symbolic, _ in chain:
        size = symbolic(size)
    return size


sizes = st.lists(steps, max_size=3).map(_chained)


@given(a=sizes, b=sizes, divisor=st.sampled_from([1, 2, 3, 4, 8, 32]))
def test_equal_is_what_trying_every_image_finds(a: Size, b: Size, divisor: int) -> None:
    heights = range(divisor, 1500, divisor)
    tried = all(dims.evaluate(a, 1, h, 1) == dims.evaluate(b, 1, h, 1) for h in heights)
    assert dims.equal(a, b, divisor) == tried


def test_coarse_strides_differ_though_small_images_do_not_tell() -> None:
    assert not dims.equal(dims.floordiv(H, 256), dims.floordiv(H, 512))
    assert not dims.equal(dims.floordiv(H, 256), dims.floordiv(dims.add(H, -1), 256))
    assert dims.divisor_for(dims.floordiv(H, 256), dims.floordiv(dims.add(H, -1), 256)) is None
    assert dims.divisor_for(dims.floordiv(H, 256), dims.floordiv(dims.add(H, 1), 256)) == 2
