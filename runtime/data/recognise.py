"""Data without a spec: what a folder or an annotation file is, from its content."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from detc.dsl.catalogue.data import DATA_UNRECOGNISED
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.images import is_file
from detc.runtime.data.settings import Coco, Lvis, Source, Voc

LISTS = ("train", "val", "test")
# How many folders are looked into for images, and how many images are looked for in each.
MOST_FOLDERS, PROBES = 200, 20
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
    parts = list(_coco_parts(path) if path.is_file() else _parts_of_folder(path))
    if not parts:
        what = "is not there" if not path.exists() else "is neither COCO's or LVIS's JSON nor Pascal VOC's layout"
        hint = "`detc explain data-unrecognised` says how such data lies; SPEC.det takes the data of a spec"
        raise DiagnosticError(DATA_UNRECOGNISED.at(None, f"{path} {what}", detail=hint))
    wanted = [part for part in parts if split is None or part.name == split]
    wanted = wanted or [part for part in parts if split is not None and split in part.name]
    if not wanted:
        summary = f'{path} has no part named after "{split}"'
        detail = f"it has: {', '.join(part.name for part in parts)}"
        raise DiagnosticError(DATA_UNRECOGNISED.at(None, summary, detail=detail))
    return wanted


def _parts_of_folder(folder: Path) -> Iterator[Part]:
    for root in (folder, *_subfolders(folder)):
        main = root / "ImageSets" / "Main"
        if main.is_dir() and (root / "JPEGImages").is_dir():
            names = sorted(file.stem for file in main.glob("*.txt"))
            # Beside those of all images, VOC has a list for each class and part, such as cat_train.txt.
            lists = [name for name in LISTS if name in names] or [n for n in names if "_" not in n] or names
            where = "" if root == folder else f"{root.name}/"
            for name in lists:
                yield Part(f"{where}{name}", Voc(name, str(root)), f"Pascal VOC's layout, list {name} of {root}")
    for root in (folder, folder / "annotations"):
        for file in sorted(root.glob("*.json")):
            yield from _coco_parts(file)


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
    """The folder near an annotation file in which most of some of its images lie."""
    names = _some_names(file)
    near = dict.fromkeys([file.parent, file.parent.parent, *_subfolders(file.parent), *_subfolders(file.parent.parent)])
    folders = list(islice(near, MOST_FOLDERS))
    hits = Counter({folder: sum(is_file(folder / name) for name in names) for folder in folders})
    best, count = hits.most_common(1)[0]
    if count:
        return best
    likely = [folder for folder in folders if folder.name in ("images", file.stem)]
    return likely[0] if likely else file.parent


def _some_names(file: Path) -> list[str]:
    """Names of some images of a file, spread evenly; none where it is not what it seems."""
    try:
        images = json.loads(file.read_bytes())["images"]
        step = max(1, len(images) // PROBES)
        entries = [entry for entry in images[::step] if isinstance(entry, dict)]
    except (ValueError, RecursionError, KeyError, TypeError, OSError):
        return []
    names = [e.get("file_name") or "/".join(str(e.get("coco_url", "")).split("/")[-2:]) for e in entries]
    return [name for name in names if isinstance(name, str) and name and ".." not in Path(name).parts]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []
