"""A new project: a published detector for a user's own classes and data, ready to be trained."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detc.compiler.modules import Loader, choose, specs_folder
from detc.dsl.catalogue.data import DATA_UNRECOGNISED, NO_OBJECTS
from detc.dsl.catalogue.names import UNKNOWN_DETECTOR
from detc.dsl.catalogue.running import CANNOT_WRITE
from detc.dsl.diagnostics import DiagnosticError, suggest
from detc.dsl.format import format_source
from detc.dsl.source import Source as SourceText
from detc.runtime.data.raw import Findings
from detc.runtime.data.reading import read_files
from detc.runtime.data.recognise import Part, recognise
from detc.runtime.data.settings import Cityscapes, Coco, Source, Voc, WiderFace, Yolo

if TYPE_CHECKING:
    from detc.runtime.detector import Detector

# The forms that a project without data can be started for: its parts, relative to the folder of the data.
FORMS: Mapping[str, Mapping[str, Source]] = {
    "voc": {"train": Voc("train"), "val": Voc("val")},
    "coco": {"train": Coco("annotations/train.json", "train"), "val": Coco("annotations/val.json", "val")},
    "yolo": {"train": Yolo("train"), "val": Yolo("val")},
}
FORM_OF = {Voc: "voc", Coco: "coco", Yolo: "yolo"}
LAYOUTS = {
    "voc": "`data/JPEGImages/`, `data/Annotations/`, and lists train.txt and val.txt in `data/ImageSets/Main/`",
    "coco": "`data/annotations/train.json` and `val.json`, and images in `data/train/` and `data/val/`",
    "yolo": "`data/data.yaml` with `names`, `train` and `val`, and the images and labels that it names",
}


@dataclass(frozen=True)
class Row:
    """A detector that comes with detc: its file, relative to detc's specs, and its name."""

    file: str
    name: str


@dataclass(frozen=True)
class OwnData:
    """A user's data: sources of each part, relative to the folder `root`, and the classes' names.

    `notes` say what a user should know of how the data was taken.
    """

    root: Path
    classes: tuple[str, ...]
    parts: Mapping[str, tuple[Source, ...]]
    form: str | None
    notes: tuple[str, ...] = ()


def find_row(text: str) -> Row:
    """The published detector that is meant by SPEC:NAME, SPEC or NAME.

    Raises:
        DiagnosticError: unknown-detector, and what loading the spec raises.
    """
    specs = specs_folder()
    file, _, name = text.rpartition(":")
    if not file and not name.endswith(".det"):
        loader = Loader()
        known = {d.name: path for path in sorted(specs.glob("*.det")) for d in loader.load(path).detectors}
        if name not in known:
            hint = suggest(name, known) or "detc zoo lists them"
            raise DiagnosticError(UNKNOWN_DETECTOR.at(None, f'no spec of detc declares "{name}"', detail=hint))
        return Row(known[name].name, name)
    path = Path(file or name)
    places = [place for place in (path, specs / path, specs / path.name) if place.is_file()]
    own = next((place for place in places if place.resolve().is_relative_to(specs)), None)
    if own is None:
        summary = f"{path} is none of the specs that come with detc"
        detail = "detc zoo lists their detectors; a detector of your own is varied with `with` in its own file"
        raise DiagnosticError(UNKNOWN_DETECTOR.at(None, summary, detail=detail))
    module = Loader().load(own)
    return Row(own.resolve().relative_to(specs).as_posix(), choose(module, name if file else None))


def no_data(form: str, classes: Sequence[str]) -> OwnData:
    """Data that is still to be put into the folder data/ of the project."""
    parts = {name: (source,) for name, source in FORMS[form].items()}
    return OwnData(Path("data"), tuple(classes), parts, form, (f"put the data there: {LAYOUTS[form]}",))


def own_data(path: Path, form: str | None, classes: Sequence[str] | None) -> OwnData:
    """What lies at a path, taken apart into what is trained on, evaluated and tested; its classes, if not given.

    Raises:
        DiagnosticError: data-unrecognised, no-objects where it shows no class, and what reading it raises.
    """
    path = path.resolve()
    found = recognise(path)
    if form is not None:
        found = [part for part in found if _form(part.source) == form]
        if not found:
            raise DiagnosticError(DATA_UNRECOGNISED.at(None, f"{path} has nothing in the form {form}"))
    form = _form(found[0].source)
    parts, notes = _split([part for part in found if _form(part.source) == form])
    names = tuple(classes) if classes else _classes(parts)
    root = Path(os.path.commonpath([path if path.is_dir() else path.parent, *_places(parts)]))
    relative = {name: tuple(_relative(part.source, root) for part in group) for name, group in parts.items()}
    return OwnData(root, names, relative, form, notes)


