"""What is to be said of the place under the cursor: its declaration, its documentation, and what is inferred of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from detc.compiler.builtins import BUILTINS
from detc.compiler.dims import Dim
from detc.compiler.language.names import Occurrence, Symbol, enclosing, kind_of, walked
from detc.compiler.language.observe import Observation, Use
from detc.compiler.language.session import Session
from detc.compiler.modules import Module, shown_path
from detc.compiler.overrides import configured
from detc.compiler.provenance import shown
from detc.compiler.scope import Bundle, Closure, DetectorValue, Function, Pyramid, Tensor
from detc.dsl import tree as t

# How long detectors are elaborated for one hover, in seconds: a file of a library may have many users.
PATIENCE = 0.6
# How many different values of one place are listed.
MAXIMUM_LINES = 8


@dataclass(frozen=True)
class Hover:
    """Markdown, and the part of the text that it is about."""

    text: str
    start: int
    end: int


def hover(session: Session, path: Path, offset: int) -> Hover | None:
    """What is known of the place at an offset, or nothing.

    Raises:
        DiagnosticError: where the file cannot be read.
    """
    module = session.project.module(path)
    occurrence = session.bindings(path).at(offset)
    node = _expression(module, offset)
    if occurrence is None and node is None:
        return None
    parts: list[str] = []
    if occurrence is not None:
        parts += _said(session, occurrence.symbol)
    elif isinstance(node, t.Name) and node.name in BUILTINS:
        parts.append(f"`{node.name}`: a function of the language")
    inferred = _inferred(session, module, offset, occurrence, node)
    if inferred:
        parts.append(inferred)
    if not parts:
        return None
    place = occurrence or node
    assert place is not None
    return Hover("\n\n---\n\n".join(parts), place.start, place.end)


# ---- what is written ------------------------------------------------------------------------------------------------


def _said(session: Session, symbol: Symbol) -> list[str]:
    """The declaration of a symbol and its documentation."""
    if symbol.kind == "file":
        doc = session.project.parsed(symbol.path).file.doc
        return [f"```det\n{symbol.name}\n```\n{shown_path(symbol.path)}", *([doc] if doc else [])]
    found = session.declaration(symbol)
    if found is None:
        return [f"{symbol.kind} `{symbol.name}`"]
    declaration, parameter = found
    if parameter is not None:
        owner = f"{symbol.kind} of {kind_of(declaration)} {declaration.name}"
        end = parameter.default.end if parameter.default is not None else parameter.type.end
        text = declaration.source.text[parameter.start : end]
        # On the line of its declaration, the lines above are the declaration's.
        doc = parameter.doc if parameter.doc != declaration.doc else ""
        return [f"```det\n{text}\n```\n{owner}", *([doc] if doc else [])]
    if symbol.name == declaration.name and symbol.start == declaration.name_start:
        return [f"```det\n{signature(declaration)}\n```", *([declaration.doc] if declaration.doc else [])]
    return [f"{symbol.kind} `{symbol.name}` of {kind_of(declaration)} {declaration.name}"]


def signature(declaration: t.Declaration) -> str:
    """A declaration without its body, as it is written."""
    text = declaration.source.text
    match declaration:
        case t.Component():
            ends = [p.end for p in declaration.parameters + declaration.inputs + declaration.results]
            head = text[declaration.start : text.find("{", max(ends, default=declaration.start))]
        case t.RecordOf():
            ends = [p.end for p in declaration.parameters]
            head = text[declaration.start : text.find(")", max(ends, default=declaration.start)) + 1]
        case t.Detector():
            base = declaration.base.base if isinstance(declaration.base, t.With) else declaration.base
            end = base.end if base is not None else declaration.model.end if declaration.model is not None else 0
            head = text[declaration.start : end]
        case _:
            head = text[declaration.start : declaration.end]
    lines = head.strip().splitlines()
    return "\n".join([*lines[:30], "..."] if len(lines) > 30 else lines)


# ---- what is inferred -----------------------------------------------------------------------------------------------


def _inferred(
    session: Session,
    module: Module,
    offset: int,
    occurrence: Occurrence | None,
    node: t.Tree | None,
) -> str:
    """Types and parameter counts, from the first detector in which the place is reached."""
    began = time.monotonic()
    for user, detector in session.detectors_for(module, offset):
        seen = session.observation(user, detector, module.path)
        if seen is not None:
            lines = list(_facts(seen, module, offset, occurrence, node))
            if lines:
                return "\n".join([*lines, "", f"in `{detector}`"])
        if time.monotonic() - began > PATIENCE:
            break
    return ""


def _facts(
    seen: Observation, module: Module, offset: int, occurrence: Occurrence | None, node: t.Tree | None
) -> Iterator[str]:
    uses = _uses(seen, module, offset)
    if uses:
        yield from describe_values([use.result for use in uses])
        yield from _counted(seen, uses)
        return
    closure = _configured(seen, module, offset)
    if closure is not None:
        yield from describe_values([closure])
        yield from _counted(seen, seen.of(closure))
        return
    if occurrence is not None and occurrence.role == "definition" and occurrence.symbol.kind in ("parameter", "input"):
        declaration = enclosing(module, offset)
        key = (declaration.name if declaration is not None else "", occurrence.symbol.name)
        if key in seen.variables:
            yield from describe_values([seen.variables[key]])
        return
    field = _field(module, offset)
    if field is not None and occurrence is not None and occurrence.role == "write":
        yield from _field_facts(seen, field)
        return
    if node is not None and node in seen.values:
        values = seen.values[node]
        yield from describe_values(values)
        closures = [value for value in values if isinstance(value, Closure)]
        yield from _counted(seen, [use for closure in closures if closure.arguments for use in seen.of(closure)])


def _uses(seen: Observation, module: Module, offset: int) -> list[Use]:
    """The applications of the component whose name or label is under the cursor."""
    found: list[tuple[int, int]] = []
    for node in walked(enclosing(module, offset)):
        if not node.start <= offset <= node.end:
            continue
        match node:
            case t.Labelled() if _touches(node.label, offset) or _touches(_callee(node.body), offset):
                # After |> it is the body that is applied, under the label.
                found += [(node.start, node.end), (node.body.start, node.body.end)]
            case t.Call() | t.Name() if _touches(_callee(node), offset):
                found.append((node.start, node.end))
    # The whole of f(a)(x) before its part f(a).
    found.sort(key=lambda place: place[0] - place[1])
    return next((seen.uses[place] for place in found if place in seen.uses), [])


def _configured(seen: Observation, module: Module, offset: int) -> Closure | None:
    """The component that is configured, and not applied here, where its name is under the cursor."""
    for node in walked(enclosing(module, offset)):
        if isinstance(node, t.Call) and node.start <= offset <= node.end and _touches(_callee(node), offset):
            values = seen.values.get(node, [])
            return values[0] if values and isinstance(values[0], Closure) else None
    return None


def _touches(node: t.Tree, offset: int) -> bool:
    return node.start <= offset <= node.end


def _callee(node: t.Expr) -> t.Expr:
    while isinstance(node, t.Call):
        node = node.function
    return node


def _counted(seen: Observation, uses: list[Use]) -> Iterator[str]:
    if not uses:
        return
    paths = list(dict.fromkeys(use.path for use in uses if use.path))
    count, trained = seen.parameters(uses)
    if count:
        frozen = "" if count == trained else f", {trained:,} of them trained" if trained else ", all frozen"
        yield f"- {count:,} parameters{frozen}"
    if paths:
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        yield f"- at {', '.join(f'`{path}`' for path in paths[:4])}{more}"


def _field_facts(seen: Observation, field: t.Field) -> Iterator[str]:
    """A field of a detector: its value, and what the component that it is costs."""
    for value in seen.values.get(field.value, [])[:1]:
        yield from describe_values([value])
        if isinstance(value, Closure):
            yield from _counted(seen, seen.of(value))


def describe_values(values: list[Any]) -> Iterator[str]:
    """Each different value, as a list of Markdown."""
    lines = list(dict.fromkeys(line for value in values for line in _lines(value)))
    yield from lines[:MAXIMUM_LINES]
    if len(lines) > MAXIMUM_LINES:
        yield f"- and {len(lines) - MAXIMUM_LINES} more"


def _lines(value: Any) -> Iterator[str]:
    match value:
        case Tensor():
            yield f"- {_tensor(value)}"
        case Pyramid() if any(isinstance(item, Tensor) for item in value.entries.values()):
            for level, item in value.entries.items():
                yield f"- level {level}: {_tensor(item) if isinstance(item, Tensor) else shown(item)}"
        case Bundle():
            for name, item in value.entries.items():
                inside = list(_lines(item))
                yield f"- `{name}`: " + "; ".join(line.removeprefix("- ") for line in inside)
        case tuple() if any(isinstance(item, Tensor) for item in value):
            for index, item in enumerate(value):
                yield f"- {index}: {_tensor(item) if isinstance(item, Tensor) else shown(item)}"
        case DetectorValue():
            yield f"- {_model(value)}"
        case Closure():
            yield f"- `{shown(value)}`"
        case Function():
            return
        case None | bool() | int() | float() | str() | Fraction() | Dim():
            yield f"- value `{shown(value)}`"
        case _:
            yield f"- `{shown(value)}`"


def _tensor(value: Tensor) -> str:
    kind = value.type
    if not kind.is_feature:
        return f"`{kind}`"
    stride = "no grid" if kind.stride is None else f"stride {kind.stride}"
    return f"{kind.shape[1]} channels, {stride}, `{kind}`"


def _model(value: DetectorValue) -> str:
    model = configured(value)
    return f"`{model.name}({', '.join(model.arguments)})`"


# ---- places ---------------------------------------------------------------------------------------------------------


def _field(module: Module, offset: int) -> t.Field | None:
    """The innermost `path = value` whose path is at the offset."""
    declaration = enclosing(module, offset)
    found = [n for n in walked(declaration) if isinstance(n, t.Field) and n.start <= offset < n.value.start]
    return found[-1] if found else None


def _expression(module: Module, offset: int) -> t.Tree | None:
    """The smallest expression or target at an offset; right behind one counts as at it."""
    declaration = enclosing(module, offset)
    if declaration is None:
        return None
    around = [n for n in walked(declaration) if n.start <= offset <= n.end and not isinstance(n, _NO_VALUES)]
    return min(around, key=lambda n: (n.end - n.start, n.end == offset), default=None)


_NO_VALUES = (t.Declaration, t.Parameter, t.Type, t.Argument, t.Field)
