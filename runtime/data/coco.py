"""Reading annotations in COCO's JSON form, and in LVIS's, which is built on it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from detc.dsl.catalogue.data import ANNOTATION_UNREADABLE, DATA_MISSING, DUPLICATE_ID, PATH_OUTSIDE
from detc.dsl.diagnostics import DiagnosticError, Kind
from detc.runtime.data.dataset import Judged, RawImage, RawObject, RawSource
from detc.runtime.data.masks import Mask, MaskProblem, read_mask

LARGEST_FILE = 8 << 30
NOWHERE = (math.nan, math.nan, math.nan, math.nan)


def read_coco(annotations: Path, images: Path, masks: bool = False) -> RawSource:
    """The images and objects of a COCO annotation file whose images lie in the folder `images`.

    With `masks`, what its `segmentation` says of every object is read too.

    Raises:
        DiagnosticError: data-missing, annotation-unreadable, duplicate-id, path-outside.
    """
    return _read(annotations, images, masks, lvis=False)


def read_lvis(annotations: Path, images: Path, masks: bool = False) -> RawSource:
    """As `read_coco`, of an LVIS annotation file, of version 0.5 or 1.

    Raises:
        DiagnosticError: as `read_coco`.
    """
    return _read(annotations, images, masks, lvis=True)


def _read(annotations: Path, images: Path, masks: bool, lvis: bool) -> RawSource:
    for path, there in ((annotations, annotations.is_file()), (images, images.is_dir())):
        if not there:
            hint = "--data ROOT on the command line says where the data lies"
            raise DiagnosticError(DATA_MISSING.at(None, f"{path} is not there", detail=hint))
    content = _load(annotations)
    categories = _entries(content, "categories", annotations)
    entries = _entries(content, "images", annotations)
    names = {_get(c, "id", int, annotations): _get(c, "name", str, annotations) for c in categories}
    if len(names) < len(categories) or len(set(names.values())) < len(names):
        _fail(DUPLICATE_ID, annotations, "two categories have the same id or name")
    sizes = {
        _get(entry, "id", int, annotations): (
            _get(entry, "width", int, annotations),
            _get(entry, "height", int, annotations),
        )
        for entry in entries
    }
    if len(sizes) < len(entries):
        _fail(DUPLICATE_ID, annotations, "two images have the same id")
    objects: dict[int, list[RawObject]] = {number: [] for number in sizes}
    for item in _entries(content, "annotations", annotations):
        image_id, category = _get(item, "image_id", int, annotations), _get(item, "category_id", int, annotations)
        if image_id not in objects or category not in names:
            what = f"image_id {image_id}" if image_id not in objects else f"category_id {category}"
            _fail(ANNOTATION_UNREADABLE, annotations, f"annotation {item.get('id')} has {what}, which is not declared")
        mask = _mask(item, sizes[image_id]) if masks else None
        objects[image_id].append(_object(item, names[category], mask))
    raw = []
    for entry in entries:
        name = _lvis_name(entry, annotations) if lvis else _get(entry, "file_name", str, annotations)
        path = _image_path(images, name, annotations)
        judged = _judged(entry, names, annotations) if lvis else None
        raw.append(RawImage(path, sizes[entry["id"]], objects[entry["id"]], entry["id"], judged=judged))
    return RawSource(str(annotations), raw, {name: number for number, name in names.items()}, masks)


def _object(item: dict[str, Any], name: str, mask: Mask | str | None) -> RawObject:
    box, area = item.get("bbox"), item.get("area")
    numbers = [float(value) for value in box if isinstance(value, int | float)] if isinstance(box, list) else []
    x, y, width, height = numbers if len(numbers) == 4 else NOWHERE
    known_area = float(area) if isinstance(area, int | float) else None
    return RawObject(name, (x, y, x + width, y + height), known_area, bool(item.get("iscrowd", 0)), mask)


def _mask(item: dict[str, Any], size: tuple[int, int]) -> Mask | str:
    try:
        return read_mask(item.get("segmentation"), size)
    except MaskProblem as problem:
        return str(problem)


def _lvis_name(entry: dict[str, Any], annotations: Path) -> str:
    """Where an image of LVIS lies. Version 0.5 has some names of COCO 2014, such as COCO_val2014_000000000042.jpg."""
    if "file_name" not in entry:
        return "/".join(_get(entry, "coco_url", str, annotations).split("/")[-2:])
    name: str = _get(entry, "file_name", str, annotations)
    return name.rpartition("_")[2] if name.startswith("COCO_") else name


def _judged(entry: dict[str, Any], names: dict[int, str], annotations: Path) -> Judged:
    """What LVIS says of an image beside its objects."""

    def named(key: str) -> frozenset[str]:
        numbers = entry.get(key, [])
        if not isinstance(numbers, list) or not all(isinstance(n, int) and n in names for n in numbers):
            _fail(ANNOTATION_UNREADABLE, annotations, f'"{key}" of image {entry["id"]} is no list of category ids')
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


def _get(entry: dict[str, Any], name: str, kind: type, path: Path) -> Any:
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        _fail(ANNOTATION_UNREADABLE, path, f'an entry lacks "{name}" or has another type there: {str(entry)[:80]}')
    return value


def _image_path(folder: Path, name: str, annotations: Path) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        _fail(PATH_OUTSIDE, annotations, f"names the image {name[:80]!r}, outside {folder}")
    return folder / name


def _fail(kind: Kind, path: Path, reason: str) -> NoReturn:
    raise DiagnosticError(kind.at(None, f"{path}: {reason}"))
