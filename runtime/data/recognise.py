"""Data without a spec: what a folder or an annotation file is, from its content."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from detc.dsl.catalogue.data import DATA_UNRECOGNISED
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.images import image_files, is_file
from detc.runtime.data.settings import Cityscapes, Coco, Lvis, Source, Voc, WiderFace, Yolo
from detc.runtime.data.yolo import LARGEST_NAMES, USUAL_NAMES, YAML_SUFFIXES

LISTS = ("train", "val", "test")
# How many folders are looked into for images, and how many images are looked for in each.
MOST_FOLDERS, PROBES = 200, 20
# A value of JSON that is text.
LONGEST_NAME = 1 << 10
_TEXT = re.compile(rb'\s*:\s*("(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")')
_COCO_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_LVIS_KEYS = (b'"not_exhaustive_category_ids"', b'"neg_category_ids"')


@dataclass(frozen=True)
class Part:
    """A part of data: its name, its source, whose paths are absolute, and what it was taken for, in words."""

    name: str
    source: Source
    taken_for: str

    @property
    def evaluated(self) -> bool:
        """Whether it is, by its name, for evaluations: then all of its images must be there."""
        return "train" not in self.name.lower() and any(word in self.name.lower() for word in ("val", "test"))


def recognise(path: Path, split: str | None = None) -> list[Part]:
    """The parts of the data at `path`, or those of a split's name.

    Raises:
        DiagnosticError: data-unrecognised.
    """
    path = path.resolve()
    parts = list(_parts_of_file(path) if path.is_file() else _parts_of_folder(path))
    if not parts:
        what = "is not there" if not path.exists() else "is in no form of data that detc knows"
        hint = "`detc explain data-unrecognised` says how such data lies; SPEC.det takes the data of a spec"
        raise DiagnosticError(DATA_UNRECOGNISED.at(None, f"{path} {what}", detail=hint))
    wanted = [part for part in parts if split is None or part.name == split]
    wanted = wanted or [part for part in parts if split is not None and split in part.name]
    if not wanted:
        summary = f'{path} has no part named after "{split}"'
        detail = f"it has: {', '.join(part.name for part in parts)}"
        raise DiagnosticError(DATA_UNRECOGNISED.at(None, summary, detail=detail))
    return wanted


def _parts_of_file(file: Path) -> Iterator[Part]:
    return _described_parts(file) if file.suffix.lower() in YAML_SUFFIXES else _coco_parts(file)


def _parts_of_folder(folder: Path) -> Iterator[Part]:
    if not folder.is_dir():
        return
    for root in (folder, *_subfolders(folder)):
        yield from _voc_parts(root, "" if root == folder else f"{root.name}/")
    yield from _cityscapes_parts(folder)
    yield from _wider_face_parts(folder)
    described = [p for file in sorted(folder.iterdir()) if file.suffix in YAML_SUFFIXES for p in _described_parts(file)]
    yield from described or _labelled_parts(folder)
    for root in (folder, folder / "annotations", folder / "Anno" / "segmentation"):
        for file in sorted(root.glob("*.json")):
            yield from _coco_parts(file)


def _voc_parts(root: Path, where: str) -> Iterator[Part]:
    main = root / "ImageSets" / "Main"
    if main.is_dir() and (root / "JPEGImages").is_dir():
        names = sorted(file.stem for file in main.glob("*.txt"))
        # Beside those of all images, VOC has a list for each class and part, such as cat_train.txt.
        lists = [name for name in LISTS if name in names] or [n for n in names if "_" not in n] or names
        for name in lists:
            yield Part(f"{where}{name}", Voc(name, str(root)), f"Pascal VOC's layout, list {name} of {root}")


def _cityscapes_parts(root: Path) -> Iterator[Part]:
    for split in ("train", "val"):  # what the test cities show is not published
        if (root / "leftImg8bit" / split).is_dir() and (root / "gtFine" / split).is_dir():
            yield Part(split, Cityscapes(split, str(root)), f"Cityscapes, {split} of {root}")


def _wider_face_parts(root: Path) -> Iterator[Part]:
    for split in LISTS:
        listing = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        if listing.is_file() and (root / f"WIDER_{split}" / "images").is_dir():
            yield Part(split, WiderFace(split, str(root)), f"WIDER FACE, {listing}")


def _described_parts(file: Path) -> Iterator[Part]:
    """The parts that a YAML file of YOLO's names; it is not parsed here, since only its reader says what is wrong."""
    try:
        text = file.read_text("utf-8-sig") if file.stat().st_size <= LARGEST_NAMES else ""
    except (OSError, UnicodeDecodeError):
        return
    if re.search(r"^names\s*:", text, re.MULTILINE):
        for name in LISTS:
            if re.search(rf"^{name}\s*:[ \t]*\S|^{name}\s*:[ \t]*\n\s*-", text, re.MULTILINE):
                yield Part(name, Yolo(name, str(file.parent), file.name), f"YOLO's form, {name} of {file}")


