"""Reading annotations in COCO's JSON form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from detc.dsl.catalogue.data import ANNOTATION_UNREADABLE, DATA_MISSING, DUPLICATE_ID, PATH_OUTSIDE
from detc.dsl.diagnostics import DiagnosticError, Kind
from detc.runtime.data.dataset import RawImage, RawObject, RawSource

LARGEST_FILE = 8 << 30
NOWHERE = (math.nan, math.nan, math.nan, math.nan)


def read_coco(annotations: Path, images: Path) -> RawSource:
    """The images and objects of a COCO annotation file whose images lie in the folder `images`.

    Raises:
        DiagnosticError: data-missing, annotation-unreadable, duplicate-id, path-outside.
    """
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
    objects: dict[int, list[RawObject]] = {_get(entry, "id", int, annotations): [] for entry in entries}
    if len(objects) < len(entries):
        _fail(DUPLICATE_ID, annotations, "two images have the same id")
    for item in _entries(content, "annotations", annotations):
        image_id, category = _get(item, "image_id", int, annotations), _get(item, "category_id", int, annotations)
        if image_id not in objects or category not in names:
            what = f"image_id {image_id}" if image_id not in objects else f"category_id {category}"
            _fail(ANNOTATION_UNREADABLE, annotations, f"annotation {item.get('id')} has {what}, which is not declared")
        objects[image_id].append(_object(item, names[category]))
    raw = [
        RawImage(
            _image_path(images, _get(entry, "file_name", str, annotations), annotations),
            (_get(entry, "width", int, annotations), _get(entry, "height", int, annotations)),
            objects[entry["id"]],
            entry["id"],
        )
        for entry in entries
    ]
    return RawSource(str(annotations), raw, {name: number for number, name in names.items()})


def _object(item: dict[str, Any], name: str) -> RawObject:
    box, area = item.get("bbox"), item.get("area")
    numbers = [float(value) for value in box if isinstance(value, int | float)] if isinstance(box, list) else []
    x, y, width, height = numbers if len(numbers) == 4 else NOWHERE
    known_area = float(area) if isinstance(area, int | float) else None
    return RawObject(name, (x, y, x + width, y + height), known_area, bool(item.get("iscrowd", 0)))


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
