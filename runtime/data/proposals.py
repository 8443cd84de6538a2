"""Boxes that a detector is given beside its images: proposals, made by another detector beforehand."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from detc.dsl.catalogue.data import DATA_MISSING, PROPOSALS_MISMATCH, PROPOSALS_UNREADABLE
from detc.dsl.diagnostics import DiagnosticError, Kind
from detc.runtime.data.layers import Layer

LARGEST_FILE = 8 << 30
# Of the images with annotations, and of the boxes: how many may lack proposals, or reach over their image.
MOST_WITHOUT = 0.05
MOST_OUTSIDE = 0.01
ARRAYS = ("image_id", "bbox", "score")


@dataclass(frozen=True)
class Proposals:
    """Those of one image, by falling score: `boxes` (P, 4) float32 of x1, y1, x2, y2 in its pixels, `scores` (P,)."""

    boxes: np.ndarray
    scores: np.ndarray

    @classmethod
    def none(cls) -> Proposals:
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def placed(self, layer: Layer) -> Proposals:
        """These in an image of which theirs is a layer.

        They are cut around what is in sight of it, and those of which nothing is left are gone.
        """
        if not len(layer.frame):
            return Proposals.none()
        border = np.tile(np.stack([layer.frame.min(0), layer.frame.max(0)]), 2).astype(np.float32)
        boxes = np.clip(layer.place.boxes(self.boxes), *border)
        alive = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Proposals(boxes[alive], self.scores[alive])


def read_proposals(path: Path, sizes: Mapping[int, tuple[int, int]], most: int) -> dict[int, Proposals]:
    """The `most` best proposals of each image that a file has, by image id, cut at the image's border.

    `sizes` are the (width, height) of the images that are annotated. The file is JSON in the form of COCO results (a
    list of {"image_id", "bbox" as x, y, width, height, "score"}), or a .npz file with these three as arrays.

    Raises:
        DiagnosticError: data-missing, proposals-unreadable; proposals-mismatch where it belongs to other images.
    """
    if not path.is_file():
        hint = "`detc eval SPEC --output FOLDER` of a region proposal network writes such a file"
        raise DiagnosticError(DATA_MISSING.at(None, f"{path} is not there", detail=hint))
    ids, boxes, scores = _arrays(path)
    known = np.isin(ids, np.fromiter(sizes, np.int64, len(sizes)))
    if not known.all():
        strange = np.unique(ids[~known])
        which = f"{len(strange)} of {len(np.unique(ids))} image ids, such as {strange[0]}"
        _fail(PROPOSALS_MISMATCH, path, f"{which}, are not among the {len(sizes)} annotated")
    without = len(sizes) - len(np.unique(ids))
    if without > max(1, MOST_WITHOUT * len(sizes)):
        _fail(PROPOSALS_MISMATCH, path, f"{without} of {len(sizes)} annotated images have no proposal")
    borders = np.asarray([sizes[number] for number in ids.tolist()], np.float32).reshape(-1, 2)
    outside = (boxes[:, :2] < -1).any(1) | (boxes[:, 2:] > borders + 1).any(1)
    if outside.sum() > MOST_OUTSIDE * len(boxes):
        text = f"{outside.sum()} of {len(boxes)} boxes reach over the border of their image"
        _fail(PROPOSALS_MISMATCH, path, text)
    boxes = np.clip(boxes, 0, np.tile(borders, 2))
    usable = (boxes[:, 2:] > boxes[:, :2]).all(1) & (scores > 0)
    ids, boxes, scores = ids[usable], boxes[usable], scores[usable]
    order = np.lexsort((-scores, ids))
    found = {}
    for rows in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1):
        if len(rows):
            best = rows[:most]
            found[int(ids[rows[0]])] = Proposals(boxes[best], scores[best])
    return found


def write_arrays(file: Any, found: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes boxes (P, 4) as x1, y1, x2, y2 and scores (P,) by image id into a file, in the form that is read here."""
    counts = [len(scores) for _, scores in found.values()]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(boxes for boxes, _ in found.values())])
    scores = np.concatenate([np.zeros(0, np.float32), *(scores for _, scores in found.values())])
    ids = np.repeat(np.fromiter(found, np.int64, len(found)), counts)
    np.savez(file, image_id=ids, bbox=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1), score=scores)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image ids (R,) int64, boxes (R, 4) float32 of x1, y1, x2, y2, scores (R,) float32, all of them finite numbers."""
    if path.stat().st_size > LARGEST_FILE:
        _fail(PROPOSALS_UNREADABLE, path, "the file is larger than 8 GiB")
    with path.open("rb") as file:
        start = file.read(2)
    if path.suffix in (".pkl", ".pickle") or start[:1] == b"\x80":
        hint = "reading one can run any code; `detc eval --output FOLDER` of a region proposal network writes proposals"
        raise DiagnosticError(PROPOSALS_UNREADABLE.at(None, f"{path}: pickles are not read", detail=hint))
    ids, boxes, scores = _from_npz(path) if start == b"PK" else _from_json(path)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        _fail(PROPOSALS_UNREADABLE, path, "a box or score is not a finite number")
    return ids, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), scores


def _from_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_FILE:
                raise ValueError("it unfolds to more than 8 GiB")
        with np.load(path, allow_pickle=False) as arrays:
            ids, boxes, scores = (np.asarray(arrays[name]) for name in ARRAYS)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        _fail(PROPOSALS_UNREADABLE, path, f"not an .npz file with {', '.join(ARRAYS)} ({error})")
    fits = ids.ndim == 1 and ids.dtype.kind in "iu" and boxes.shape == (len(ids), 4) and scores.shape == ids.shape
    if not fits or boxes.dtype.kind not in "fiu" or scores.dtype.kind not in "fiu":
        _fail(PROPOSALS_UNREADABLE, path, "its arrays are not image_id (R,), bbox (R, 4) and score (R,)")
    return ids.astype(np.int64), boxes.astype(np.float32), scores.astype(np.float32)


def _from_json(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        _fail(PROPOSALS_UNREADABLE, path, f"neither JSON nor .npz ({error})")
    form = 'a list of {"image_id", "bbox", "score"}'
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        _fail(PROPOSALS_UNREADABLE, path, f"not {form}")
    try:
        ids = np.asarray([item["image_id"] for item in content], np.int64)
        boxes = np.asarray([item["bbox"] for item in content], np.float32).reshape(-1, 4)
        scores = np.asarray([item["score"] for item in content], np.float32)
        if not len(ids) == len(boxes) == len(scores):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        _fail(PROPOSALS_UNREADABLE, path, f"not {form}, with numbers")
    return ids, boxes, scores


def _fail(kind: Kind, path: Path, reason: str) -> NoReturn:
    raise DiagnosticError(kind.at(None, f"{path}: {reason}"))


def pack_proposals(images: Sequence[Proposals]) -> tuple[np.ndarray, np.ndarray]:
    """The proposals of a batch as a graph takes them: boxes (N, P, 4) and scores (N, P) float32, P at least 1.

    Rows without a proposal have score 0.
    """
    most = max(1, *(len(image.scores) for image in images))
    boxes = np.zeros((len(images), most, 4), np.float32)
    scores = np.zeros((len(images), most), np.float32)
    for row, image in enumerate(images):
        boxes[row, : len(image.scores)] = image.boxes
        scores[row, : len(image.scores)] = image.scores
    return boxes, scores