def _labelled_parts(root: Path) -> Iterator[Part]:
    """The parts of folders images/ and labels/, in `root` or in folders of it, that no file describes."""
    file = next((name for name in USUAL_NAMES[1:] if (root / name).is_file()), None)
    for place in (root, *_subfolders(root)):
        images, labels = place / "images", place / "labels"
        if images.is_dir() and labels.is_dir() and next(labels.rglob("*.txt"), None) is not None:
            folders = [images] if next(image_files(images), None) is not None else _subfolders(images)
            for folder in folders:
                name = folder.name if folder != images else place.name
                source = Yolo(folder.relative_to(root).as_posix(), str(root), file)
                yield Part(name, source, f"YOLO's form, images in {folder}, labels in {labels}")


def _coco_parts(file: Path) -> Iterator[Part]:
    """The part that a JSON file is, if it is COCO's or LVIS's."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if not all(content.find(key) >= 0 for key in _COCO_KEYS):
                return
            lvis = any(content.find(key) >= 0 for key in _LVIS_KEYS)
    except (OSError, ValueError):  # it cannot be read, or is empty
        return
    images = _image_folder(file)
    kind, record = ("LVIS", Lvis) if lvis else ("COCO", Coco)
    source = record(str(file), str(images))
    yield Part(file.stem, source, f"{kind}'s JSON, {file}, its images in {images}")


def _image_folder(file: Path) -> Path:
    """The folder near an annotation file in which most of some of its images lie. Where several have images of these
    names, as those of a data set whose parts are each numbered from 1, the one that the file is named after."""
    names = _some_names(file)
    above = [file.parent, file.parent.parent, file.parent.parent.parent]
    near = dict.fromkeys([*above[:2], *(folder for place in above for folder in _subfolders(place))])
    folders = list(islice(near, MOST_FOLDERS))
    hits = {folder: sum(is_file(folder / name) for name in names) for folder in folders}
    best = max(folders, key=lambda folder: (hits[folder], folder.name.lower() in file.stem.lower()))
    if hits[best]:
        return best
    likely = [folder for folder in folders if folder.name in ("images", file.stem)]
    return likely[0] if likely else file.parent


def _some_names(file: Path) -> list[str]:
    """Names of some images of a file, spread evenly, without parsing it."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = _some_values(content, b'"file_name"')
        # Version 1 of LVIS has addresses in their place.
        names = names or ["/".join(name.split("/")[-2:]) for name in _some_values(content, b'"coco_url"')]
    return [name for name in names if name and ".." not in Path(name).parts]


def _some_values(content: mmap.mmap, key: bytes) -> list[str]:
    first, last = content.find(key), content.rfind(key)
    ends = (first + (last - first) * probe // PROBES + len(key) for probe in range(PROBES + 1))
    places = {content.rfind(key, first, end) + len(key) for end in ends} if first >= 0 else set()
    matches = [_TEXT.match(content[place : place + LONGEST_NAME]) for place in sorted(places)]
    return [json.loads(match[1].decode("utf-8", "replace")) for match in matches if match is not None]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []
