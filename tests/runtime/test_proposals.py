"""Proposals from a file: which are taken, which files are refused, where they go."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from drawn import CLASSES, NORMALIZE, coco_file, voc_data, voc_folder

from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.affine import Affine
from detc.runtime.data.layers import Layer
from detc.runtime.data.loading import EpochBatches, training_loader
from detc.runtime.data.preprocess import Preprocess
from detc.runtime.data.proposals import Proposals, pack_proposals, read_proposals, write_arrays
from detc.runtime.data.reading import read_split
from detc.runtime.data.settings import data_settings
from detc.runtime.data.transforms import Normalize, Resize
from detc.runtime.evaluate import EvaluationImages

SIZES = {100: (96, 64), 101: (96, 64), 102: (64, 96)}
RESULTS = [
    {"image_id": 100, "bbox": [10, 10, 20, 30], "score": 0.5},
    {"image_id": 102, "bbox": [0, 0, 64, 96], "score": 0.9, "category_id": 1},
    {"image_id": 100, "bbox": [50.5, 20, 30, 30], "score": 0.75},
    {"image_id": 101, "bbox": [5, 5, 6, 7], "score": 1.0},
]


def refused(path: Path, sizes: dict[int, tuple[int, int]] = SIZES) -> tuple[str, str]:
    """The slug and text with which a file is refused."""
    with pytest.raises(DiagnosticError) as error:
        read_proposals(path, sizes, 1000)
    (diagnostic,) = error.value
    return diagnostic.kind.slug, f"{diagnostic.summary}; {diagnostic.detail}"


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_json_and_arrays_give_the_best_boxes_of_each_image(tmp_path):
    found = read_proposals(written(tmp_path / "p.json", RESULTS), SIZES, 1000)
    assert {number: p.boxes.tolist() for number, p in found.items()} == {
        100: [[50.5, 20, 80.5, 50], [10, 10, 30, 40]],
        101: [[5, 5, 11, 12]],
        102: [[0, 0, 64, 96]],
    }
    assert found[100].scores.tolist() == [0.75, 0.5]
    with (tmp_path / "p.npz").open("wb") as file:
        write_arrays(file, {number: (p.boxes, p.scores) for number, p in found.items()})
    again = read_proposals(tmp_path / "p.npz", SIZES, 1000)
    assert list(again) == list(found)
    for number, proposals in found.items():
        assert np.array_equal(again[number].boxes, proposals.boxes)
        assert np.array_equal(again[number].scores, proposals.scores)
    assert read_proposals(tmp_path / "p.npz", SIZES, 1)[100].scores.tolist() == [0.75]


def test_pickles_are_refused_and_never_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for name in ("rpn.pkl", "rpn.json"):
        (tmp_path / name).write_bytes(pickle.dumps([Harmful()]))
        slug, text = refused(tmp_path / name)
        assert slug == "proposals-unreadable"
        assert "pickles are not read" in text
        assert "run any code" in text
    np.savez(
        tmp_path / "objects.npz", image_id=np.asarray([Harmful()], object), bbox=np.zeros((1, 4)), score=np.ones(1)
    )
    assert refused(tmp_path / "objects.npz")[0] == "proposals-unreadable"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b"[1, 2]",
        b'[{"image_id": 100}]',
        b'[{"image_id": 100, "bbox": [1, 2, 3], "score": 1}]',
        b'[{"image_id": 100, "bbox": [1, 2, 3, "x"], "score": 1}]',
        b'[{"image_id": "a", "bbox": [1, 2, 3, 4], "score": 1}]',
        b'[{"image_id": 1e400, "bbox": [1, 2, 3, 4], "score": 1}]',
        b'[{"image_id": 100, "bbox": [1, 2, NaN, 4], "score": 1}]',
        b'[{"image_id": 100, "bbox": [1, 2, 3, 4], "score": Infinity}]',
        b"PK\x03\x04 no archive",
    ],
)
def test_files_that_hold_no_proposals(tmp_path, content):
    (tmp_path / "p.json").write_bytes(content)
    assert refused(tmp_path / "p.json")[0] == "proposals-unreadable"


def test_arrays_of_other_names_or_shapes_are_refused(tmp_path):
    np.savez(tmp_path / "names.npz", boxes=np.zeros((1, 4)))
    np.savez(tmp_path / "shapes.npz", image_id=np.asarray([100]), bbox=np.zeros((1, 5)), score=np.ones(1))
    np.savez(tmp_path / "kinds.npz", image_id=np.asarray([100.5]), bbox=np.zeros((1, 4)), score=np.ones(1))
    for name in ("names", "shapes", "kinds"):
        assert refused(tmp_path / f"{name}.npz")[0] == "proposals-unreadable"
    assert refused(tmp_path / "missing.npz")[0] == "data-missing"


def test_a_file_of_another_data_set_is_refused_and_says_why(tmp_path):
    strange = [*RESULTS, {"image_id": 7, "bbox": [1, 1, 5, 5], "score": 0.5}]
    slug, text = refused(written(tmp_path / "a.json", strange))
    assert slug == "proposals-mismatch"
    assert "1 of 4 image ids, such as 7, are not among the 3 annotated" in text

    many = dict.fromkeys(range(100, 200), (96, 64))
    few = [{"image_id": number, "bbox": [1, 1, 5, 5], "score": 0.5} for number in range(100, 190)]
    slug, text = refused(written(tmp_path / "b.json", few), many)
    assert slug == "proposals-mismatch"
    assert "10 of 100 annotated images have no proposal" in text
    assert len(read_proposals(written(tmp_path / "c.json", few), dict.fromkeys(range(100, 194), (96, 64)), 9)) == 90

    larger = [{**item, "bbox": [2 * v for v in item["bbox"]]} for item in RESULTS]
    slug, text = refused(written(tmp_path / "d.json", larger))
    assert slug == "proposals-mismatch"
    assert "3 of 4 boxes reach over the border" in text


def test_boxes_are_cut_at_the_border_and_empty_ones_gone(tmp_path):
    boxes = [[-0.5, 10, 20, 54.7], [10, 10, 0, 5], [10, 10, 5, -5], [1, 1, 5, 5]]
    content = [{"image_id": 100, "bbox": box, "score": 0.5} for box in boxes]
    content[3]["score"] = 0
    found = read_proposals(written(tmp_path / "p.json", content), {100: (96, 64)}, 9)
    assert found[100].boxes.tolist() == [[0, 10, 19.5, 64]]


def test_proposals_move_with_the_image_and_those_cut_away_go():
    boxes = np.asarray([[10, 10, 30, 40], [60, 5, 90, 25], [0, 0, 5, 5]], np.float32)
    proposals = Proposals(boxes, np.asarray([0.9, 0.8, 0.7], np.float32))
    place = Affine((-1, 1), (96, 0)).then(Affine((2, 2))).then(Affine(shift=(-20, -10)))  # mirrored, doubled, cropped
    moved = proposals.placed(Layer.whole((96, 64)).moved(place, (0, 0, 160, 60)))
    assert moved.boxes.tolist() == [[112, 10, 152, 60], [0, 0, 52, 40]]
    assert moved.scores.tolist() == pytest.approx([0.9, 0.8])


def test_packed_proposals_have_a_row_even_where_there_are_none():
    one = Proposals(np.asarray([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), np.asarray([0.9, 0.8], np.float32))
    boxes, scores = pack_proposals([one, Proposals.none()])
    assert boxes.shape == (2, 2, 4)
    assert boxes[0].tolist() == one.boxes.tolist()
    assert scores.tolist() == [pytest.approx([0.9, 0.8]), [0, 0]]
    assert pack_proposals([Proposals.none()])[0].shape == (1, 1, 4)


def proposing(root: Path, count: int) -> Record:
    """Settings of drawn data with a file of proposals, which are the annotated boxes."""
    coco_file(root, count)
    annotations = json.loads((root / "annotations.json").read_text())["annotations"]
    results = [{"image_id": a["image_id"], "bbox": a["bbox"], "score": 0.9 - 0.1 * (a["id"] % 2)} for a in annotations]
    written(root / "proposals.json", results)
    source = (Record("Coco", {"annotations": "annotations.json", "images": "images", "proposals": "proposals.json"}),)
    return voc_data(train=source, val=source, test=source)


def test_training_batches_have_the_proposals_where_the_objects_are(tmp_path):
    settings = data_settings(proposing(tmp_path, 8))
    dataset, _ = read_split(settings, "train", tmp_path, strict=False, proposals=True)
    mirrored = 0
    for batch in training_loader(dataset.images, settings, EpochBatches([True] * 8, 4, 0), 32, 0, 1):
        boxes, scores = batch.inputs["proposals"], batch.inputs["proposal_scores"]
        assert boxes.shape == (4, 2, 4)
        for row, name in enumerate(batch.files):
            present = scores[row] > 0
            truth = batch.inputs["truth_boxes"][row][batch.inputs["truth_labels"][row] >= 0]
            assert sorted(boxes[row][present].tolist()) == sorted(truth.tolist())
            (image,) = [image for image in dataset.images if image.path.name == name]
            mirrored += sorted(truth.tolist()) != sorted(image.boxes.tolist())
    assert 0 < mirrored < 8
    plain, _ = read_split(settings, "train", tmp_path, strict=False)
    (batch, *_) = training_loader(plain.images, settings, EpochBatches([True] * 8, 4, 0), 32, 0, 1)
    assert set(batch.inputs) == {"image", "truth_boxes", "truth_labels"}


def test_evaluation_batches_have_them_scaled(tmp_path):
    settings = data_settings(proposing(tmp_path, 3))
    dataset, _ = read_split(settings, "test", tmp_path, strict=True, proposals=True)
    images = EvaluationImages(dataset, Preprocess(Resize((48, 32)), Normalize(**NORMALIZE.fields), 32))
    for index, image in enumerate(dataset.images):
        inputs, _, _ = images[index]
        assert inputs["image"].shape == (1, 3, 32, 64)
        assert sorted(inputs["proposals"][0].tolist()) == sorted((image.boxes / 2).tolist())


def test_sources_without_proposals_are_named(tmp_path):
    coco_file(tmp_path, 2)
    source = (Record("Coco", {"annotations": "annotations.json", "images": "images", "proposals": None}),)
    with pytest.raises(DiagnosticError) as error:
        read_split(data_settings(voc_data(train=source)), "train", tmp_path, strict=False, proposals=True)
    assert error.value.diagnostics[0].kind.slug == "proposals-missing"
    assert "annotations.json" in error.value.diagnostics[0].summary
    voc_folder(tmp_path / "voc", {"train": 2})
    with pytest.raises(DiagnosticError) as error:
        read_split(data_settings(voc_data(classes=CLASSES)), "train", tmp_path / "voc", strict=False, proposals=True)
    assert error.value.diagnostics[0].kind.slug == "proposals-missing"
