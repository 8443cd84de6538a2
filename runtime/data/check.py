"""What is wrong with data, before training or an evaluation finds it; and what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detc.dsl.catalogue.data import IDS_WITH_GAPS, IMAGE_EMPTY, IMAGE_UNLISTED, NO_OBJECTS, SPLITS_OVERLAP, UNUSED_CLASS
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.dataset import AnnotatedImage, Dataset, Watch, build_dataset, classes_differ, unwatched
from detc.runtime.data.images import images_below
from detc.runtime.data.masks import NO_MASK
from detc.runtime.data.raw import Findings, RawSource, examples, shown
from detc.runtime.data.reading import read_files, read_split
from detc.runtime.data.recognise import Part, recognise
from detc.runtime.data.settings import SPLITS, Data, Source, data_root

if TYPE_CHECKING:
    from detc.runtime.detector import Detector

# COCO's: objects of fewer pixels than the first are small, of fewer than the second medium.
SMALL, MEDIUM = 32**2, 96**2


@dataclass(frozen=True)
class ClassCount:
    """The objects of one class, crowds and difficult ones left out, by size; and how many images show one."""

    name: str
    images: int
    small: int
    medium: int
    large: int

    @property
    def objects(self) -> int:
        return self.small + self.medium + self.large


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong in one part of the data.

    `count` is how often, `where` are a few places, `then` is what training or an evaluation does about it.
    """

    diagnostic: Diagnostic
    what: str
    count: int
    where: tuple[str, ...]
    then: str

    @property
    def is_error(self) -> bool:
        return self.diagnostic.severity == "error"

    def as_json(self) -> dict[str, Any]:
        kind = self.diagnostic.kind
        return {
            "code": kind.code,
            "slug": kind.slug,
            "severity": kind.severity,
            "what": self.what,
            "count": self.count,
            "examples": list(self.where),
            "then": self.then,
            "help": self.diagnostic.detail if not self.where else "",
            "notes": list(self.diagnostic.notes),
        }


@dataclass(frozen=True)
class PartReport:
    """What a part of the data has, and what is wrong with it.

    `images` are those that can be used, of which `empty` have no object to train on; `ignored` counts crowds, and
    objects that are difficult, invalid or too small. `taken_for` says as what data without a spec was read.
    """

    name: str
    images: int
    empty: int
    ignored: int
    classes: tuple[ClassCount, ...]
    findings: tuple[Finding, ...]
    taken_for: str = ""

    def as_json(self) -> dict[str, Any]:
        counts = [
            {"name": c.name, "images": c.images, "objects": c.objects}
            | {"small": c.small, "medium": c.medium, "large": c.large}
            for c in self.classes
        ]
        return {
            "part": self.name,
            "taken_for": self.taken_for,
            "images": self.images,
            "images_without_objects": self.empty,
            "objects": sum(c.objects for c in self.classes),
            "ignored_objects": self.ignored,
            "classes": counts,
            "findings": [finding.as_json() for finding in self.findings],
        }


@dataclass(frozen=True)
class DataReport:
    """The reports of all parts that were looked at."""

    parts: tuple[PartReport, ...]

    @property
    def failed(self) -> bool:
        """Whether training or an evaluation would stop."""
        return any(finding.is_error for part in self.parts for finding in part.findings)


@dataclass(frozen=True)
class Look:
    """A part of data as read: what there is, what was found wrong, and whether it is for evaluations.

    `strict` parts are evaluated on, others trained on, images without an object too where `keep_empty` says so.
    """

    name: str
    dataset: Dataset
    findings: Findings
    strict: bool
    keep_empty: bool
    taken_for: str = ""