def start(folder: Path, row: Row, data: OwnData) -> Path:
    """Makes the folder of a project, whole or not at all, and gives the path of its spec.

    Raises:
        DiagnosticError: cannot-write, where the folder is there already or cannot be made; and what compiling the spec
            finds, if its parts do not go together.
    """
    import detc

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        detail = "detc new overwrites nothing: take another name"
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{folder} is there already", detail=detail))
    whole = folder.resolve()
    name = detector_name(whole.name, row)
    made: Path | None = None
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".detc-new-", dir=whole.parent))
        made.chmod(0o755)
        spec = made / f"{name}.det"
        spec.write_text(spec_text(name, row, data, _root_text(data.root, folder)), "utf-8")
        # What was reported of the row is not inherited.
        checkpoint = detc.load(specs_folder() / row.file, row.name).reported.get("checkpoint")
        readme = readme_text(name, row, data, detc.load(spec), checkpoint)
        (made / "README.md").write_text(readme, "utf-8")
        (made / ".gitignore").write_text("/data/\n/runs/\n/found/\n*.detc\n*.onnx\n*.pth\n*.safetensors\n", "utf-8")
        if whole.exists():
            # It may be the one that the user is in, who would be left in a folder without a name.
            for file in sorted(made.iterdir()):
                file.replace(whole / file.name)
        else:
            made.replace(whole)
    except OSError as error:
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{folder}: {error.strerror or error}")) from None
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    return folder / f"{name}.det"


# ---- data ------------------------------------------------------------------------------------------------------------


def _form(source: Source) -> str:
    return FORM_OF.get(type(source), type(source).__name__.lower())


def _split(found: Sequence[Part]) -> tuple[dict[str, list[Part]], tuple[str, ...]]:
    """Parts by what their names say they are for, and what had to be decided beyond that."""
    # Of several files about the same images, such as COCO's instances_ and person_keypoints_, the first.
    distinct: dict[object, Part] = {}
    for part in found:
        same = (_purpose(part.name), part.source.images) if isinstance(part.source, Coco) else part.name
        distinct.setdefault(same, part)
    parts: dict[str, list[Part]] = {"train": [], "val": [], "test": []}
    for part in distinct.values():
        parts[_purpose(part.name)].append(part)
    notes = []
    if not parts["train"]:
        taken = "val" if parts["val"] else "test"
        parts["train"] = parts[taken]
        notes.append(f"no part of the data is called train: {_listed(parts['train'])} is trained on")
    if not parts["val"] and parts["test"]:
        parts["val"] = parts["test"]
        notes.append(f"no part of the data is called val: {_listed(parts['val'])} is evaluated on during training")
    elif not parts["val"]:
        parts["val"] = parts["train"]
        notes.append(
            "the data has one part, which is trained on and evaluated on: the figures will say how well the detector "
            "remembers. Keep some images apart"
        )
    return parts, tuple(notes)


def _purpose(name: str) -> str:
    words = name.lower()
    return "train" if "train" in words else "val" if "val" in words else "test" if "test" in words else "train"


def _listed(parts: Sequence[Part]) -> str:
    return ", ".join(part.name for part in parts)


def _classes(parts: Mapping[str, Sequence[Part]]) -> tuple[str, ...]:
    """The classes that the files declare, in the order of their numbers; else those that the training images show."""
    shown: set[str] = set()
    for part in parts["train"]:
        raw = read_files(part.source, Path(), False, None, Findings(keep_going=True))
        if raw.names is not None:
            declared = raw.names
            return tuple(sorted(declared, key=lambda name: declared[name]))
        shown |= {item.name for image in raw.images for item in image.objects}
    if not shown:
        detail = "name the classes with --classes, and see `detc data check`"
        raise DiagnosticError(NO_OBJECTS.at(None, f"{_listed(parts['train'])}: shows no object", detail=detail))
    return tuple(sorted(shown))


def _places(parts: Mapping[str, Sequence[Part]]) -> list[str]:
    """The absolute folders and files that the sources name."""
    places: list[str] = []
    for source in (part.source for group in parts.values() for part in group):
        places += [source.annotations, source.images] if isinstance(source, Coco) else [source.folder]
    return places


def _relative(source: Source, root: Path) -> Source:
    def short(path: str) -> str:
        text = os.path.relpath(path, root)
        return "" if text == "." else text

    if isinstance(source, Coco):
        return replace(source, annotations=short(source.annotations), images=short(source.images))
    return replace(source, folder=short(source.folder))


# ---- texts -----------------------------------------------------------------------------------------------------------


