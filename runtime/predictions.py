"""Writing what was found in files: pictures with boxes, and COCO JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.images import read_image
from detc.runtime.data.masks import as_json, mask_areas
from detc.runtime.data.preprocess import Detections
from detc.runtime.files import write_json
from detc.runtime.pictures import draw_detections, write_picture
from detc.runtime.predict import Predictor


def write_predictions(
    predictor: Predictor, paths: Sequence[Path], output: Path, score: float
) -> Iterator[tuple[Path, Detections]]:
    """Predicts on each file and writes a picture with the boxes of at least `score`; at the end, predictions.json.

    predictions.json has all boxes in COCO's form: "images", "categories" (ids from 1), and "annotations" with "score",
    and with run lengths as "segmentation" where the detector finds masks.
    Pictures have the names of the images; where two images have the same name, a number is added.

    Raises:
        DiagnosticError: cannot-write; image-unreadable for every such file, after all others are done and written.
    """
    problems: list[Diagnostic] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    used: set[str] = set()
    for number, path in enumerate(paths, start=1):
        try:
            image = read_image(path)
        except DiagnosticError as error:
            problems.extend(error)
            continue
        found = predictor.find(image)
        name = _free_name(path, used)
        write_picture(output / name, draw_detections(image, found.above(score), predictor.classes))
        size = {"width": image.shape[1], "height": image.shape[0]}
        images.append({"id": number, "file_name": str(path), **size, "picture": name})
        annotations.extend(_annotations(found, number, len(annotations)))
        yield path, found
    categories = [{"id": i, "name": name} for i, name in enumerate(predictor.classes, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_json(output / "predictions.json", content)
    if problems:
        raise DiagnosticError(problems)


def _annotations(found: Detections, image: int, count: int) -> Iterator[dict[str, Any]]:
    """What was found in an image, as COCO's annotations with a score; `count` others have been written."""
    areas = mask_areas(found.masks) if found.masks is not None else None
    for row, (box, score, label) in enumerate(zip(found.boxes.tolist(), found.scores, found.classes, strict=True)):
        x1, y1, x2, y2 = box
        annotation = {
            "id": count + row + 1,
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": areas[row] if areas is not None else round((x2 - x1) * (y2 - y1), 3),
            "iscrowd": 0,
            "score": round(float(score), 6),
        }
        if found.masks is not None:
            annotation["segmentation"] = as_json(found.masks[row])
        yield annotation


def _free_name(path: Path, used: set[str]) -> str:
    suffix = path.suffix.lower() if path.suffix.lower() in (".png", ".webp", ".bmp") else ".jpg"
    name, count = path.stem + suffix, 1
    while name.lower() in used:
        count += 1
        name = f"{path.stem}-{count}{suffix}"
    used.add(name.lower())
    return name
