"""Weights and inputs that two implementations of a detector can make each for itself.

A tensor follows from its state-dict key and shape alone, an image from its size: numpy's RandomState, seeded with the
CRC-32 of a name, gives the same stream in every version of numpy. Whoever ports a model can so compare it with the
original without exchanging files.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Objects in an image of 256 x 384 pixels: x1, y1, x2, y2, and a class each.
BOXES: Array = np.array(
    [(20, 30, 110, 160), (150, 60, 330, 220), (210, 20, 260, 70), (300, 150, 316, 170)], dtype=np.float32
)
LABELS: Array = np.array((0, 2, 1, 0), dtype=np.int64)


def _stream(name: str, shape: Sequence[int]) -> Array:
    """Uniform in [-1, 1), float32."""
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return generator.uniform(-1.0, 1.0, tuple(shape)).astype(np.float32)


def weight(key: str, shape: Sequence[int]) -> Array | None:
    """The value of a floating-point weight, float32; None for one that keeps its own.

    Matrices and kernels have variance 1 / fan_in, where fan_in is the product of all dimensions but the first, so that
    activations keep their size through a network. Scales lie around 1, variances within [1, 1.3), other vectors and
    scalars within 0.1 of 0. Sparse R-CNN's initial proposals are the whole image.
    """
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return None
    if key.endswith("init_proposal_bboxes.weight"):
        return np.full((shape[0], 4), (0.5, 0.5, 1.0, 1.0), np.float32)
    values = _stream(key, shape)
    if len(shape) > 1:
        fan_in = max(1, math.prod(shape[1:]))
        return (values.astype(np.float64) * math.sqrt(3.0 / fan_in)).astype(np.float32)
    if leaf == "running_var":
        return np.float32(1.0) + np.float32(0.3) * np.abs(values)
    if leaf in ("weight", "scale", "gamma"):
        return np.float32(1.0) + np.float32(0.2) * values
    return np.float32(0.1) * values


def image(height: int, width: int, batch: int = 1) -> Array:
    """(batch, 3, height, width) float32, as if normalised already: waves, so that there is structure, and noise."""
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    planes = np.empty((batch, 3, height, width), np.float32)
    for b in range(batch):
        for c in range(3):
            wave = np.sin(x / np.float32(7 + 3 * c + b) + np.float32(b))
            wave = wave + np.cos(y / np.float32(11 + 2 * c) - np.float32(b))
            planes[b, c] = wave + np.float32(0.5) * _stream(f"image/{b}/{c}", (height, width))
    return planes


def masks(height: int, width: int) -> Array:
    """(4, height, width) uint8: 1 within the ellipse that fills each of `BOXES`, by the centres of pixels."""
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)
    x1, y1, x2, y2 = BOXES.T[:, :, None, None]
    across = (x - (x1 + x2) / 2) / ((x2 - x1) / 2)
    down = (y - (y1 + y2) / 2) / ((y2 - y1) / 2)
    return (across**2 + down**2 <= 1).astype(np.uint8)


def sample(values: Array, count: int = 64) -> Array:
    """At most `count` of the values, float64, at places that follow from how many there are."""
    flat = np.asarray(values, np.float64).ravel()
    if flat.size <= count:
        return flat
    places = np.random.RandomState(flat.size % 2**32).choice(flat.size, count, replace=False)
    return flat[np.sort(places)]
