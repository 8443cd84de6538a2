"""How well a detector does on annotated images: COCO's metrics, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.dataset import AnnotatedImage, Dataset
from detc.runtime.data.images import Unreadable, read_image, readable, watched_workers
from detc.runtime.data.masks import as_json, mask_areas, whole_image
from detc.runtime.data.preprocess import Detections, Placement, Preprocess
from detc.runtime.data.proposals import pack_proposals, write_arrays
from detc.runtime.data.reading import read_split
from detc.runtime.data.results import coco_results, coco_truth
from detc.runtime.data.settings import Cityscapes, Lvis, Source, Voc, WiderFace, data_root
from detc.runtime.evaluation.cityscapes import cityscapes_figures, cityscapes_mean
from detc.runtime.evaluation.frequency import mean_by_frequency
from detc.runtime.evaluation.voc import voc_figures, voc_mean
from detc.runtime.files import write_json, write_text, write_whole
from detc.runtime.predict import Engine, FxEngine, Tell, data_of, default_device, loaded_module, preprocess_of
from detc.runtime.views import augmentation_of

if TYPE_CHECKING:
    from detc.runtime.detector import Detector

# What the graph takes, by name; where each image went in it; and the images.
EvaluationBatch = tuple[dict[str, np.ndarray], list[Placement], tuple[AnnotatedImage, ...]]

# AP is averaged over IoU 0.50 to 0.95; S, M, L are objects below 32^2, 96^2, and larger; AR is of so many boxes.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
# The same of masks, where a detector finds those.
MASK_METRICS = tuple(f"mask_{name}" for name in METRICS)
# Of a detector that tells no classes apart: how many of the objects its boxes find.
PROPOSAL_METRICS = ("AR100", "AR300", "AR1000", "ARs", "ARm", "ARl")
PROPOSAL_COUNTS = (100, 300, 1000)
# On VOC's and WIDER FACE's data also AP50 by VOC's rules: the area under the curve, from 2010 on, and 11 points of it,
# in 2007.
VOC_METRICS = ("VOC_AP50", "VOC07_AP50")
# On LVIS's data also the AP of rare, common and frequent classes.
FREQUENCY_METRICS = ("APr", "APc", "APf")
# On Cityscapes' data also the AP of masks by its own rules, over IoU 0.50 to 0.95 and at 0.50.
CITYSCAPES_METRICS = ("Cityscapes_AP", "Cityscapes_AP50")
# LVIS counts up to 300 boxes of an image; pycocotools counts those of each class, of which fewer are there.
MOST_BOXES, MOST_BOXES_LVIS = 100, 300


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class; nan where the data has no object of it, and for masks where the detector finds none."""

    name: str
    objects: int
    ap: float
    ap50: float
    mask_ap: float = math.nan
    # By VOC's rules of 2010 and of 2007, by Cityscapes', and LVIS's "rare", "common" or "frequent", where the data is
    # theirs.
    voc_ap50: float = math.nan
    voc07_ap50: float = math.nan
    cityscapes_ap: float = math.nan
    cityscapes_ap50: float = math.nan
    frequency: str = ""


