"""What detc tells a user who made a mistake.

Every kind of diagnostic is declared once, in `detc.dsl.catalogue`, with a stable code, a slug, a severity, a summary
and an explanation with a wrong and a right example. `detc explain CODE` and docs/errors.md are made from it, and the
examples are run by the tests. Raising code builds a `Diagnostic` from the kind, with the summary of the case at hand,
what to do about it, and the places involved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from detc.dsl.source import Span

Severity = Literal["error", "warning"]

Language = Literal["det", "shell", "json", "python", "text"]

KINDS: dict[str, Kind] = {}


@dataclass(frozen=True)
class Example:
    """What gives a diagnostic, or what is right in its place.

    `det` is a spec without the imports of what comes with detc and without the detector around a component called
    Example; `shell` is a command; `json` is a part of an annotation file in COCO's form; `python` is a program or a
    file of kernels; `text` says in words what cannot be shown as a file or command. `note` stands beside "Wrong" or
    "Right".
    """

    language: Language
    text: str
    note: str = ""


@dataclass(frozen=True)
class Kind:
    """One kind of diagnostic. Its slug names the fault ("stride-mismatch"), not the cure; `summary` says in a line what
    is wrong, `explanation` (Markdown) why and what to do."""

    code: str
    slug: str
    summary: str
    explanation: str
    wrong: Example
    right: Example
    severity: Severity = "error"

    def __post_init__(self) -> None:
        if self.code in KINDS:
            raise ValueError(f"{self.code} is declared twice")
        KINDS[self.code] = self

    def at(
        self,
        span: Span | None,
        summary: str,
        *,
        label: str = "",
        detail: str = "",
        labels: tuple[Label, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> Diagnostic:
        """A diagnostic of this kind whose culprit is `span`, labelled there with `label`; `labels` are further
        places."""
        first = (Label(span, label),) if span is not None else ()
        return Diagnostic(self, summary, detail, (*first, *labels), notes)


@dataclass(frozen=True, slots=True)
class Label:
    """A place and what is to be said of it. The first label of a diagnostic is the culprit."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """`summary` says what is wrong in one line, `detail` how to mend it, `notes` what else helps to see why."""

    kind: Kind
    summary: str
    detail: str = ""
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def severity(self) -> Severity:
        return self.kind.severity

    @property
    def suggestion(self) -> Suggestion | None:
        """Which word to write in place of which, where the detail is that."""
        return self.detail if isinstance(self.detail, Suggestion) else None


class DiagnosticError(Exception):
    """A user's mistake, or several. Never shown as a traceback: the command line renders `diagnostics`."""

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        self.diagnostics = [diagnostics] if isinstance(diagnostics, Diagnostic) else list(diagnostics)
        super().__init__("; ".join(f"{d.kind.code} [{d.kind.slug}] {d.summary}" for d in self.diagnostics))

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self.diagnostics)


class Suggestion(str):
    """`did you mean "x"?`, a text that editors can act on: within the culprit, `wrong` is to be written `right`."""

    __slots__ = ("right", "wrong")

    wrong: str
    right: str

    def __new__(cls, wrong: str, right: str) -> Suggestion:
        suggestion = super().__new__(cls, f'did you mean "{right}"?')
        suggestion.wrong, suggestion.right = wrong, right
        return suggestion


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?`, a `Suggestion`, for the known word nearest to `word`; nothing where none is near."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return Suggestion(word, near[0]) if near else ""
