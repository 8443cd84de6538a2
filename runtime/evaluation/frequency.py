"""LVIS's frequencies: how many training images show a class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Gupta et al., "LVIS", CVPR 2019, section 4: rare, common and frequent classes.
FREQUENCIES = ("rare", "common", "frequent")
MOST_RARE, MOST_COMMON = 10, 100


def class_frequencies(annotations: Path) -> dict[str, str]:
    """The frequency of each class of an LVIS annotation file that tells it, by name.

    Version 1 states it as "frequency"; version 0.5 has the number of training images of the class, "image_count".
    The file is one that `read_lvis` has read.
    """
    categories = json.loads(annotations.read_bytes())["categories"]
    known = {category["name"]: _frequency(category) for category in categories}
    return {name: frequency for name, frequency in known.items() if frequency}


def _frequency(category: Mapping[str, Any]) -> str:
    stated = {name[0]: name for name in FREQUENCIES}.get(str(category.get("frequency", ""))[:1])
    if stated:
        return stated
    count = category.get("image_count")
    if not isinstance(count, int) or count < 1:
        return ""
    return FREQUENCIES[0] if count <= MOST_RARE else FREQUENCIES[1] if count <= MOST_COMMON else FREQUENCIES[2]


def mean_by_frequency(values: Sequence[float], frequencies: Sequence[str]) -> dict[str, float]:
    """The mean of the classes of each frequency that have a figure; nan where none has."""
    means = {}
    for name in FREQUENCIES:
        known = [v for v, frequency in zip(values, frequencies, strict=True) if frequency == name and not np.isnan(v)]
        means[name] = float(np.mean(known)) if known else np.nan
    return means
