"""Annotated images in one form, whatever files they came from, checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detc.dsl.catalogue.data import (
    BAD_BOX,
    BAD_MASK,
    CLASSES_MISMATCH,
    DUPLICATE,
    IMAGE_DAMAGED,
    IMAGE_LEFT_OUT,
    IMAGE_MISSING,
    IMAGE_UNREADABLE,
    NO_OBJECTS,
    SIZE_DISAGREES,
    UNUSED_CLASS,
)
from detc.dsl.diagnostics import Diagnostic, Kind, suggest
from detc.runtime.data.images import ImageProblem, decoded, header_sizes, is_file
from detc.runtime.data.masks import Bitmap, Mask, Polygons
from detc.runtime.data.proposals import Proposals
from detc.runtime.data.raw import Findings, RawImage, RawObject, RawSource, shown

# Iterates over so many things, and may show how far it is.
Watch = Callable[[Iterable[Any], int], Iterable[Any]]


def unwatched(things: Iterable[Any], count: int) -> Iterable[Any]:
    """The `Watch` that shows nothing."""
    return things


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file with its objects.

    `number` identifies it in results, and is the file's own id where it has one. `size` is (width, height) in pixels.
    `boxes` (G, 4) float64 are x1, y1, x2, y2 in pixels as annotated, `labels` (G,) int64 class numbers, `areas` (G,)
    pixels of the object, by which small, medium and large are told apart. `ignored` (G,) marks crowds and difficult
    objects: they are not trained on, and finding them or not does not count.

    Where they were asked for, `masks` are those of the objects, None for one without a usable mask, and `proposals` are
    boxes that somebody proposes. `absent` and `unfinished` are LVIS's: class numbers that the image certainly does not
    show, and those of which it may show more than is annotated; `absent` is None where every class was looked for.
    `unlabelled` is Cityscapes': the pixels of which nobody says what they show.
    """

    number: int
    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray
    masks: tuple[Mask | None, ...] | None = None
    proposals: Proposals | None = None
    absent: frozenset[int] | None = None
    unfinished: frozenset[int] = frozenset()
    unlabelled: Bitmap | None = None

    def trained(self) -> tuple[np.ndarray, np.ndarray, tuple[Mask, ...] | None]:
        """Boxes (T, 4) float32 cut at the image's border, labels (T,), and masks, of the objects that training uses.

        Where masks were asked for, those are the objects that have one.
        """
        width, height = self.size
        boxes = np.clip(self.boxes, 0, [width, height, width, height])
        usable = ~self.ignored & (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
        if self.masks is not None:
            usable &= np.asarray([mask is not None for mask in self.masks], bool)
        rows = np.flatnonzero(usable)
        first: dict[tuple[float, ...], int] = {}
        for row, key in zip(rows.tolist(), np.column_stack([self.boxes, self.labels])[rows].tolist(), strict=True):
            first.setdefault(tuple(key), row)
        rows = np.fromiter(first.values(), np.int64, len(first))
        masks = None if self.masks is None else tuple(mask for row in rows if (mask := self.masks[row]) is not None)
        return boxes[rows].astype(np.float32), self.labels[rows], masks


@dataclass(frozen=True)
class Dataset:
    """The images of one split. `category_ids` are the ids of the classes in results, in the order of `classes`.

    `frequencies` are LVIS's of the classes: "rare", "common" or "frequent", or "" where the files do not say.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[AnnotatedImage, ...]
    frequencies: tuple[str, ...] = ()

    def counts(self) -> list[int]:
        """How many objects of each class there are."""
        counted = Counter(int(label) for image in self.images for label in image.labels)
        return [counted[index] for index in range(len(self.classes))]


def build_dataset(
    sources: Sequence[RawSource],
    classes: Sequence[str] | int,
    strict: bool,
    findings: Findings | None = None,
    decode: bool = False,
    watch: Watch = unwatched,
) -> tuple[Dataset, list[Diagnostic]]:
    """Checks what was read and puts it into one dataset. A number as `classes` takes that many names from the sources.

    `strict` is for an evaluation: an image that is missing, cut off or of another size is an error there, since leaving
    it out would give the figure of another set. Otherwise it is left out and counted.

    `findings` collects what is wrong, and may keep going where it is an error. With `decode`, images are looked at
    whole and not at their beginning and end alone. The images are looked at through `watch`.

    Returns the dataset and warnings about what is left out.
    Raises:
        DiagnosticError: classes-mismatch, no-objects; with `strict` image-missing, image-unreadable, size-disagrees.
    """
    findings = Findings() if findings is None else findings
    classes = _declared_names(sources, classes, findings) if isinstance(classes, int) else tuple(classes)
    category_ids = _match_classes(sources, classes, findings)
    raw = _once(sources, findings)
    findings.listed.update(image.path for image in raw)
    findings.folders.update(source.folder for source in sources if source.folder is not None)
    sizes = _image_sizes(raw, strict, decode, findings, watch)
    findings.settle()
    index = {name: number for number, name in enumerate(classes)}
    taken = {image.number for image in raw if image.number is not None}
    free = iter(range(1, len(raw) + len(taken) + 1))
    wants_masks = any(source.masks for source in sources)
    images = []
    for image in raw:
        size = sizes.get(image.path)
        if size is not None:
            number = image.number if image.number is not None else next(n for n in free if n not in taken)
            images.append(_annotated(image, number, size, index, findings, wants_masks))
    if not any((~image.ignored).any() for image in images):
        where = ", ".join(source.where for source in sources)
        summary = f"{where}: {len(images)} images, and no object of any class"
        findings.fail(NO_OBJECTS.at(None, summary))
    known = {name: frequency for source in sources for name, frequency in source.frequencies.items()}
    frequencies = tuple(known.get(name, "") for name in classes) if known else ()
    return Dataset(classes, category_ids, tuple(images), frequencies), findings.diagnostics()


def classes_differ(trained: Dataset, other: Dataset) -> Diagnostic:
    """What is wrong where the annotations of training and of an evaluation declare other classes."""
    notes = (f"of training: {', '.join(trained.classes)}", f"of validation: {', '.join(other.classes)}")
    summary = "the annotations of training and validation declare other classes"
    return CLASSES_MISMATCH.at(None, summary, notes=notes)


def _match_classes(sources: Sequence[RawSource], classes: tuple[str, ...], findings: Findings) -> tuple[int, ...]:
    """The ids of `classes`, after checking that each is among the sources' names."""
    seen = Counter(item.name for source in sources for image in source.images for item in image.objects)
    declared = [source.names for source in sources if source.names is not None]
    findings.declared.update({s.where: s.names for s in sources if s.names is not None and not s.fixed})
    known = {name for names in declared for name in names} | set(seen)
    unknown = sorted(known - set(classes))
    absent = [name for name in classes if name not in known]
    mismatch = bool(absent) and bool(unknown or declared or len(absent) == len(classes))
    if mismatch:
        hints = [f'"{name}" is not among them{_hint(name, unknown)}' for name in absent[:5]]
        findings.fail(
            CLASSES_MISMATCH.at(
                None,
                f"{len(absent)} of the spec's {len(classes)} classes are not in {', '.join(s.where for s in sources)}",
                detail="; ".join(hints),
                notes=(f"the spec's classes: {', '.join(classes)}", f"the annotations': {', '.join(sorted(known))}"),
            )
        )
    for name in unknown:
        what = f'objects of class "{shown(name)}", which the spec does not list'
        for _ in range(seen[name]):
            findings.add(UNUSED_CLASS, what, name, "left out")
    for name in classes:
        if not seen[name] and not (mismatch and name in absent):
            findings.add(UNUSED_CLASS, "classes without an object here", name)
    if not mismatch and len(declared) == len(sources) and all(names == declared[0] for names in declared):
        return tuple(declared[0][name] for name in classes)
    return tuple(range(1, len(classes) + 1))


def _declared_names(sources: Sequence[RawSource], count: int, findings: Findings) -> tuple[str, ...]:
    """The names that the first source declares, in the order of their ids, after checking that they are so many."""
    declared = sources[0].names or {}
    if len(declared) != count:
        hint = "`data.classes` may be that number, or a list of names"
        summary = f"the spec has {count} classes, {sources[0].where} declares {len(declared)}"
        findings.fail(CLASSES_MISMATCH.at(None, summary, detail=hint))
    return tuple(sorted(declared, key=lambda name: declared[name]))


def _hint(name: str, unknown: list[str]) -> str:
    lowered = {other.lower(): other for other in unknown}
    hint = f'did you mean "{lowered[name.lower()]}"?' if name.lower() in lowered else suggest(name, unknown)
    return f", {hint}" if hint else ""


def _once(sources: Sequence[RawSource], findings: Findings) -> list[RawImage]:
    """All images, each file once. Numbers are kept only where there is one source, since two may use the same."""
    images: dict[Path, RawImage] = {}
    for source in sources:
        for image in source.images:
            if image.path in images:
                findings.add(DUPLICATE, "images listed twice", image.path.name, "used once")
            else:
                images[image.path] = image if len(sources) == 1 else replace(image, number=None)
    return list(images.values())


@dataclass(frozen=True)
class _Look:
    """What looking at an image file gave: its size where it can be used, what is wrong, and its content's hash."""

    size: tuple[int, int] | None
    kind: Kind | None = None
    what: str = ""
    digest: bytes = b""


def _image_sizes(
    images: Sequence[RawImage], strict: bool, decode: bool, findings: Findings, watch: Watch
) -> dict[Path, tuple[int, int]]:
    """The size of every image whose file is there, whole, and as large as its annotation says."""
    sizes = {}
    contents = findings.contents
    pool = ThreadPoolExecutor(8)
    try:
        looks = pool.map(lambda image: _look(image, decode), images)
        for image, look in watch(zip(images, looks, strict=True), len(images)):
            if look.size is not None:
                sizes[image.path] = look.size
            if look.digest and contents.setdefault(look.digest, image.path) != image.path:
                where = f"{image.path.name} as {contents[look.digest].name}"
                findings.add(DUPLICATE, "images with the same content as another", where, "used as if they were two")
            if look.kind is IMAGE_DAMAGED:
                findings.add(look.kind, look.what, str(image.path), "trained and evaluated on as they are")
            elif look.kind is not None and (strict or look.size is not None):
                findings.add(look.kind, look.what, str(image.path))
            elif look.kind is not None:
                findings.add(IMAGE_LEFT_OUT, look.what, str(image.path), "left out")
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all images
    return sizes


def _look(image: RawImage, decode: bool) -> _Look:
    if not is_file(image.path):
        return _Look(None, IMAGE_MISSING, "images missing")
    try:
        sizes = header_sizes(image.path)
    except ImageProblem as problem:
        return _Look(None, IMAGE_UNREADABLE, f"images unreadable ({problem})")
    if image.size is not None and image.size not in sizes:
        return _Look(None, SIZE_DISAGREES, "images of another size than their annotation says")
    size = image.size or sizes[0]
    if not decode:
        return _Look(size)
    try:
        content = decoded(image.path, size)
    except ImageProblem as problem:
        # Its size is known, so a run, which looks at the beginning and the end, would not leave it out.
        return _Look(size, IMAGE_UNREADABLE, f"images that cannot be decoded ({problem})")
    kind, what = (IMAGE_DAMAGED, "images damaged inside") if content.damaged else (None, "")
    return _Look(size, kind, what, content.digest)


def _annotated(
    raw: RawImage, number: int, size: tuple[int, int], index: dict[str, int], findings: Findings, wants_masks: bool
) -> AnnotatedImage:
    objects = [item for item in raw.objects if item.name in index]
    if raw.relative:
        objects = [_in_pixels(item, size) for item in objects]
    boxes = np.asarray([item.box for item in objects], np.float64).reshape(-1, 4)
    labels = np.asarray([index[item.name] for item in objects], np.int64)
    ignored = np.asarray([item.ignored for item in objects], bool)
    with np.errstate(invalid="ignore"):  # nonsense is counted below
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    given = np.asarray([np.nan if item.area is None else item.area for item in objects], np.float64)
    with np.errstate(over="ignore"):
        areas = np.where(np.isfinite(given), given, width * height)

    finite = np.isfinite(boxes).all(1)
    inverted = finite & ((width < 0) | (height < 0))
    flat = finite & ~inverted & ((width == 0) | (height == 0))
    beside = (boxes[:, 0] >= size[0]) | (boxes[:, 1] >= size[1]) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)
    outside = finite & ~inverted & ~flat & beside
    over = (boxes[:, :2] < -1).any(1) | (boxes[:, 2] > size[0] + 1) | (boxes[:, 3] > size[1] + 1)
    crossing = finite & ~inverted & ~flat & ~beside & over
    for mask, what in (
        (~finite, "boxes with a corner that is not a finite number"),
        (inverted, "boxes whose right or lower side comes before the other"),
        (flat, "boxes without an area"),
        (outside, "boxes wholly outside their image"),
        (crossing, "boxes that reach over the border by more than a pixel"),
    ):
        for _ in range(int(mask.sum())):
            then = "cut there for training" if mask is crossing else "left out"
            findings.add(BAD_BOX, what, raw.path.name, then)
    kept = finite & ~inverted & ~flat & ~outside
    keys = np.column_stack([boxes, labels])[kept & ~ignored]
    for _ in range(len(keys) - len(np.unique(keys, axis=0)) if len(keys) else 0):
        findings.add(DUPLICATE, "boxes equal to another of their class", raw.path.name, "trained on once")
    masks = None
    if wants_masks:
        for item in (item for item, stays in zip(objects, kept & ~ignored, strict=True) if stays):
            if isinstance(item.mask, str):
                then = "neither trained on nor counted in the figures of masks"
                findings.add(BAD_MASK, f"objects {item.mask}", raw.path.name, then)
        usable = (None if isinstance(item.mask, str) else item.mask for item in objects)
        masks = tuple(mask for mask, stays in zip(usable, kept, strict=True) if stays)
    judged = raw.judged
    return AnnotatedImage(
        number,
        raw.path,
        size,
        boxes[kept],
        labels[kept],
        areas[kept],
        ignored[kept],
        masks,
        raw.proposals,
        None if judged is None else frozenset(index[name] for name in judged.absent if name in index),
        frozenset() if judged is None else frozenset(index[name] for name in judged.unfinished if name in index),
        raw.unlabelled,
    )


def _in_pixels(item: RawObject, size: tuple[int, int]) -> RawObject:
    """An object whose box, area and polygons are shares of an image of `size`, in its pixels."""
    width, height = size
    x1, y1, x2, y2 = item.box
    mask = item.mask
    if isinstance(mask, Polygons):
        mask = Polygons(tuple(part * (width, height) for part in mask.parts))
    area = None if item.area is None else item.area * width * height
    return replace(item, box=(x1 * width, y1 * height, x2 * width, y2 * height), area=area, mask=mask)
