"""What an editor's questions are answered from: a project, and what has been found out about its files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from detc.compiler.language.names import Bindings, Symbol, bind, enclosing, walked
from detc.compiler.language.observe import Observation, observe
from detc.compiler.language.project import Project
from detc.compiler.modules import Module
from detc.dsl import tree as t
from detc.dsl.diagnostics import DiagnosticError

# How many elaborated detectors are kept: a hover and the completions after it ask of the same few.
MAXIMUM_OBSERVATIONS = 8


class Session:
    """A project with its bindings and observations, each made when it is first asked for and kept while it holds."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._bindings: dict[Path, tuple[Module, Bindings]] = {}
        self._observations: OrderedDict[tuple[Path, str, Path], tuple[Module, Module, Observation]] = OrderedDict()

    def bindings(self, path: Path) -> Bindings:
        """What the names of a file refer to.

        Raises:
            DiagnosticError: where the file cannot be read.
        """
        module = self.project.module(path)
        known = self._bindings.get(module.path)
        if known is None or known[0] is not module:
            known = self._bindings[module.path] = module, bind(module)
        return known[1]

    def declaration(self, symbol: Symbol) -> tuple[t.Declaration, t.Parameter | None] | None:
        """The declaration that a symbol is of or in, and the parameter or input that it is, if it is one."""
        try:
            file = self.project.parsed(symbol.path).file
        except DiagnosticError:
            return None
        for declaration in file.declarations:
            if declaration.start <= symbol.start <= declaration.end:
                parameters = [n for n in walked(declaration) if isinstance(n, t.Parameter)]
                return declaration, next((p for p in parameters if p.name and p.start == symbol.start), None)
        return None

    # ---- detectors in which a file is seen --------------------------------------------------------------------------

    def detectors_for(self, module: Module, offset: int) -> Iterator[tuple[Module, str]]:
        """Detectors in which the place at an offset may be reached, the likeliest first: the one around it, those of
        its file, and those of files that import it, open ones before others."""
        around = enclosing(module, offset)
        if isinstance(around, t.Detector):
            yield module, around.name
            return
        name = around.name if around is not None else ""
        for user in self._users(module, name):
            yield from ((user, detector.name) for detector in _distinct(user))

    def _users(self, module: Module, name: str) -> Iterator[Module]:
        yield module
        others: list[Module] = []
        for path in self._neighbours(module):
            try:
                if module.path not in self.project.imports(path):
                    continue
                user = self.project.module(path)
            except DiagnosticError:
                continue
            # A file that mentions the component is likelier to use it than one that imports another of its file.
            if name and name in user.source.text:
                yield user
            else:
                others.append(user)
        yield from others

    def _neighbours(self, module: Module) -> list[Path]:
        specs = self.project.specs()
        near = [p for folder in (module.path.parent, module.path.parent.parent) for p in sorted(folder.glob("*.det"))]
        return [p for p in dict.fromkeys([*specs, *near]) if p != module.path]

    def observation(self, user: Module, detector: str, path: Path) -> Observation | None:
        """What is seen of the file at `path` in a detector of a module."""
        try:
            watched = self.project.module(path)
        except DiagnosticError:
            return None
        key = (user.path, detector, path)
        known = self._observations.get(key)
        # A file that is watched from another is loaded for that one too: it has the same tree.
        if known is None or known[0] is not user or known[1].file is not watched.file:
            self.project.work["observed"] += 1
            known = user, watched, observe(user, detector, path)
            self._observations[key] = known
            while len(self._observations) > MAXIMUM_OBSERVATIONS:
                self._observations.popitem(last=False)
        self._observations.move_to_end(key)
        return known[2]

    def latest(self, path: Path) -> Iterator[Observation]:
        """Observations of a file, the latest first, of versions before the present one too: what completion goes by
        while the text is broken."""
        for key in reversed(self._observations):
            if key[2] == path:
                yield self._observations[key][2]


def _distinct(module: Module) -> list[t.Detector]:
    """A module's detectors, those that stand for themselves before variants."""
    return sorted(module.detectors, key=lambda d: d.model is None)
