"""LVIS's frequencies: how many training images show a class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detc.runtime.data.coco import FREQUENCIES


def mean_by_frequency(values: Sequence[float], frequencies: Sequence[str]) -> dict[str, float]:
    """The mean of the classes of each frequency that have a figure; nan where none has."""
    means = {}
    for name in FREQUENCIES:
        known = [v for v, frequency in zip(values, frequencies, strict=True) if frequency == name and not np.isnan(v)]
        means[name] = float(np.mean(known)) if known else np.nan
    return means
