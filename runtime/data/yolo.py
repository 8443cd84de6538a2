"""Reading the text form of YOLO: folders of images with folders of labels beside them, and a file with class names."""

from __future__ import annotations

import math
import os.path
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detc.dsl.catalogue.data import ANNOTATION_UNREADABLE, CLASSES_MISMATCH, DATA_MISSING, DUPLICATE_ID, PATH_OUTSIDE
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.images import images_below, is_file, is_folder
from detc.runtime.data.masks import NO_MASK, Mask, MaskProblem, read_mask
from detc.runtime.data.raw import Fault, Findings, RawImage, RawObject, RawSource, fail, must_be_there

YAML_SUFFIXES = (".yaml", ".yml")
# Where the names of the classes lie; labelImg writes them among the labels.
USUAL_NAMES = ("data.yaml", "classes.txt", "labels/classes.txt")
LARGEST_NAMES, LARGEST_LABELS, LARGEST_LIST = 4 << 20, 32 << 20, 1 << 30
# Shares of an image may be rounded to a little less than nothing or more than all of it.
_LEAST, _MOST = -0.01, 1.01
_NO_LABELS = "classes.txt"


@dataclass(frozen=True)
class _Described:
    """What a file of class names says: those by number, where the images of each part lie, whether boxes have
    keypoints."""

    names: dict[int, str]
    parts: Mapping[str, Any] = field(default_factory=dict)
    keypoints: bool = False


def read_yolo(
    root: Path,
    images: str,
    file: str | None = "data.yaml",
    classes: Sequence[str] | None = None,
    masks: bool = False,
    findings: Findings | None = None,
) -> RawSource:
    """The images and objects of one part of a data set in the text form of YOLO, all of whose files lie below `root`.

    `file` has the names of the classes: YAML as Ultralytics has it, or text with a name a line. `images` is a part of
    the YAML ("train"), or a folder of images or a list of them. Without a file, the names are `classes` in their order,
    or the numbers themselves. Labels lie where `images` in the path of an image becomes `labels`, or else beside it. An
    image without a label file has no object; a label file without an image is an image that is missing. Class n has
    id n + 1.

    All faulty label files are reported at once, or kept in `findings`, where it keeps going, and left out.

    Raises:
        DiagnosticError: data-missing, annotation-unreadable, path-outside, duplicate-id, classes-mismatch.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 (a symbolic link stays what it is)
    findings = findings or Findings()
    described = _Described({}) if file is None else _describe(root / file)
    if file is None and classes is not None:
        described = _Described(dict(enumerate(classes)))
        _compare_names(root, described.names, findings)
    base = (root / file).parent if file is not None and images in described.parts else root
    read = []
    for place in _places(root, base, images, described):
        listed = _listed(root, place, findings)
        labels = {path: _label_path(root, path) for path in listed}
        read += [_image(path, labels[path], described, masks, findings) for path in listed]
        if place.is_dir():
            read += _without_image(root, place, set(labels.values()))
    findings.settle()
    where = f"{root / file}: {images}" if file is not None else str(root / images)
    names = {name: number + 1 for number, name in described.names.items()}
    return RawSource(where, read, names or None, masks)


def _describe(file: Path) -> _Described:
    must_be_there(files=[file])
    if file.stat().st_size > LARGEST_NAMES:
        fail(ANNOTATION_UNREADABLE, file, "the file is larger than 4 MiB")
    try:
        text = file.read_text("utf-8-sig")
        if file.suffix.lower() not in YAML_SUFFIXES:
            names = [line.strip() for line in text.splitlines() if line.strip()]
            return _Described(_checked_names(file, dict(enumerate(names))))
        # BaseLoader makes nothing but text, lists and mappings of what it reads: a class called `no` keeps its name.
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fail(ANNOTATION_UNREADABLE, file, f"not YAML ({' '.join(str(error).split())[:200]})")
    if not isinstance(content, dict):
        fail(ANNOTATION_UNREADABLE, file, "not a mapping with names")
    listed = content.get("names")
    numbered = dict(enumerate(listed)) if isinstance(listed, list) else listed
    if not isinstance(numbered, dict) or not all(isinstance(name, str) and name for name in numbered.values()):
        fail(ANNOTATION_UNREADABLE, file, 'no list of class names, or mapping from numbers to them, under "names"')
    if not all(str(number).isdecimal() and len(str(number)) < 7 for number in numbered):
        fail(ANNOTATION_UNREADABLE, file, '"names" has a key that is not the number of a class')
    names = _checked_names(file, {int(number): name for number, name in numbered.items()})
    if content.get("nc", str(len(names))) != str(len(names)):
        summary = f"{file} says nc: {content['nc']}, and names {len(names)} classes"
        raise DiagnosticError(CLASSES_MISMATCH.at(None, summary, notes=(f"its names: {', '.join(names.values())}",)))
    parts = {key: value for key, value in content.items() if isinstance(key, str)}
    return _Described(names, parts, "kpt_shape" in content)


def _compare_names(root: Path, names: dict[int, str], findings: Findings) -> None:
    """Adds an error where a file that lies there gives the numbers of the spec's classes to others."""
    for file in (root / name for name in USUAL_NAMES):
        if not file.is_file():
            continue
        try:
            other = _describe(file).names
        except DiagnosticError:
            continue  # the spec says that it is not to be read
        if other != names:
            hint = f'file = "{file.relative_to(root).as_posix()}" in Yolo(...) takes its names, whatever their order'
            summary = f"{file} gives the classes other numbers than the spec, which is to number them"
            lists = (f"the spec's classes: {', '.join(names.values())}", f"the file's: {', '.join(other.values())}")
            findings.fail(CLASSES_MISMATCH.at(None, summary, detail=hint, notes=lists))


