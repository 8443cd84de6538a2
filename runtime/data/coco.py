"""Reading annotations in COCO's JSON form, and in LVIS's, which is built on it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from detc.dsl.catalogue.data import ANNOTATION_UNREADABLE, DUPLICATE_ID
from detc.runtime.data.masks import Mask, MaskProblem, read_mask
from detc.runtime.data.raw import (
    Fault,
    Findings,
    Judged,
    RawImage,
    RawObject,
    RawSource,
    fail,
    image_path,
    must_be_there,
)

LARGEST_FILE = 8 << 30
NOWHERE = (math.nan, math.nan, math.nan, math.nan)
T = TypeVar("T")
# Gupta et al., "LVIS", CVPR 2019, section 4: rare, common and frequent classes.
FREQUENCIES = ("rare", "common", "frequent")
MOST_RARE, MOST_COMMON = 10, 100


def read_coco(annotations: Path, images: Path, masks: bool = False, findings: Findings | None = None) -> RawSource:
    """The images and objects of a COCO annotation file whose images lie in the folder `images`.

    With `masks`, what its `segmentation` says of every object is read too. All faults of the file are reported at once,
    or kept in `findings`, where it keeps going, and their entries left out.

    Raises:
        DiagnosticError: data-missing, annotation-unreadable, duplicate-id, path-outside.
    """
    return _read(annotations, images, masks, False, findings or Findings())


def read_lvis(annotations: Path, images: Path, masks: bool = False, findings: Findings | None = None) -> RawSource:
    """As `read_coco`, of an LVIS annotation file, of version 0.5 or 1.

    Raises:
        DiagnosticError: as `read_coco`.
    """
    return _read(annotations, images, masks, True, findings or Findings())


def _read(annotations: Path, images: Path, masks: bool, lvis: bool, findings: Findings) -> RawSource:
    must_be_there(files=[annotations], folders=[images])
    content = _load(annotations)

    def each(entries: Iterable[dict[str, Any]], read: Callable[[dict[str, Any]], T]) -> list[T]:
        done = []
        for entry in entries:
            try:
                done.append(read(entry))
            except Fault as fault:
                findings.add(fault.kind, f"{annotations}: {fault.what}", fault.where)
        return done

    names: dict[int, str] = {}
    known: set[str] = set()
    frequencies: dict[str, str] = {}
    raw: dict[int, RawImage] = {}
    objects: dict[int, list[RawObject]] = {}
    categories = _entries(content, "categories", annotations)
    entries = _entries(content, "images", annotations)
    # Also of entries with a fault, of which nothing more is to be said.
    declared = {
        key: {e["id"] for e in listed if isinstance(e.get("id"), int)}
        for key, listed in (("category_id", categories), ("image_id", entries))
    }

    def category(entry: dict[str, Any]) -> None:
        number, name = _get(entry, "id", int), _get(entry, "name", str)
        if number in names or name in known:
            raise Fault(DUPLICATE_ID, "categories of the same id or name as another", f"{name} ({number})")
        names[number] = name
        known.add(name)
        if lvis and (frequency := _frequency(entry)):
            frequencies[name] = frequency

    def image(entry: dict[str, Any]) -> None:
        path = image_path(images, _lvis_name(entry) if lvis else _get(entry, "file_name", str))
        findings.listed.add(path)
        number, size = _get(entry, "id", int), (_get(entry, "width", int), _get(entry, "height", int))
        if number in raw:
            raise Fault(DUPLICATE_ID, "images of the same id as another", f"{path.name} ({number})")
        objects[number] = []
        raw[number] = RawImage(path, size, objects[number], number, judged=_judged(entry, names) if lvis else None)

    def annotation(entry: dict[str, Any]) -> None:
        numbers = {key: _get(entry, key, int) for key in ("image_id", "category_id")}
        for key, number in numbers.items():
            if number not in declared[key]:
                what = f"annotations whose {key} is not declared"
                raise Fault(ANNOTATION_UNREADABLE, what, f"annotation {entry.get('id')} ({number})")
        if numbers["image_id"] in raw and numbers["category_id"] in names:
            size = raw[numbers["image_id"]].size
            mask = _mask(entry, size) if masks and size is not None else None
            objects[numbers["image_id"]].append(_object(entry, names[numbers["category_id"]], mask))

    each(categories, category)
    each(entries, image)
    each(_entries(content, "annotations", annotations), annotation)
    findings.settle()
    numbers = {name: number for number, name in names.items()}
    # LVIS annotates a part of COCO's images.
    folder = None if lvis else images
    return RawSource(str(annotations), list(raw.values()), numbers, masks, frequencies, folder)


def _frequency(category: dict[str, Any]) -> str:
    """The frequency of a category of LVIS, or "" where the file does not say.

    Version 1 states it as "frequency"; version 0.5 has the number of training images of the class, "image_count".
    """
    stated = {name[0]: name for name in FREQUENCIES}.get(str(category.get("frequency", ""))[:1])
    if stated:
        return stated
    count = category.get("image_count")
    if not isinstance(count, int) or count < 1:
        return ""
    return FREQUENCIES[0] if count <= MOST_RARE else FREQUENCIES[1] if count <= MOST_COMMON else FREQUENCIES[2]


def _object(item: dict[str, Any], name: str, mask: Mask | str | None) -> RawObject:
    box, area = item.get("bbox"), item.get("area")
    numbers = [_float(value) for value in box if isinstance(value, int | float)] if isinstance(box, list) else []
    x, y, width, height = numbers if len(numbers) == 4 else NOWHERE
    known_area = _float(area) if isinstance(area, int | float) else None
    return RawObject(name, (x, y, x + width, y + height), known_area, bool(item.get("iscrowd", 0)), mask)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond floating point
        return math.inf


def _mask(item: dict[str, Any], size: tuple[int, int]) -> Mask | str:
    try:
        return read_mask(item.get("segmentation"), size)
    except MaskProblem as problem:
        return str(problem)


def _lvis_name(entry: dict[str, Any]) -> str:
    """Where an image of LVIS lies. Version 0.5 has some names of COCO 2014, such as COCO_val2014_000000000042.jpg."""
    if "file_name" not in entry:
        return "/".join(_get(entry, "coco_url", str).split("/")[-2:])
    name: str = _get(entry, "file_name", str)
    return name.rpartition("_")[2] if name.startswith("COCO_") else name


def _judged(entry: dict[str, Any], names: dict[int, str]) -> Judged:
    """What LVIS says of an image beside its objects."""

    def named(key: str) -> frozenset[str]:
        numbers = entry.get(key, [])
        if not isinstance(numbers, list) or not all(isinstance(n, int) and n in names for n in numbers):
            what = f'images whose "{key}" is no list of category ids'
            raise Fault(ANNOTATION_UNREADABLE, what, f"image {entry['id']}")
        return frozenset(names[n] for n in numbers)

    return Judged(named("neg_category_ids"), named("not_exhaustive_category_ids"))


def _load(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_FILE:
        fail(ANNOTATION_UNREADABLE, path, "the file is larger than 8 GiB")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        fail(ANNOTATION_UNREADABLE, path, f"not JSON ({error})")
    if not isinstance(content, dict):
        fail(ANNOTATION_UNREADABLE, path, "not an object with images, annotations and categories")
    return content


def _entries(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        fail(ANNOTATION_UNREADABLE, path, f'no list of objects under "{name}"')
    return entries


def _get(entry: dict[str, Any], name: str, kind: type) -> Any:
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Fault(ANNOTATION_UNREADABLE, f'entries that lack "{name}" or have another type there', entry)
    return value
