"""What `specs/lib/data.det` declares, as Python reads it. The meaning of each field is documented there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from detc.compiler.values import Record
from detc.runtime.data.augment import JOINING, TRANSFORMS, AnyTransform, has
from detc.runtime.data.external import Albumentations
from detc.runtime.data.mixing import CopyPaste
from detc.runtime.data.records import interpret, list_of, one_of, require
from detc.runtime.data.transforms import Normalize, Resize

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Coco:
    annotations: str
    images: str
    proposals: str | None = None


@dataclass(frozen=True)
class Lvis(Coco):
    pass


@dataclass(frozen=True)
class Voc:
    split: str
    folder: str = ""


@dataclass(frozen=True)
class Cityscapes:
    split: str
    folder: str = ""


@dataclass(frozen=True)
class WiderFace:
    split: str
    folder: str = ""
    smallest: float = 1

    def __post_init__(self) -> None:
        require(0 <= self.smallest <= 10_000, "smallest", "must be from 0 to 10000 pixels")


@dataclass(frozen=True)
class Yolo:
    images: str
    folder: str = ""
    file: str | None = "data.yaml"

    def __post_init__(self) -> None:
        require(bool(self.images), "images", "must be a part of the file, a folder or a list")


Source = Coco | Lvis | Voc | Cityscapes | WiderFace | Yolo
SOURCES = (Coco, Lvis, Voc, Cityscapes, WiderFace, Yolo)


@dataclass(frozen=True)
class Views:
    sizes: tuple[tuple[int, int], ...] = ()
    flip: bool = True

    def __post_init__(self) -> None:
        fine = isinstance(self.sizes, tuple) and all(
            isinstance(size, tuple | list)
            and len(size) == 2
            and all(isinstance(side, int) and 1 <= side <= 16384 for side in size)
            for size in self.sizes
        )
        require(fine, "sizes", "must be a list of [width, height] with sides from 1 to 16384 pixels")
        distinct = {tuple(size) for size in self.sizes}
        require(len(distinct) == len(self.sizes), "sizes", "has the same size twice")
        require(self.flip or len(self.sizes) > 1, "flip", "without mirrored views there must be two sizes")


@dataclass(frozen=True)
class Data:
    classes: tuple[str, ...] | int
    root: str
    train: tuple[Source, ...] = field(metadata=list_of(*SOURCES))
    val: tuple[Source, ...] = field(metadata=list_of(*SOURCES))
    test: tuple[Source, ...] = field(metadata=list_of(*SOURCES))
    augment: tuple[AnyTransform, ...] = field(metadata=list_of(*TRANSFORMS))
    resize: Resize = field(metadata=one_of(Resize))
    normalize: Normalize = field(metadata=one_of(Normalize))
    canvas: tuple[int, int] | None
    pad: int
    batch: int
    keep_empty: bool
    repeat: int = 1
    oversample: float | None = None
    most_proposals: int = 2000
    test_views: Views | None = field(default=None, metadata=one_of(Views))
    last_epochs: int = 0
    last_augment: tuple[AnyTransform, ...] = field(default=(), metadata=list_of(*TRANSFORMS))

    def __post_init__(self) -> None:
        if isinstance(self.classes, int):
            require(0 < self.classes <= 100_000, "classes", "must be from 1 to 100000, or a list of names")
        else:
            named = isinstance(self.classes, tuple) and all(isinstance(name, str) for name in self.classes)
            require(
                named and len(self.classes) > 0, "classes", "must name at least one class, or say how many there are"
            )
            repeated = sorted(name for name, count in Counter(self.classes).items() if count > 1)
            require(not repeated, "classes", f"names {', '.join(repeated)} more than once")
        require(len(self.train) > 0, "train", "must have at least one source")
        require(self.pad >= 1, "pad", "must be at least 1")
        require(1 <= self.batch <= 4096, "batch", "must be from 1 to 4096 images")
        require(1 <= self.repeat <= 10_000, "repeat", "must be from 1 to 10000")
        require(self.oversample is None or 0 < self.oversample <= 1, "oversample", "must be above 0 and at most 1")
        require(1 <= self.most_proposals <= 100_000, "most_proposals", "must be from 1 to 100000")
        require(0 <= self.last_epochs <= 1_000_000, "last_epochs", "must be from 0 to 1000000")
        proposed = any(isinstance(source, Coco) and source.proposals is not None for source in self.train)
        for name in ("augment", "last_augment"):
            alone = not proposed or not has(getattr(self, name), (*JOINING, Albumentations))
            require(alone, name, "proposals cannot go through Albumentations, Mosaic, MixUp or CopyPaste")
        canvas = self.canvas
        require(canvas is None or (len(canvas) == 2 and min(canvas) > 0), "canvas", "must be [width, height] or none")

    @property
    def pastes(self) -> bool:
        """Whether training needs the objects' masks whatever the detector does, to cut them out."""
        return has((*self.augment, *self.last_augment), CopyPaste)

    def sources(self, split: str) -> tuple[Source, ...]:
        """The sources of "train", "val" or "test"."""
        found: tuple[Source, ...] = getattr(self, split)
        return found


def data_settings(record: Record) -> Data:
    """The data settings of a detector.

    Raises:
        DiagnosticError: unknown-record or bad-setting, at the span in the spec.
    """
    settings: Data = interpret(record, (Data,))
    return settings


def data_root(settings: Data, spec: Path, override: Path | None) -> Path:
    """The folder that sources are relative to: `override` (--data) if given, else the spec's own, beside its file."""
    return override if override is not None else spec.parent / settings.root