def look_at_spec(
    detector: Detector,
    settings: Data,
    data: Path | None = None,
    split: str | None = None,
    decode: bool = False,
    watch: Callable[[str], Watch] = lambda name: unwatched,
) -> list[Look]:
    """The data of a detector, read as its training and evaluation read it; of all its parts, or of one.

    `data` replaces the data's root; `watch` is asked, with the name of each part, for what its images pass through.

    Raises:
        DiagnosticError: no-split, and data-missing where the root is not there.
    """
    root = data_root(settings, detector.path, data)
    taken, found = detector.graph.view("train").inputs, detector.graph.view("predict")
    looks = []
    for name in [name for name in SPLITS if settings.sources(name)] if split is None else [split]:
        strict = name != "train"
        masks = "masks" in found.views["predict"] if strict else "truth_masks" in taken
        proposals = "proposals" in (found.inputs if strict else taken)
        findings = Findings(keep_going=True)
        dataset, _ = read_split(
            settings, name, root, strict, masks, proposals, findings=findings, decode=decode, watch=watch(name)
        )
        looks.append(Look(name, dataset, findings, strict, settings.keep_empty))
    for look in looks[1:]:
        trained, other = looks[0].dataset, look.dataset
        if trained.classes and other.classes and trained.classes != other.classes:
            look.findings.fail(classes_differ(trained, other))
    _compare_ids(looks)
    if split is None:
        _look_for_unlisted(looks)
    return looks


def look_at_path(
    path: Path,
    split: str | None = None,
    decode: bool = False,
    watch: Callable[[str], Watch] = lambda name: unwatched,
) -> list[Look]:
    """The data at a path, without a spec: its classes are those that its files declare, or all that they show.

    Raises:
        DiagnosticError: data-unrecognised.
    """
    looks = look_at_parts(recognise(path, split), decode, watch)
    if split is None and path.is_dir():
        _look_for_unlisted(looks)
    return looks


def look_at_parts(
    parts: Sequence[Part], decode: bool = False, watch: Callable[[str], Watch] = lambda name: unwatched
) -> list[Look]:
    """As `look_at_path`, of parts that were recognised."""
    read: list[tuple[Part, RawSource | None, Findings]] = []
    for part in parts:
        findings = Findings(keep_going=True)
        raw = None
        try:
            raw = _read_part(part.source, findings)
        except DiagnosticError as error:
            findings.fail(*error)
        read.append((part, raw, findings))
    seen = {item.name for _, raw, _ in read if raw is not None for image in raw.images for item in image.objects}
    looks = []
    for part, raw, findings in read:
        dataset = Dataset((), (), ())
        if raw is not None:
            declared = raw.names
            names = sorted(seen) if declared is None else sorted(declared, key=lambda name: declared[name])
            dataset, _ = build_dataset([raw], names, part.evaluated, findings, decode, watch(part.name))
        looks.append(Look(part.name, dataset, findings, part.evaluated, False, part.taken_for))
    _compare_ids(looks)
    _compare_lists(looks)
    return looks


def _read_part(source: Source, findings: Findings) -> RawSource:
    """What a source without a spec has, with masks where it has any."""
    raw = read_files(source, Path(), True, None, findings)
    objects = [item for image in raw.images for item in image.objects]
    return replace(raw, masks=any(item.mask not in (None, NO_MASK) for item in objects))


def report(looks: Sequence[Look]) -> DataReport:
    """What was found, part by part, and what there is."""
    _look_for_overlaps(looks)
    return DataReport(tuple(_part_report(look) for look in looks))


def _lists(looks: Sequence[Look]) -> list[tuple[Look, str, dict[str, int]]]:
    """The classes that each source declares, with their ids."""
    return [(look, where, names) for look in looks for where, names in look.findings.declared.items()]


def _compare_ids(looks: Sequence[Look]) -> None:
    """Notes ids of classes that have gaps, or are others than in the first source."""
    lists = _lists(looks)
    for look, where, names in lists:
        if sorted(names.values()) != list(range(1, len(names) + 1)):
            what = f"{where}: categories whose ids are not 1 to {len(names)}"
            for name in sorted(names, key=lambda name: names[name]):
                look.findings.add(IDS_WITH_GAPS, what, f"{name} ({names[name]})", "matched by name")
        _, first, reference = lists[0]
        for name, number in names.items():
            if reference.get(name, number) != number:
                what = f"{where}: categories of another id than in {first}"
                look.findings.add(IDS_WITH_GAPS, what, f"{name} ({number}, not {reference[name]})", "matched by name")


