"""From the settings of a spec to its data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detc.dsl.catalogue.data import DATA_MISSING, MASKS_MISSING, PROPOSALS_MISSING
from detc.dsl.catalogue.running import NO_SPLIT
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.cityscapes import read_cityscapes
from detc.runtime.data.coco import read_coco, read_lvis
from detc.runtime.data.dataset import Dataset, Watch, build_dataset, unwatched
from detc.runtime.data.proposals import Proposals, read_proposals
from detc.runtime.data.raw import Findings, RawSource
from detc.runtime.data.settings import SPLITS, Cityscapes, Coco, Data, Lvis, Source, Voc, WiderFace, Yolo
from detc.runtime.data.voc import read_voc
from detc.runtime.data.wider_face import read_wider_face
from detc.runtime.data.yolo import read_yolo


def read_split(
    settings: Data,
    split: str,
    root: Path,
    strict: bool,
    masks: bool = False,
    proposals: bool = False,
    findings: Findings | None = None,
    decode: bool = False,
    watch: Watch = unwatched,
) -> tuple[Dataset, list[Diagnostic]]:
    """The data set of "train", "val" or "test", its sources' paths being relative to `root`, and warnings about it.

    `strict` (an evaluation) lets no image be left out. `masks` and `proposals` are read where a detector needs them,
    masks also where training pastes objects.
    `findings`, `decode` and `watch` are those of `build_dataset`; where findings keep going, sources that cannot be
    read are left out.

    Raises:
        DiagnosticError: no-split where the spec has no such part, masks-missing and proposals-missing where its sources
            have none, and whatever reading or checking it raises.
    """
    sources = settings.sources(split) if split in SPLITS else ()
    if not sources:
        there = ", ".join(name for name in SPLITS if settings.sources(name))
        raise DiagnosticError(NO_SPLIT.at(None, f'the spec has no "{split}" data', detail=f"it has: {there}"))
    if not root.is_dir():
        hint = "--data ROOT on the command line says where the data lies"
        raise DiagnosticError(DATA_MISSING.at(None, f"{root}, the data's root, is not there", detail=hint))
    findings = Findings() if findings is None else findings
    masks = masks or (split == "train" and settings.pastes)
    raw = []
    for source in sources:
        try:
            read = read_source(source, root, masks, settings.classes, findings)
        except DiagnosticError as error:
            findings.fail(*error)
            continue
        try:
            read = _with_proposals(read, source, root, settings) if proposals else read
        except DiagnosticError as error:
            findings.fail(*error)
        raw.append(read)
    if not raw:
        return Dataset((), (), ()), []
    dataset, warnings = build_dataset(raw, settings.classes, strict, findings, decode, watch)
    return dataset, [replace(warning, summary=f"{split}: {warning.summary}") for warning in warnings]


def read_source(source: Source, root: Path, masks: bool, classes: Sequence[str] | int, findings: Findings) -> RawSource:
    """What a source's files have, of the spec's classes. `findings` gets their faults, and that masks are missing.

    Raises:
        DiagnosticError: what the reader of its form raises.
    """
    raw = read_files(source, root, masks, classes, findings)
    if masks and not raw.masks:
        hint = "these files have boxes alone: put the data into COCO's form, with masks, as Coco(...)"
        findings.fail(MASKS_MISSING.at(None, f"{raw.where} has no masks", detail=hint))
    objects = [item for image in raw.images for item in image.objects]
    if raw.masks and objects and all(isinstance(item.mask, str) for item in objects):
        problems = dict.fromkeys(str(item.mask) for item in objects)
        hint = "every object needs a mask: polygons or run lengths in COCO's form, a polygon in YOLO's"
        notes = (f"its {len(objects)} objects are {', or '.join([*problems][:3])}",)
        findings.fail(MASKS_MISSING.at(None, f"{raw.where} has no usable mask", detail=hint, notes=notes))
    return raw


def read_files(
    source: Source, root: Path, masks: bool, classes: Sequence[str] | int | None, findings: Findings
) -> RawSource:
    """What a source's files have, with masks where they were asked for and its form has them.

    `classes` name those of files that have their numbers alone.
    """
    match source:
        case Lvis():
            return read_lvis(root / source.annotations, root / source.images, masks, findings)
        case Coco():
            return read_coco(root / source.annotations, root / source.images, masks, findings)
        case Voc():
            return read_voc(root / source.folder, source.split, findings)
        case Cityscapes():
            return read_cityscapes(root / source.folder, source.split, masks, findings)
        case WiderFace():
            return read_wider_face(root / source.folder, source.split, source.smallest, findings)
        case Yolo():
            names = None if isinstance(classes, int) else classes
            return read_yolo(root / source.folder, source.images, source.file, names, masks, findings)


def _with_proposals(raw: RawSource, source: Source, root: Path, settings: Data) -> RawSource:
    """The source with the proposals of its file beside its images."""
    if not isinstance(source, Coco) or source.proposals is None:
        hint = "Coco(annotations, images, proposals = FILE) names a file of them"
        summary = f"the detector takes proposals, and {raw.where} comes with none"
        raise DiagnosticError(PROPOSALS_MISSING.at(None, summary, detail=hint))
    sizes = {image.number: image.size for image in raw.images if image.number is not None and image.size is not None}
    found = read_proposals(root / source.proposals, sizes, settings.most_proposals)
    nothing = Proposals.none()
    images = [replace(image, proposals=found.get(image.number or 0, nothing)) for image in raw.images]
    return replace(raw, images=images)