def _checked_names(file: Path, names: dict[int, str]) -> dict[int, str]:
    if not names:
        fail(ANNOTATION_UNREADABLE, file, "no class names")
    repeated = [name for name, count in Counter(names.values()).items() if count > 1]
    if repeated:
        fail(DUPLICATE_ID, file, f"classes of the same name as another: {', '.join(repeated[:5])}")
    return dict(sorted(names.items()))


def _places(root: Path, base: Path, images: str, described: _Described) -> list[Path]:
    """The folders and lists that `images` stands for."""
    entry = described.parts.get(images, images)
    values = entry if isinstance(entry, list) else [entry]
    if not values or not all(isinstance(value, str) and value and "\0" not in value for value in values):
        summary = f'"{images}" is neither a path nor a list of paths'
        raise DiagnosticError(ANNOTATION_UNREADABLE.at(None, summary))
    own = described.parts.get("path")
    bases = [base]
    if isinstance(own, str) and "\0" not in own and _inside(root, base / own) and is_folder(base / own):
        bases.insert(0, base / own)
    found = []
    for value in values:
        # Roboflow writes ../train/images for train/images.
        tried = [place / v for v in (value, value.removeprefix("../")) for place in bases]
        known = [Path(os.path.normpath(path)) for path in tried if _inside(root, path)]
        if not known:
            hint = f"paths are relative to the folder of the file that has them, and lie below {root}"
            raise DiagnosticError(PATH_OUTSIDE.at(None, f"{value[:200]} leads out of {root}", detail=hint))
        there = [path for path in known if is_folder(path) or is_file(path)]
        if not there:
            parts = ", ".join(key for key in described.parts if key in ("train", "val", "test"))
            hint = f"the file names: {parts}" if parts else "--data ROOT on the command line says where the data lies"
            raise DiagnosticError(DATA_MISSING.at(None, f"{str(known[0])[:400]} is not there", detail=hint))
        found.append(there[0])
    return found


