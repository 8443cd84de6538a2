"""Checking files without compiling them to anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detc.compiler.elaborate import elaborate
from detc.compiler.modules import Loader, Module, choose, spec_files
from detc.compiler.resolve import resolve
from detc.dsl.catalogue import syntax
from detc.dsl.diagnostics import Diagnostic, DiagnosticError


@dataclass(frozen=True)
class Checked:
    files: int
    detectors: int
    diagnostics: list[Diagnostic]


def check_paths(paths: list[Path], roots: tuple[Path, ...] = ()) -> Checked:
    """Every spec under these paths: names resolved in all components, every detector elaborated."""
    files, diagnostics = spec_files(paths)
    loader = Loader(roots)
    detectors = 0
    for file in files:
        try:
            module = loader.load(file)
            if not module.file.declarations:
                diagnostics.append(empty(module))
            faults = resolve(module)
            diagnostics += faults
            if module.file.default is not None:
                choose(module, None)
            for detector in module.detectors:
                detectors += 1
                if not faults:
                    diagnostics += elaborate(module, detector.name).warnings
        except DiagnosticError as error:
            diagnostics += error.diagnostics
    return Checked(len(files), detectors, unique(diagnostics))


def empty(module: Module) -> Diagnostic:
    """A file that declares nothing."""
    return syntax.EMPTY_FILE.at(
        None, f"{module.source.name} declares nothing", detail="declare a detector, or components"
    )


def unique(diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    """One mistake in the library shows in every detector that uses it; it is told once."""
    seen: dict[object, Diagnostic] = {}
    for diagnostic in diagnostics:
        span = diagnostic.labels[0].span if diagnostic.labels else None
        key = (diagnostic.kind.code, diagnostic.summary, (span.source.name, span.start) if span else None)
        seen.setdefault(key, diagnostic)
    return list(seen.values())
