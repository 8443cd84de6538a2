"""Reading annotations in COCO's JSON form, and in LVIS's, which is built on it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from detc.dsl.catalogue.data import ANNOTATION_UNREADABLE, DATA_MISSING, DUPLICATE_ID, PATH_OUTSIDE
from detc.dsl.diagnostics import DiagnosticError, Kind
from detc.runtime.data.dataset import Findings, Judged, RawImage, RawObject, RawSource
from detc.runtime.data.masks import Mask, MaskProblem, read_mask

LARGEST_FILE = 8 << 30
NOWHERE = (math.nan, math.nan, math.nan, math.nan)
T = TypeVar("T")


class _Fault(Exception):
    """What is wrong with one entry of a file, in words for a count of such, and which entry it is."""

    def __init__(self, kind: Kind, what: str, where: object) -> None:
        super().__init__(what)
        self.kind, self.what, self.where = kind, what, str(where)[:80]


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
    for path, there in ((annotations, annotations.is_file()), (images, images.is_dir())):
        if not there:
            hint = "--data ROOT on the command line says where the data lies"
            raise DiagnosticError(DATA_MISSING.at(None, f"{path} is not there", detail=hint))
    content = _load(annotations)

    def each(entries: Iterable[dict[str, Any]], read: Callable[[dict[str, Any]], T]) -> list[T]:
        done = []
        for entry in entries:
            try:
                done.append(read(entry))
            except _Fault as fault:
                findings.add(fault.kind, f"{annotations}: {fault.what}", fault.where)
        return done

    names: dict[int, str] = {}
    known: set[str] = set()
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
            raise _Fault(DUPLICATE_ID, "categories of the same id or name as another", f"{name} ({number})")
        names[number] = name
        known.add(name)

    def image(entry: dict[str, Any]) -> None:
        number, size = _get(entry, "id", int), (_get(entry, "width", int), _get(entry, "height", int))
        path = _image_path(images, _lvis_name(entry) if lvis else _get(entry, "file_name", str))
        if number in raw:
            raise _Fault(DUPLICATE_ID, "images of the same id as another", f"{path.name} ({number})")
        objects[number] = []
        raw[number] = RawImage(path, size, objects[number], number, judged=_judged(entry, names) if lvis else None)

    def annotation(entry: dict[str, Any]) -> None:
        numbers = {key: _get(entry, key, int) for key in ("image_id", "category_id")}
        for key, number in numbers.items():
            if number not in declared[key]:
                what = f"annotations whose {key} is not declared"
                raise _Fault(ANNOTATION_UNREADABLE, what, f"annotation {entry.get('id')} ({number})")
        if numbers["image_id"] in raw and numbers["category_id"] in names:
            size = raw[numbers["image_id"]].size
            mask = _mask(entry, size) if masks and size is not None else None
            objects[numbers["image_id"]].append(_object(entry, names[numbers["category_id"]], mask))

    each(categories, category)
    each(entries, image)
    each(_entries(content, "annotations", annotations), annotation)
    findings.settle()
    return RawSource(str(annotations), list(raw.values()), {name: number for number, name in names.items()}, masks)


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
            raise _Fault(ANNOTATION_UNREADABLE, what, f"image {entry['id']}")
        return frozenset(names[n] for n in numbers)

    return Judged(named("neg_category_ids"), named("not_exhaustive_category_ids"))


def _load(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_FILE:
        _fail(ANNOTATION_UNREADABLE, path, "the file is larger than 8 GiB")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        _fail(ANNOTATION_UNREADABLE, path, f"not JSON ({error})")
    if not isinstance(content, dict):
        _fail(ANNOTATION_UNREADABLE, path, "not an object with images, annotations and categories")
    return content


def _entries(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        _fail(ANNOTATION_UNREADABLE, path, f'no list of objects under "{name}"')
    return entries


def _get(entry: dict[str, Any], name: str, kind: type) -> Any:
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Fault(ANNOTATION_UNREADABLE, f'entries that lack "{name}" or have another type there', entry)
    return value


def _image_path(folder: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise _Fault(PATH_OUTSIDE, f"images named outside {folder}", repr(name))
    return folder / name


def _fail(kind: Kind, path: Path, reason: str) -> NoReturn:
    raise DiagnosticError(kind.at(None, f"{path}: {reason}"))