@dataclass(frozen=True)
class Evaluation:
    """`metrics` maps names to values from 0 to 1, nan where the data has no object of that size.

    The names are METRICS, of detectors with masks MASK_METRICS too; or PROPOSAL_METRICS, with no figures of classes.
    VOC_METRICS, CITYSCAPES_METRICS and FREQUENCY_METRICS follow on data in those forms. `views` is how often each
    image was looked at.
    """

    metrics: dict[str, float]
    classes: tuple[ClassFigures, ...]
    images: int
    views: int = 1

    @property
    def has_masks(self) -> bool:
        return MASK_METRICS[0] in self.metrics

    @property
    def own_metrics(self) -> tuple[str, ...]:
        """Those of VOC_METRICS and CITYSCAPES_METRICS that there are, which classes have too."""
        return tuple(name for name in (*VOC_METRICS, *CITYSCAPES_METRICS) if name in self.metrics)

    def own_figures(self, figures: ClassFigures) -> dict[str, float]:
        """What a class has of them, by name."""
        values = (figures.voc_ap50, figures.voc07_ap50, figures.cityscapes_ap, figures.cityscapes_ap50)
        known = dict(zip((*VOC_METRICS, *CITYSCAPES_METRICS), values, strict=True))
        return {name: known[name] for name in self.own_metrics}

    def as_json(self) -> dict[str, Any]:
        """The figures, nan as null."""

        def plain(value: float) -> float | None:
            return None if np.isnan(value) else round(value, 5)

        rows = [
            {"name": c.name, "objects": c.objects, "AP": plain(c.ap), "AP50": plain(c.ap50)}
            | ({"mask_AP": plain(c.mask_ap)} if self.has_masks else {})
            | {name: plain(value) for name, value in self.own_figures(c).items()}
            | ({"frequency": c.frequency} if c.frequency else {})
            for c in self.classes
        ]
        return {
            "images": self.images,
            "views": self.views,
            "metrics": {name: plain(value) for name, value in self.metrics.items()},
            "classes": rows,
        }


@dataclass(frozen=True)
class Measured:
    """What was found in a data set, by image number, and how well; `evaluation` is None where nobody asked how well.

    `tells_classes` says whether what was found has classes; if not, it is proposals.
    """

    evaluation: Evaluation | None
    dataset: Dataset
    found: dict[int, Detections]
    tells_classes: bool = True


def deciding_metric(tells_classes: bool) -> str:
    """The metric by which weights are the best where nobody says: AP of boxes, or what most proposals find."""
    return METRICS[0] if tells_classes else PROPOSAL_METRICS[2]


def metric_names(tells_classes: bool, finds_masks: bool, sources: Sequence[Source]) -> tuple[str, ...]:
    """The metrics that evaluations of a detector have, on data from these sources.

    Those of LVIS's frequencies are there where its file says what is frequent.
    """
    if not tells_classes:
        return PROPOSAL_METRICS
    names = METRICS + MASK_METRICS if finds_masks else METRICS
    if all(isinstance(source, Voc | WiderFace) for source in sources):
        names += VOC_METRICS
    if finds_masks and all(isinstance(source, Cityscapes) for source in sources):
        names += CITYSCAPES_METRICS
    if all(isinstance(source, Lvis) for source in sources):
        names += FREQUENCY_METRICS + (tuple(f"mask_{name}" for name in FREQUENCY_METRICS) if finds_masks else ())
    return names


class EvaluationImages:
    """The images of a data set as batches for an engine: an item is (inputs, placements, images), of one image, since a
    figure must not depend on what an image is batched with. Each image comes once for every one of `views`."""

    def __init__(self, dataset: Dataset, *views: Preprocess) -> None:
        self.images = dataset.images
        self.views = views

    def __len__(self) -> int:
        return len(self.images) * len(self.views)

    def __getitem__(self, index: int) -> EvaluationBatch | Unreadable:
        number, view = divmod(index, len(self.views))
        image = self.images[number]
        try:
            batch, placements = self.views[view]([read_image(image.path, image.size)])
        except DiagnosticError as error:
            return Unreadable(tuple(error))
        inputs = {"image": batch}
        if image.proposals is not None:
            (placement,) = placements
            given = [image.proposals.placed(placement.layer)]
            inputs["proposals"], inputs["proposal_scores"] = pack_proposals(given)
        return inputs, placements, (image,)


def evaluation_batches(images: EvaluationImages, workers: int) -> Iterable[Any]:
    """A torch loader of the batches of `images`, in order."""
    from torch.utils.data import DataLoader

    from detc.runtime.data.loading import quiet_worker

    return DataLoader(
        images,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        worker_init_fn=quiet_worker,
        collate_fn=_as_it_is,
    )


def _as_it_is(item: Any) -> Any:
    return item