def detector_name(name: str, row: Row) -> str:
    """A name of the language that is like a folder's and is not the row's."""
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() or "mine"
    plain = text if not text[0].isdigit() else f"d{text}"
    return f"my_{plain}" if plain == row.name else plain


def spec_text(name: str, row: Row, data: OwnData, root: str) -> str:
    """The spec of a project, laid out as detc fmt does."""
    kinds = dict.fromkeys(type(source).__name__ for group in data.parts.values() for source in group)
    parts = "".join(
        f"    data.{split:<7} = [{', '.join(map(_source_text, data.parts.get(split, ())))}]\n"
        for split in ("train", "val", "test")
    )
    text = (
        f"## {row.name} of {row.file} for data of one's own. README.md says how to train it.\n\n"
        f'import {row.name} from "{row.file}"\nimport {", ".join(kinds)} from "lib/data.det"\n\n'
        f"detector {name} = {row.name} with {{\n"
        f"    data.classes = [{', '.join(map(quoted, data.classes))}]\n"
        f"    data.root    = {quoted(root)}\n{parts}}}\n"
    )
    return format_source(SourceText(name, text))


def quoted(text: str) -> str:
    """A string of the language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _source_text(source: Source) -> str:
    match source:
        case Coco():
            words = [quoted(source.annotations), quoted(source.images)]
        case Voc() | Cityscapes() | WiderFace():
            words = [quoted(source.split), *([quoted(source.folder)] if source.folder else [])]
        case Yolo():
            words = [quoted(source.images), *([quoted(source.folder)] if source.folder else [])]
            if source.file != "data.yaml":
                words.append(f"file = {'none' if source.file is None else quoted(source.file)}")
    return f"{type(source).__name__}({', '.join(words)})"


def _root_text(root: Path, folder: Path) -> str:
    """The data's root as the spec says it: relative to the project where both lie in one place, else absolute."""
    if not root.is_absolute():
        return root.as_posix()
    home = folder.resolve()
    return os.path.relpath(root, home) if root.is_relative_to(home.parent) else str(root)


def readme_text(name: str, row: Row, data: OwnData, detector: Detector, checkpoint: str | None) -> str:
    """The commands of a project, with its own names and numbers; `checkpoint` is the row's, as published."""
    classes = ", ".join(data.classes[:10]) + (f" and {len(data.classes) - 10} more" if len(data.classes) > 10 else "")
    notes = "".join(f"\nNote: {note}.\n" for note in data.notes)
    pretrained = Path(detector.pretrained).name if detector.pretrained else None
    ways = []
    if checkpoint:
        ways.append(f"    detc train {name}.det --weights {checkpoint} --partial    # from the published detector")
    if pretrained:
        ways.append(f"    detc train {name}.det --pretrained {pretrained}    # from a backbone trained on ImageNet")
        ways.append(f"    detc train {name}.det --from-scratch")
    else:
        ways.append(f"    detc train {name}.det")
    schedule, per_step = detector.schedule, detector.data.batch if detector.data is not None else 1
    about_rate = ""
    if schedule is not None:
        rate, batch = float(schedule.optimizer.lr), int(schedule.batch)
        about_rate = f"""
## The learning rate

{row.name} was published with a learning rate of {rate:g} for steps of {batch} images. A step here has {per_step} on one
device, so detc trains with {rate:g} x {per_step} / {batch} = {rate * per_step / batch:.3g}, and prints that. The rate
follows `--batch`, `--accumulate` and `--devices` in the same way: leave `schedule.optimizer.lr` alone unless you mean
another rate for steps of {batch} images. `--accumulate {max(1, batch // per_step)}` gives the published step on one
device.

The schedule is the published one, {schedule.epochs} epochs. Small data needs more of them, or fewer from the published
weights: `--epochs N`, or `schedule.epochs = N` in the spec.
"""
    return f"""# {name}

{row.name} of `{row.file}`, for {len(data.classes)} classes: {classes}.

`{name}.det` says what differs from the published detector. Every other setting can be overridden there too, such as
`data.resize` or `backbone.depth`; `detc explain {name}.det data.resize` says what one is, and which line set it.
{notes}
## Commands, in this folder

    detc data check {name}.det      # what is wrong with the data
    detc data view {name}.det       # a page to look at it

Training starts from weights, which detc does not download:

{chr(10).join(ways)}

Then, with the weights of the best epoch:

    detc eval {name}.det --weights runs/{name}/best.safetensors --report report
    detc predict {name}.det photos --weights runs/{name}/best.safetensors --output found
    detc export {name}.det --weights runs/{name}/best.safetensors --target onnx
{about_rate}"""
