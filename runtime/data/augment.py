"""The transforms that a spec may name, and their composition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detc.runtime.data.distort import MinIoURandomCrop, PhotometricDistortion, RandomAffine
from detc.runtime.data.external import Albumentations
from detc.runtime.data.mixing import CopyPaste, MixUp, Mosaic
from detc.runtime.data.records import lists_of, require
from detc.runtime.data.samples import Another, Joining, Sample, Transform
from detc.runtime.data.transforms import (
    ChoiceResize,
    Expand,
    Pad,
    RandomCrop,
    RandomFlip,
    RandomResize,
    RangeCrop,
    RangeResize,
    Resize,
)


@dataclass(frozen=True)
class OneOf:
    policies: tuple[tuple[AnyTransform, ...], ...] = field(metadata=lists_of(lambda: TRANSFORMS))

    def __post_init__(self) -> None:
        require(bool(self.policies), "policies", "must have at least one list of transforms")


AnyTransform = Transform | Joining | OneOf

JOINING = (Mosaic, MixUp, CopyPaste)
TRANSFORMS: tuple[type, ...] = (
    Resize,
    RandomResize,
    ChoiceResize,
    RangeResize,
    RandomCrop,
    RangeCrop,
    MinIoURandomCrop,
    RandomFlip,
    RandomAffine,
    Pad,
    Expand,
    PhotometricDistortion,
    *JOINING,
    Albumentations,
    OneOf,
)


def has(transforms: Sequence[AnyTransform], kinds: Any) -> bool:
    """Whether one of these, or of what they choose from, is of a class."""
    return any(
        any(has(policy, kinds) for policy in transform.policies)
        if isinstance(transform, OneOf)
        else isinstance(transform, kinds)
        for transform in transforms
    )


class Augmentation:
    """Transforms in order, of images that `read` gives by their number, below `count`.

    An image that a transform joins with the sample went through the transforms before the first such one, all driven by
    the sample's own generator: a sample takes a number of images that its transforms bound.
    """

    def __init__(self, transforms: Sequence[AnyTransform], read: Callable[[int], Sample], count: int) -> None:
        joining = (place for place, transform in enumerate(transforms) if has((transform,), JOINING))
        first = next(joining, len(transforms))
        self._each, self._joined = tuple(transforms[:first]), tuple(transforms[first:])
        self._read = read
        self._count = count

    def __call__(self, number: int, rng: np.random.Generator) -> Sample:
        """The augmented image of this number. Raises DiagnosticError where an image cannot be read."""

        def single(number: int) -> Sample:
            return _through(self._each, self._read(number), rng, None)

        return _through(self._joined, single(number), rng, lambda: single(int(rng.integers(self._count))))


def _through(
    transforms: Sequence[AnyTransform], sample: Sample, rng: np.random.Generator, another: Another | None
) -> Sample:
    for transform in transforms:
        if isinstance(transform, OneOf):
            policy = transform.policies[int(rng.integers(len(transform.policies)))]
            sample = _through(policy, sample, rng, another)
        elif isinstance(transform, JOINING):
            assert another is not None
            sample = transform(sample, rng, another)
        else:
            sample = transform(sample, rng)  # type: ignore[call-arg]  # it joins nothing
    return sample
