"""Pixels in: what targets share of fitting images of any size into the size that a detector is compiled for.

An artifact takes `pixels` (N, h, w, 3) uint8 in blue, green, red, and `sizes` (N, 2) int64: the height and width of
each image, which lies in the top left of its h x w. In the graph each is scaled to the largest size within the
detector's that keeps its ratio (`runtime.data.transforms.fit_inside`), bilinearly, normalised, and padded with zeros to
its right and below; boxes go back the same way and are cut at the image's border.

Scaling is that of OpenCV's `resize` of bytes with `INTER_LINEAR`, to the last bit. Along an axis of `source` pixels
that become `target`, the pixel x lies at

    ((2 x + 1) source - target) / (2 target)        a quotient in double precision, rounded to single

between the pixels before and after it, of which the latter counts round(2048 part), half to even, and the former the
rest of 2048. Sums along x, s, are whole; along y it is

    ((before (s_above >> 4) >> 16) + (after (s_below >> 4) >> 16) + 2) >> 2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# What the shares of two neighbours add up to.
ONE = 2048


@dataclass(frozen=True)
class Letterbox:
    """How pixels are normalised: less `mean`, over `std`, in the order of channels "rgb" or "bgr" which they have."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str = "rgb"

    @property
    def channels(self) -> tuple[int, int, int]:
        """Which channel of the pixels, which are blue, green, red, becomes each of the detector's."""
        return (2, 1, 0) if self.order == "rgb" else (0, 1, 2)

    @property
    def means(self) -> np.ndarray:
        """What is subtracted from each of the detector's channels, (3,) float32."""
        return np.asarray(self.mean, np.float32)

    @property
    def scales(self) -> np.ndarray:
        """What each is multiplied with then, (3,) float32."""
        return (1 / np.asarray(self.std, np.float64)).astype(np.float32)