def _compare_lists(looks: Sequence[Look]) -> None:
    """Notes classes that one source of data without a spec declares and the first does not, or the other way round."""
    lists = _lists(looks)
    for look, where, names in lists[1:]:
        _, first, reference = lists[0]
        for here, missing in ((where, names.keys() - reference.keys()), (first, reference.keys() - names.keys())):
            for name in sorted(missing):
                then = "an error where a spec lists them for both"
                look.findings.add(UNUSED_CLASS, f"classes that only {here} declares", name, then)


def _look_for_unlisted(looks: Sequence[Look]) -> None:
    """Notes images that lie in a folder of the data, and that no part of it lists."""
    listed = {path for look in looks for path in look.findings.listed}
    told: set[Path] = set()
    for look in looks:
        for folder in sorted(look.findings.folders - told):
            for path in images_below(folder):
                if path not in listed:
                    what = f"images in {folder} that nothing lists"
                    look.findings.add(IMAGE_UNLISTED, what, str(path.relative_to(folder)), "not used")
        told |= look.findings.folders


def _look_for_overlaps(looks: Sequence[Look]) -> None:
    """Notes images that are evaluated on and trained on."""
    trained = [look for look in looks if not look.strict]
    paths = {image.path for look in trained for image in look.dataset.images}
    contents = {digest for look in trained for digest in look.findings.contents}
    for look in looks:
        if look.strict:
            same = {digest: path for digest, path in look.findings.contents.items() if digest in contents}
            shared = {image.path for image in look.dataset.images} & paths
            for path in sorted(shared | set(same.values())):
                look.findings.add(SPLITS_OVERLAP, "images that are trained on too", path.name, "counted in the figures")


def _part_report(look: Look) -> PartReport:
    findings = look.findings
    empty = [image for image in look.dataset.images if not _has_objects(image, look.strict)]
    if look.strict:
        then = "evaluated: what is found there is wrong"
    else:
        then = "trained on, as keep_empty says" if look.keep_empty else "not trained on"
    for image in empty:
        findings.add(IMAGE_EMPTY, "images without an object", image.path.name, then)
    stopped = any(error.kind is NO_OBJECTS for error in findings.errors)
    if empty and len(empty) == len(look.dataset.images) and not (look.strict or look.keep_empty or stopped):
        findings.fail(NO_OBJECTS.at(None, "no training image has an object that covers a pixel"))
    return PartReport(
        look.name,
        len(look.dataset.images),
        len(empty),
        sum(int(image.ignored.sum()) for image in look.dataset.images),
        _class_counts(look.dataset),
        tuple(sorted(_findings(findings, look.strict), key=lambda finding: not finding.is_error)),
        look.taken_for,
    )


def _has_objects(image: AnnotatedImage, strict: bool) -> bool:
    return bool((~image.ignored).any()) if strict else len(image.trained()[0]) > 0


def _findings(findings: Findings, strict: bool) -> Iterator[Finding]:
    stops = "an evaluation stops" if strict else "training stops"
    for error in findings.errors:
        yield Finding(error, shown(error.summary), 1, (), stops)
    for cause, places in findings.found.items():
        where = tuple(shown(place) for place in examples(places))
        is_error = cause.kind.severity == "error"
        yield Finding(cause.counted(places), shown(cause.what), len(places), where, stops if is_error else cause.then)


def _class_counts(dataset: Dataset) -> tuple[ClassCount, ...]:
    shape = len(dataset.classes)
    images, small, medium, large = (np.zeros(shape, np.int64) for _ in range(4))
    for image in dataset.images:
        labels, areas = image.labels[~image.ignored], image.areas[~image.ignored]
        images[np.unique(labels)] += 1
        small += np.bincount(labels[areas < SMALL], minlength=shape)
        medium += np.bincount(labels[(areas >= SMALL) & (areas < MEDIUM)], minlength=shape)
        large += np.bincount(labels[areas >= MEDIUM], minlength=shape)
    counts = zip(dataset.classes, images.tolist(), small.tolist(), medium.tolist(), large.tolist(), strict=True)
    return tuple(ClassCount(*row) for row in counts)
