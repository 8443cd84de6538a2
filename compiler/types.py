"""Types of the graph's values."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from detc.compiler.dims import Size, evaluate


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor. With four dimensions (N, C, H, W) it is a feature, and `stride` says how many image pixels its cells
    are apart; a feature without a grid (after global pooling) has stride None."""

    shape: tuple[Size, ...]
    dtype: str = "float32"
    stride: Fraction | None = None

    @property
    def is_feature(self) -> bool:
        return len(self.shape) == 4

    @property
    def channels(self) -> int:
        """Channels of a feature."""
        channels = self.shape[1]
        assert isinstance(channels, int)
        return channels

    @property
    def height(self) -> Size:
        return self.shape[2]

    @property
    def width(self) -> Size:
        return self.shape[3]

    def at(self, n: int, h: int, w: int, g: int = 0, p: int = 1000, m: int = 0) -> tuple[int, ...]:
        """The shape for a batch of n images of h x w pixels; the other sizes as those of `dims.evaluate`."""
        return tuple(evaluate(d, n, h, w, g, p, m) for d in self.shape)

    def __str__(self) -> str:
        dims = ", ".join(str(d) for d in self.shape)
        stride = "" if self.stride is None else f" /{self.stride}"
        return f"{self.dtype}[{dims}]{stride}"