def _inside(root: Path, path: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(root)


def _listed(root: Path, place: Path, findings: Findings) -> list[Path]:
    """The images in a folder, or of a list with a path a line, relative to the list."""
    if place.is_dir():
        return list(images_below(place))
    if place.stat().st_size > LARGEST_LIST:
        fail(ANNOTATION_UNREADABLE, place, "the file is larger than 1 GiB")
    try:
        lines = place.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        fail(ANNOTATION_UNREADABLE, place, f"not text ({error})")
    listed = []
    for line in (line.strip() for line in lines):
        path = place.parent / line
        if line and "\0" not in line and _inside(root, path):
            listed.append(Path(os.path.normpath(path)))
        elif line:
            findings.add(PATH_OUTSIDE, f"{place}: images outside {root}", repr(line[:80]))
    return listed


def _label_path(root: Path, path: Path) -> Path:
    """Where the labels of an image lie, or those of the images of a folder."""
    parts = list(path.relative_to(root).parts)
    places = [index for index, part in enumerate(parts[:-1] if path.suffix else parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    label = root.joinpath(*parts)
    return label.with_suffix(".txt") if path.suffix else label


def _without_image(root: Path, folder: Path, known: set[Path]) -> Iterator[RawImage]:
    """Images that are not there, of the labels of a folder that are."""
    labels = _label_path(root, folder)
    if labels != folder and labels.is_dir():
        for label in sorted(labels.rglob("*.txt")):
            if label not in known and label.name != _NO_LABELS:
                yield RawImage(folder / label.relative_to(labels).with_suffix(".jpg"), None, (), relative=True)


def _image(path: Path, label: Path, described: _Described, masks: bool, findings: Findings) -> RawImage:
    objects = []
    for number, row in enumerate(_rows(label, findings), start=1):
        try:
            if row:
                objects.append(_object(row, f"{label.name}:{number}", described, masks))
        except Fault as fault:
            findings.add(fault.kind, f"{label.parent}: {fault.what}", fault.where)
    return RawImage(path, None, objects, relative=True)


def _rows(label: Path, findings: Findings) -> list[list[str]]:
    try:
        if label.stat().st_size > LARGEST_LABELS:
            findings.add(ANNOTATION_UNREADABLE, f"{label.parent}: label files larger than 32 MiB", label.name)
            return []
        return [line.split() for line in label.read_text("utf-8-sig").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        findings.add(ANNOTATION_UNREADABLE, f"{label.parent}: label files that cannot be read", label.name)
        return []


def _object(row: list[str], where: str, described: _Described, masks: bool) -> RawObject:
    try:
        numbers = [float(word) for word in row]
    except ValueError:
        raise Fault(ANNOTATION_UNREADABLE, "rows that are not numbers", where) from None
    label, shares = numbers[0], numbers[1:]
    if described.keypoints:
        shares = shares[:4]
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        what = "rows that are neither a class with x, y, width and height nor a class with a polygon of three points"
        raise Fault(ANNOTATION_UNREADABLE, what, where)
    if not all(math.isfinite(share) and _LEAST <= share <= _MOST for share in shares):
        what = "rows with a number outside 0 to 1, though boxes are shares of the image's width and height"
        raise Fault(ANNOTATION_UNREADABLE, what, where)
    name = _name(label, where, described)
    if len(shares) == 4:
        x, y, width, height = shares
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return RawObject(name, box, mask=NO_MASK if masks else None)
    across, down = shares[0::2], shares[1::2]
    box = (min(across), min(down), max(across), max(down))
    return RawObject(name, box, _area(across, down), mask=_mask(shares) if masks else None)


def _name(label: float, where: str, described: _Described) -> str:
    if not label.is_integer() or label < 0:
        raise Fault(ANNOTATION_UNREADABLE, "rows whose class is not a whole number from 0", where)
    if not described.names:
        return str(int(label))
    if int(label) not in described.names:
        numbers = [*described.names]
        what = (
            f"rows of a class that has no name: the {len(numbers)} names are of classes {numbers[0]} to {numbers[-1]}"
        )
        raise Fault(CLASSES_MISMATCH, what, f"{where} (class {int(label)})")
    return described.names[int(label)]


def _area(across: list[float], down: list[float]) -> float:
    """The area of a polygon."""
    pairs = zip(across, down, across[1:] + across[:1], down[1:] + down[:1], strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in pairs)) / 2


def _mask(shares: list[float]) -> Mask | str:
    try:
        return read_mask([shares], (1, 1))
    except MaskProblem as problem:
        return str(problem)
