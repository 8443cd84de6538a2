"""Annotations as files have them, before anything checks them, and what was found wrong in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from detc.dsl.catalogue.data import DATA_MISSING, PATH_OUTSIDE
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Kind
from detc.runtime.data.images import is_file, is_folder
from detc.runtime.data.masks import Bitmap, Mask
from detc.runtime.data.proposals import Proposals

EXAMPLES = 3


class Fault(Exception):
    """What is wrong with one entry of a file, in words for a count of such, and which entry it is."""

    def __init__(self, kind: Kind, what: str, where: object) -> None:
        super().__init__(what)
        self.kind, self.what, self.where = kind, what, str(where)[:80]


@dataclass(frozen=True)
class Cause:
    """What is wrong, in words for a count of such things, and what follows; nothing where all stops there."""

    kind: Kind
    what: str
    then: str = ""

    def counted(self, places: Sequence[str]) -> Diagnostic:
        """The diagnostic of this cause at these places."""
        text = f"{self.what}, {self.then}" if self.then else self.what
        such = "such as " + ", ".join(shown(place) for place in examples(places))
        return self.kind.at(None, f"{text}: {len(places)}", detail=such)


@dataclass
class Findings:
    """What is wrong in some data: per kind and cause how often, with the places where.

    What makes data unusable is raised, unless `keep_going`: then it is kept in `errors`, what can be used is used, and
    one pass over the data reports everything.

    `declared` are the classes that each source declares, with their ids; `contents` the images that were decoded, by a
    hash of their files. `listed` are the images that some source lists, `folders` those whose images should all be.
    """

    keep_going: bool = False
    found: dict[Cause, list[str]] = field(default_factory=lambda: defaultdict(list))
    errors: list[Diagnostic] = field(default_factory=list)
    declared: dict[str, dict[str, int]] = field(default_factory=dict)
    contents: dict[bytes, Path] = field(default_factory=dict)
    listed: set[Path] = field(default_factory=set)
    folders: set[Path] = field(default_factory=set)

    def add(self, kind: Kind, what: str, where: str, then: str = "") -> None:
        """Notes one thing; an error among such things is raised by `settle`."""
        self.found[Cause(kind, what, then)].append(where)

    def fail(self, *errors: Diagnostic) -> None:
        """Raises DiagnosticError with these and with what was found so far, or keeps these."""
        if not self.keep_going:
            raise DiagnosticError([*errors, *(found for found in self.diagnostics() if found not in errors)])
        self.errors.extend(errors)

    def settle(self) -> None:
        """Raises DiagnosticError with the errors among what was found, unless they are kept."""
        wrong = [cause.counted(places) for cause, places in self.found.items() if cause.kind.severity == "error"]
        if wrong and not self.keep_going:
            raise DiagnosticError(wrong)

    def diagnostics(self) -> list[Diagnostic]:
        """One diagnostic for each kind and cause, with its count."""
        return [cause.counted(places) for cause, places in self.found.items()]


def examples(places: Iterable[str]) -> list[str]:
    """A few of the places, each once."""
    return list(dict.fromkeys(places))[:EXAMPLES]


def shown(name: str) -> str:
    """A name out of a stranger's file as a terminal may show it: on one line, without control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


@dataclass(frozen=True)
class RawObject:
    """An object as an annotation file has it; `box` is x1, y1, x2, y2 in pixels and may be nonsense.

    `mask` is None where masks were not asked for, and says what is wrong where that is not a mask.
    """

    name: str
    box: tuple[float, float, float, float]
    area: float | None = None
    ignored: bool = False
    mask: Mask | str | None = None


@dataclass(frozen=True)
class Judged:
    """What LVIS says of an image beside its objects, since it does not annotate every class in every image.

    The names of classes that were looked for and are not there, and of those of which some objects may lack."""

    absent: frozenset[str]
    unfinished: frozenset[str]


@dataclass(frozen=True)
class RawImage:
    """An image as an annotation file has it. `size` is None where it is not stated.

    Where it is `relative`, boxes, areas and polygons are shares of the image's, and not pixels. `unlabelled` are the
    pixels of which nobody says what they show.
    """

    path: Path
    size: tuple[int, int] | None
    objects: Sequence[RawObject]
    number: int | None = None
    judged: Judged | None = None
    proposals: Proposals | None = None
    relative: bool = False
    unlabelled: Bitmap | None = None


@dataclass(frozen=True)
class RawSource:
    """All of one source.

    `names` are the classes it declares, with their ids, or None where it declares none; `masks` says whether those of
    its objects were read. `frequencies` are LVIS's of its classes: "rare", "common" or "frequent". `folder` is that of
    its images, where all of them are meant to be listed. `fixed` says that names and ids are those of the form, which
    no file declares.
    """

    where: str
    images: Sequence[RawImage]
    names: dict[str, int] | None
    masks: bool = False
    frequencies: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    fixed: bool = False


def must_be_there(files: Sequence[Path] = (), folders: Sequence[Path] = ()) -> None:
    """Raises DiagnosticError data-missing for the first of these that is not there."""
    missing = [path for path in files if not is_file(path)] + [path for path in folders if not is_folder(path)]
    if missing:
        hint = "--data ROOT on the command line says where the data lies"
        raise DiagnosticError(DATA_MISSING.at(None, f"{missing[0]} is not there", detail=hint))


def image_path(folder: Path, name: str) -> Path:
    """Where the image that a file of a stranger calls `name` lies in `folder`. Raises Fault where it is outside."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise Fault(PATH_OUTSIDE, f"images named outside {folder}", repr(name))
    return folder / name


def fail(kind: Kind, path: Path, reason: str) -> NoReturn:
    """Raises DiagnosticError: what is wrong with a file as a whole."""
    raise DiagnosticError(kind.at(None, f"{path}: {reason}"))