def detect(
    engine: Engine,
    batches: Iterable[EvaluationBatch | Unreadable],
    views: int = 1,
    merged: Callable[[Sequence[Detections]], Detections] = lambda found: found[0],
) -> Iterator[tuple[AnnotatedImage, Detections]]:
    """What the engine finds in each image, of which there are so many views one after the other.

    Raises:
        DiagnosticError: image-unreadable.
    """
    found: list[Detections] = []
    for item in batches:
        inputs, placements, (image,) = readable(item)
        found += Preprocess.detections(engine(**inputs), placements)
        if len(found) == views:
            yield image, merged(found)
            found = []


def evaluate(
    detector: Detector,
    weights: Path,
    data: Path | None = None,
    split: str = "test",
    workers: int = 0,
    tell: Tell = lambda warnings: None,
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    measure: bool = True,
    tta: bool | None = None,
) -> Measured:
    """Evaluates a detector with weights from a file on a split of its data.

    `data` replaces the root of the data. Warnings about data and weights go to `tell`. The loader of batches is
    iterated through `watch`, where a caller may show how far it is. Without `measure`, it is only looked for objects.
    `tta` is whether images are looked at in several views: None as the data says, True at least mirrored too, False
    not.

    Raises:
        DiagnosticError: no-settings, class-lists-differ, views-not-merged, and whatever is wrong with the data or the
            weights.
    """
    settings = data_of(detector)
    augmentation = augmentation_of(detector.graph, settings, tta)
    view = detector.graph.view("predict")
    masks, proposals = "masks" in view.views["predict"], "proposals" in view.inputs
    root = data_root(settings, detector.path, data)
    dataset, problems = read_split(settings, split, root, strict=True, masks=masks, proposals=proposals)
    tell(problems)
    engine = FxEngine(loaded_module(detector.named(dataset.classes), weights, tell), default_device())
    once = preprocess_of(settings, detector.graph.size_divisor)
    views = augmentation.of(once) if augmentation else (once,)
    batches = watch(evaluation_batches(EvaluationImages(dataset, *views), workers))
    looks = detect(engine, batches, len(views), augmentation.merged) if augmentation else detect(engine, batches)
    with watched_workers():
        found = {image.number: detections for image, detections in looks}
    tells_classes = "classes" in view.views["predict"]
    evaluation = evaluation_of(dataset, found, tells_classes, settings.sources(split)) if measure else None
    if evaluation is not None:
        evaluation = replace(evaluation, views=len(views))
    return Measured(evaluation, dataset, found, tells_classes)


def evaluation_of(
    dataset: Dataset, found: Mapping[int, Detections], tells_classes: bool, sources: Sequence[Source]
) -> Evaluation:
    """All metrics of what a detector found, by image number, in data from `sources`.

    Of objects they are COCO's and those by the data's own rules; of what tells no classes apart, those of proposals.
    """
    if not tells_classes:
        return proposal_metrics(dataset, found)
    return by_their_own_rules(coco_metrics(dataset, found), sources, dataset, found)


def by_their_own_rules(
    evaluation: Evaluation,
    sources: Sequence[Source],
    dataset: Dataset,
    found: Mapping[int, Detections],
) -> Evaluation:
    """The evaluation with what VOC, Cityscapes or LVIS report on their own data, if all of the data is theirs.

    VOC's figures are those of WIDER FACE too, of which published detectors report them.
    """
    if all(isinstance(source, Voc | WiderFace) for source in sources):
        figures = voc_figures(dataset, found)
        classes = tuple(
            replace(c, voc_ap50=f.area, voc07_ap50=f.points) for c, f in zip(evaluation.classes, figures, strict=True)
        )
        means = voc_mean([f.area for f in figures]), voc_mean([f.points for f in figures])
        metrics = evaluation.metrics | dict(zip(VOC_METRICS, means, strict=True))
        return replace(evaluation, metrics=metrics, classes=classes)
    if evaluation.has_masks and all(isinstance(source, Cityscapes) for source in sources):
        found_masks = cityscapes_figures(dataset, found)
        classes = tuple(
            replace(c, cityscapes_ap=f.ap, cityscapes_ap50=f.ap50)
            for c, f in zip(evaluation.classes, found_masks, strict=True)
        )
        means = cityscapes_mean([f.ap for f in found_masks]), cityscapes_mean([f.ap50 for f in found_masks])
        metrics = evaluation.metrics | dict(zip(CITYSCAPES_METRICS, means, strict=True))
        return replace(evaluation, metrics=metrics, classes=classes)
    if dataset.frequencies and all(isinstance(source, Lvis) for source in sources):
        return with_frequencies(evaluation, dataset.frequencies)
    return evaluation


