"""What follows a convolution, in kernels that are written as loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from detc.compiler.emit.tvm.module import Epilogue, as_stored, real

# What is done to a result before it is stored, by the tensors given beside the weights, the place (image, row, column)
# and the output channel.
Finish = Callable[[Any, Sequence[Any], tuple[Any, Any, Any], Any], Any]


def finishing(epilogue: Epilogue, shape: tuple[int, ...]) -> Finish:
    """An epilogue of results of this shape, (N, C, H, W), as an expression of each; the tensors are what it adds."""

    def finish(value: Any, others: Sequence[Any], place: tuple[Any, Any, Any], channel: Any) -> Any:
        rest = list(others)
        if epilogue.bias is not None:
            value = value + rest.pop(0)[channel]
        if epilogue.residual is not None:
            image, y, v = place
            (other,) = rest
            _, height, width, _ = (int(d) for d in other.shape)
            value = value + real(other, image, y * height // shape[2], v * width // shape[3], channel)
        return te.max(value, tirx.const(0.0, "float32")) if epilogue.relu else value

    return finish


def store(
    results: Any,
    at: tuple[Any, Any, Any],
    first: Any,
    lanes: int,
    total: Callable[[Any], Any],
    finish: Finish,
    others: Sequence[Any],
) -> None:
    """Stores a vector of output channels of one pixel, from channel `first` on: those that `results` (N, H, W, C) has.

    `total` gives the sum of each lane.
    """

    def one(lane: Any) -> None:
        value = finish(total(lane), others, at, first + lane)
        results[(*at, first + lane)] = as_stored(value, str(results.dtype))

    channels = int(results.shape[-1])
    with T.If(first + lanes <= channels):
        with T.Then(), T.vectorized(0, lanes) as lane:
            one(lane)
        with T.Else(), T.serial(0, lanes) as lane, T.If(first + lane < channels), T.Then():
            one(lane)
