"""What a shell offers for a word that is being typed: specs, and their detectors after SPEC:.

typer asks these functions where `detc --install-completion` was run. A key press waits for them, so nothing is imported
that a check would not import, and what cannot be read is no completion.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import redirect_stdout, suppress
from io import StringIO
from itertools import islice
from pathlib import Path

# Of folders, so many specs are offered, from so many levels below the one that is typed.
MOST, LEVELS = 200, 2


def spec_files(incomplete: str) -> list[str]:
    """Specs whose path begins so; those in a folder stand for it, since a shell would end the word after a folder."""
    folder, _, start = incomplete.rpartition("/")
    root = Path(f"{folder}/" if folder or incomplete.startswith("/") else ".")
    prefix = f"{folder}/" if incomplete.count("/") else ""
    found = (path for name in _names(root, start) for path in _below(root / name, LEVELS))
    return [prefix + path.relative_to(root).as_posix() for path in islice(found, MOST)]


def detectors(incomplete: str) -> list[str]:
    """As `spec_files`, and after SPEC: the detectors of the spec."""
    file, colon, start = incomplete.rpartition(":")
    if not colon:
        return spec_files(incomplete)
    return [f"{file}:{name}" for name in _detectors(Path(file)) if name.startswith(start)]


def diagnostics_and_specs(incomplete: str) -> list[str]:
    """Codes and slugs of diagnostics, and what `detectors` offers."""
    from detc.dsl.explain import all_kinds

    known = [word for kind in all_kinds() for word in (kind.code, kind.slug)]
    return [word for word in known if incomplete and word.startswith(incomplete)] + detectors(incomplete)


def answer(app: Callable[..., object]) -> None:
    """Prints what the program offers for the command line that a shell gives in the environment.

    bash takes a colon for the end of a word, and replaces only what stands behind it: SPEC : NAME is joined before the
    program is asked, and SPEC: left out of what it offers.
    """
    cut = _join_colons(os.environ)
    offered = StringIO()
    with redirect_stdout(offered), suppress(SystemExit):
        app(prog_name="detc")
    for line in filter(None, offered.getvalue().splitlines()):
        print(line.removeprefix(cut))


def typed(environment: Mapping[str, str]) -> list[str]:
    """The words that stand on the command line whose end is asked for, without the program."""
    return (environment.get("COMP_WORDS") or environment.get("_TYPER_COMPLETE_ARGS", "")).split()[1:]


def _join_colons(environment: MutableMapping[str, str]) -> str:
    """Makes one word of SPEC, : and NAME; gives what bash does not replace of the last word."""
    words = environment.get("COMP_WORDS", "").split("\n")
    try:
        current = int(environment.get("COMP_CWORD", ""))
    except ValueError:
        return ""
    words = words[: current + 1] + [""] * (current + 1 - len(words))
    joined: list[str] = []
    for word in words:
        if joined and (word == ":" or joined[-1].endswith(":")):
            joined[-1] += word
        else:
            joined.append(word)
    if len(joined) == len(words):
        return ""
    environment["COMP_WORDS"] = "\n".join(joined)
    environment["COMP_CWORD"] = str(len(joined) - 1)
    return joined[-1][: joined[-1].rfind(":") + 1]


def _names(folder: Path, start: str) -> Iterator[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return
    yield from (name for name in names if name.startswith(start) and (start or not name.startswith(".")))


def _below(path: Path, levels: int) -> Iterator[Path]:
    if path.suffix == ".det":
        yield path
    elif levels and path.is_dir():
        for name in _names(path, ""):
            yield from _below(path / name, levels - 1)


def _detectors(file: Path) -> list[str]:
    from detc.compiler.modules import MAXIMUM_BYTES, parse_cached
    from detc.dsl.diagnostics import DiagnosticError
    from detc.dsl.source import Source
    from detc.dsl.tree import Detector

    try:
        if file.stat().st_size > MAXIMUM_BYTES:
            return []
        parsed = parse_cached(Source(str(file), file.read_text("utf-8-sig")))
    except (OSError, ValueError, DiagnosticError):
        return []
    return [declaration.name for declaration in parsed.declarations if isinstance(declaration, Detector)]
