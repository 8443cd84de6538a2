"""From the settings of a spec to its data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detc.dsl.catalogue.data import DATA_MISSING
from detc.dsl.catalogue.running import NO_SPLIT
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.coco import read_coco
from detc.runtime.data.dataset import Dataset, RawSource, build_dataset
from detc.runtime.data.settings import SPLITS, Coco, Data, Source
from detc.runtime.data.voc import read_voc


def read_split(settings: Data, split: str, root: Path, strict: bool) -> tuple[Dataset, list[Diagnostic]]:
    """The data set of "train", "val" or "test", its sources' paths being relative to `root`, and warnings about it.

    `strict` (an evaluation) lets no image be left out.

    Raises:
        DiagnosticError: no-split where the spec has no such part, and whatever reading or checking it raises.
    """
    sources = settings.sources(split) if split in SPLITS else ()
    if not sources:
        there = ", ".join(name for name in SPLITS if settings.sources(name))
        raise DiagnosticError(NO_SPLIT.at(None, f'the spec has no "{split}" data', detail=f"it has: {there}"))
    if not root.is_dir():
        hint = "--data ROOT on the command line says where the data lies"
        raise DiagnosticError(DATA_MISSING.at(None, f"{root}, the data's root, is not there", detail=hint))
    dataset, warnings = build_dataset([_read(source, root) for source in sources], settings.classes, strict)
    return dataset, [replace(warning, summary=f"{split}: {warning.summary}") for warning in warnings]


def _read(source: Source, root: Path) -> RawSource:
    if isinstance(source, Coco):
        return read_coco(root / source.annotations, root / source.images)
    return read_voc(root / source.folder, source.split)
