"""Transforms of the Albumentations library (Buslaev et al., Information, 2020), by name. It is an extra of detc's."""

from __future__ import annotations

import inspect
import os
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_masks

from detc.dsl.catalogue.data import AUGMENTATION_FAILED
from detc.dsl.diagnostics import DiagnosticError, suggest
from detc.runtime.data.layers import Layer, PlacedMask, draw_masks
from detc.runtime.data.masks import Bitmap
from detc.runtime.data.records import SettingError, require
from detc.runtime.data.samples import Sample

INSTALL = "pip install detc[albumentations]"
# What takes other images, files, functions, or what a sample does not have; and what makes something else of an image.
_TAKES = frozenset({"reference_images", "read_fn", "font_path", "metadata_key", "cropping_bbox_key"})
_REFUSED = frozenset({"Lambda", "MaskDropout", "Normalize", "ToFloat", "FromFloat", "ToTensorV2"})
_VOLUMES = ("3D", "FrequencyMasking", "TimeMasking", "TimeReverse")


@dataclass(frozen=True)
class Albumentations:
    name: str
    parameters: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        pairs = isinstance(self.parameters, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and _plain(pair[1])
            for pair in self.parameters
        )
        form = 'must be a list of ["name", value], values being numbers, strings or lists of them'
        require(pairs, "parameters", form)
        names = [name for name, _ in self.parameters]
        require(len(set(names)) == len(names), "parameters", "must name each once")
        _composed(self)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Raises DiagnosticError augmentation-failed where the library refuses the image, or makes something else."""
        transform = _composed(self)
        transform.set_random_seed(int(rng.integers(1 << 32)))
        image = cv2.cvtColor(sample.image, cv2.COLOR_BGR2RGB)
        moves = "bboxes" in transform.processors
        given: dict[str, Any] = {"image": image}
        if moves:
            given |= {"bboxes": sample.boxes.astype(np.float64), "rows": np.arange(len(sample.boxes))}
            if sample.masks:
                given["masks"] = [_whole(sample, number) for number in range(len(sample.masks))]
        try:
            made = transform(**given)
        except Exception as error:  # whatever its many transforms raise for an image
            raise self._failed(str(error).strip().splitlines()[0] if str(error).strip() else repr(error)) from error
        image = made["image"]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise self._failed(f"it makes {image.dtype} {list(image.shape)} of an image")
        if not moves:
            if image.shape != sample.image.shape:
                raise self._failed("it moves pixels and not boxes")
            return replace(sample, image=cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        rows = np.asarray(made["rows"], np.int64)
        size = image.shape[1], image.shape[0]
        masks = None
        if sample.masks is not None:
            masks = tuple(PlacedMask(_encoded(made["masks"][row], size)) for row in rows)
        boxes = np.asarray(made["bboxes"], np.float32).reshape(-1, 4)
        pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        return Sample(pixels, boxes, sample.labels[rows], masks, (Layer.whole(size),))

    def _failed(self, reason: str) -> DiagnosticError:
        return DiagnosticError(AUGMENTATION_FAILED.at(None, f'Albumentations("{self.name}"): {reason}'))


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _library() -> ModuleType:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network for a newer version
    try:
        import albumentations
    except ImportError:
        raise SettingError("name", f"needs the library albumentations: {INSTALL}") from None
    module: ModuleType = albumentations
    return module


@lru_cache(maxsize=256)
def _composed(record: Albumentations) -> Any:
    """The library's transform of a record, in a composition that moves boxes and masks where it moves pixels.

    Raises:
        SettingError: the library is not there, has no such transform, or refuses its parameters.
    """
    library = _library()
    known = {
        name: cls
        for name, cls in vars(library).items()
        if inspect.isclass(cls)
        and issubclass(cls, library.ImageOnlyTransform | library.DualTransform)
        and cls not in (library.ImageOnlyTransform, library.DualTransform)
        and not name.endswith(_VOLUMES)
        and name not in _REFUSED
        and not _TAKES & inspect.signature(cls).parameters.keys()
    }
    if record.name not in known:
        what = "is none of the transforms of one image" if hasattr(library, record.name) else "is not there"
        message = f"{what} in albumentations {library.__version__}. {suggest(record.name, known)}"
        raise SettingError("name", message.strip())
    cls = known[record.name]
    parameters = dict(record.parameters)
    allowed = inspect.signature(cls).parameters.keys()
    for name in parameters:
        if name not in allowed:
            hint = suggest(name, allowed) or f"it has {', '.join(allowed)}"
            raise SettingError("parameters", f'{record.name} has no parameter "{name}": {hint}')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # it replaces some values that it cannot use, with a warning
            transform = cls(**parameters)
    except (ValueError, TypeError, UserWarning) as error:
        raise SettingError("parameters", f"{record.name} refuses them: {_reason(error)}") from None
    boxes = library.BboxParams("pascal_voc", ["rows"], min_width=1, min_height=1, clip=True, filter_invalid_bboxes=True)
    return library.Compose([transform], bbox_params=boxes if isinstance(transform, library.DualTransform) else None)


def _reason(error: Exception) -> str:
    """What the library says, without its headings and links."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and "validation error" not in line and "For further information" not in line]
    return " ".join(said).replace("[type=", "(").replace("]", ")")[:300]


def _whole(sample: Sample, number: int) -> np.ndarray:
    """A mask of a sample over its whole image, (height, width) uint8."""
    assert sample.masks is not None
    (window,) = draw_masks(sample.masks[number : number + 1], sample.layers, sample.size)
    pixels = np.zeros(sample.image.shape[:2], np.uint8)
    height, width = window.pixels.shape
    pixels[window.y : window.y + height, window.x : window.x + width] = window.pixels
    return pixels


def _encoded(pixels: np.ndarray, size: tuple[int, int]) -> Bitmap:
    return Bitmap(size, coco_masks.encode(np.asfortranarray(pixels > 0, np.uint8))["counts"])