def with_frequencies(evaluation: Evaluation, frequencies: Sequence[str]) -> Evaluation:
    """The evaluation with the AP of rare, common and frequent classes, of boxes and of masks."""
    classes = tuple(replace(c, frequency=f) for c, f in zip(evaluation.classes, frequencies, strict=True))
    means = mean_by_frequency([c.ap for c in classes], frequencies)
    metrics = evaluation.metrics | dict(zip(FREQUENCY_METRICS, means.values(), strict=True))
    if evaluation.has_masks:
        means = mean_by_frequency([c.mask_ap for c in classes], frequencies)
        metrics |= {f"mask_{name}": v for name, v in zip(FREQUENCY_METRICS, means.values(), strict=True)}
    return replace(evaluation, metrics=metrics, classes=classes)


def coco_metrics(dataset: Dataset, found: Mapping[int, Detections]) -> Evaluation:
    """COCO's metrics of boxes, and of masks where there are any, of what was found, by image number.

    Images that are not in `found` count as without a box. What LVIS does not know of an image does not count in it:
    boxes of classes that nobody looked for are left out, and of classes that are not wholly annotated those too much
    cost nothing. Objects without a usable mask do not count in the figures of masks.
    """
    results, counts = counted_results(dataset, found)
    boxes = coco_run(dataset, results, "bbox", counts)
    metrics = dict(zip(METRICS, _figures(boxes), strict=True))
    has_masks = any(detections.masks is not None for detections in found.values())
    if has_masks:
        pixels = coco_run(dataset, results, "segm", counts)
        metrics |= dict(zip(MASK_METRICS, _figures(pixels), strict=True))
    figures = []
    for index, (name, count) in enumerate(zip(dataset.classes, dataset.counts(), strict=True)):
        column = boxes.params.catIds.index(dataset.category_ids[index])
        ap, ap50 = (_mean(boxes.eval["precision"][rows, :, column, 0, -1]) for rows in (slice(None), 0))
        mask_ap = _mean(pixels.eval["precision"][:, :, column, 0, -1]) if has_masks else math.nan
        figures.append(ClassFigures(name, count, ap, ap50, mask_ap))
    return Evaluation(metrics, tuple(figures), len(dataset.images))


def counted_results(
    dataset: Dataset, found: Mapping[int, Detections]
) -> tuple[list[dict[str, Any]], tuple[int, int, int]]:
    """The results that count, in COCO's form, and of how many boxes AR is."""
    results = coco_results(dataset, found)
    federated = any(image.absent is not None for image in dataset.images)
    return (_judged_alone(dataset, results), (1, 10, MOST_BOXES_LVIS)) if federated else (results, (1, 10, MOST_BOXES))


def proposal_metrics(dataset: Dataset, found: Mapping[int, Detections]) -> Evaluation:
    """The share of all objects, of whatever class, that the best 100, 300 and 1000 boxes of their image find.

    It is averaged over IoU 0.50 to 0.95, as COCO's metrics are. Images that are not in `found` count as without a box.
    """
    run = coco_run(dataset, coco_results(dataset, found), "bbox", PROPOSAL_COUNTS, classes=False)
    recall = run.eval["recall"][:, 0]  # (IoU thresholds, areas, most detections)
    values = [*(_mean(recall[:, 0, most]) for most in range(3)), *(_mean(recall[:, area, -1]) for area in (1, 2, 3))]
    return Evaluation(dict(zip(PROPOSAL_METRICS, values, strict=True)), (), len(dataset.images))


def coco_run(
    dataset: Dataset,
    results: list[dict[str, Any]],
    kind: str,
    counts: tuple[int, ...],
    classes: bool = True,
    thresholds: Sequence[float] | None = None,
) -> Any:
    """pycocotools' evaluation of results ("bbox" or "segm"), accumulated; at COCO's IoU thresholds or these."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_truth(dataset, encode=lambda runs: runs)
        truth.dataset["annotations"] += _unfinished(dataset, len(truth.dataset["annotations"]))
        if kind == "segm":
            annotations = truth.dataset["annotations"]
            for item, area in zip(annotations, mask_areas([a["segmentation"] for a in annotations]), strict=True):
                item["iscrowd"] = int(item["iscrowd"] or not area)
        truth.createIndex()
        scored = COCO()
        scored.dataset = {**truth.dataset, "annotations": _as_annotations(results, kind)}
        scored.createIndex()
        run = COCOeval(truth, scored, kind)
        run.params.maxDets = list(counts)
        run.params.useCats = int(classes)
        if thresholds is not None:
            run.params.iouThrs = np.asarray(thresholds, np.float64)
        run.evaluate()
        run.accumulate()
    return run


def _as_annotations(results: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Results as pycocotools compares them: with ids, and areas of what is compared."""
    if kind == "bbox":
        areas: Sequence[float] = [result["bbox"][2] * result["bbox"][3] for result in results]
    else:
        areas = mask_areas([result["segmentation"] for result in results])
    return [
        {**result, "id": number, "area": area, "iscrowd": 0}
        for number, (result, area) in enumerate(zip(results, areas, strict=True), start=1)
    ]


def _figures(run: Any) -> list[float]:
    """The values of METRICS."""
    precision = run.eval["precision"][..., -1]  # (IoU thresholds, recalls, classes, areas)
    recall = run.eval["recall"]  # (IoU thresholds, classes, areas, most detections)
    return [
        *(_mean(precision[threshold, ..., 0]) for threshold in (slice(None), 0, 5)),
        *(_mean(precision[..., area]) for area in (1, 2, 3)),
        *(_mean(recall[:, :, 0, most]) for most in range(3)),
        *(_mean(recall[:, :, area, -1]) for area in (1, 2, 3)),
    ]


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else np.nan


def _judged_alone(dataset: Dataset, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of classes that were looked for in their image."""
    judged = {
        image.number: {dataset.category_ids[label] for label in {*image.labels.tolist(), *(image.absent or ())}}
        for image in dataset.images
    }
    return [result for result in results if result["category_id"] in judged[result["image_id"]]]


def _unfinished(dataset: Dataset, count: int) -> list[dict[str, Any]]:
    """Crowds as large as their image, of classes that are not wholly annotated there: no box is one too many."""
    pairs = [(image, label) for image in dataset.images for label in sorted(image.unfinished)]
    return [
        {
            "id": count + index,
            "image_id": image.number,
            "category_id": dataset.category_ids[label],
            "bbox": [0, 0, *image.size],
            "area": image.size[0] * image.size[1],
            "iscrowd": 1,
            "segmentation": whole_image(image.size),
        }
        for index, (image, label) in enumerate(pairs, start=1)
    ]


def write_evaluation(folder: Path, measured: Measured) -> list[str]:
    """Writes results.json (COCO results), truth.json (the annotations they were measured against) and metrics.json.

    Of a detector that tells no classes apart, also proposals.npz, which the data of another may name. Without an
    evaluation, truth.json and metrics.json are left out, and for proposals results.json too: of training images there
    are a hundred million.

    Returns the names of the files.
    Raises:
        DiagnosticError: cannot-write.
    """
    evaluation, dataset, found = measured.evaluation, measured.dataset, measured.found
    written = []
    if evaluation is not None:
        write_json(folder / "metrics.json", evaluation.as_json())
        write_text(folder / "truth.json", json.dumps(coco_truth(dataset, as_json)))
        written += ["metrics.json", "truth.json"]
    if measured.tells_classes or evaluation is not None:
        write_text(folder / "results.json", json.dumps(coco_results(dataset, found, as_json)))
        written.append("results.json")
    if not measured.tells_classes:
        pairs = {number: (detections.boxes, detections.scores) for number, detections in found.items()}
        write_whole(folder / "proposals.npz", lambda temporary: write_arrays(temporary, pairs))
        written.append("proposals.npz")
    return written
