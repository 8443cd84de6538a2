"""Turning the records that a spec holds into settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from detc.compiler.values import Record
from detc.dsl.catalogue.data import BAD_SETTING, UNKNOWN_RECORD
from detc.dsl.diagnostics import DiagnosticError, suggest


class SettingError(ValueError):
    """Raised by a settings class whose field `field` has an impossible value; `message` says what is possible."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


def require(condition: bool, field: str, message: str) -> None:
    """Raises SettingError where the condition does not hold."""
    if not condition:
        raise SettingError(field, message)


def interpret(record: Record, classes: tuple[type, ...]) -> Any:
    """An instance of the dataclass among `classes` that has the record's name, its fields filled from the record's.

    A dataclass field with the metadata of `one_of`, `list_of` or `lists_of` holds records.

    Raises:
        DiagnosticError: unknown-record for a record of another name, bad-setting for an impossible value.
    """
    known = {cls.__name__: cls for cls in classes}
    if record.name not in known:
        diagnostic = UNKNOWN_RECORD.at(
            record.span,
            f"{record.name} cannot stand here",
            label="this record",
            detail=f"what can: {', '.join(known)}. {suggest(record.name, known)}".strip(),
        )
        raise DiagnosticError(diagnostic)
    cls = known[record.name]
    values = {
        field.name: _field(record, field.name, record.fields[field.name], field.metadata)
        for field in dataclasses.fields(cls)
        if field.name in record.fields
    }
    try:
        return cls(**values)
    except SettingError as error:
        raise DiagnosticError(bad_setting(record, error.field, error.message)) from None


def bad_setting(record: Record, field: str, message: str, detail: str = "") -> Any:
    """The diagnostic for a field of a record with an impossible value; `detail` helps to mend it."""
    return BAD_SETTING.at(
        record.spans.get(field, record.span),
        f"{record.name}.{field} = {_text(record.fields[field])}: {message}",
        label="set here",
        detail=detail,
    )


def _field(record: Record, name: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    allowed = metadata.get("records")
    if allowed is None or value is None:
        return tuple(value) if isinstance(value, list) else value
    allowed = allowed() if callable(allowed) else allowed
    depth = metadata["depth"]
    try:
        return _built(value, allowed, depth)
    except _NotRecords:
        shape = ("a record", "a list of records", "a list of lists of records")[depth]
        message = f"must be {shape} such as {allowed[0].__name__}"
        raise DiagnosticError(bad_setting(record, name, message)) from None


class _NotRecords(Exception):
    """Where something else stands in place of records."""


def _built(value: Any, allowed: tuple[type, ...], depth: int) -> Any:
    """The settings of a record, of a list of records (depth 1), or of a list of such lists (depth 2)."""
    if depth and isinstance(value, tuple | list):
        return tuple(_built(item, allowed, depth - 1) for item in value)
    if depth or not isinstance(value, Record):
        raise _NotRecords
    return interpret(value, allowed)


def one_of(*classes: type) -> dict[str, Any]:
    """Metadata of a dataclass field that holds one record."""
    return {"records": classes, "depth": 0}


def list_of(*classes: type) -> dict[str, Any]:
    """Metadata of a dataclass field that holds a list of records."""
    return {"records": classes, "depth": 1}


def lists_of(classes: Callable[[], tuple[type, ...]]) -> dict[str, Any]:
    """Metadata of a dataclass field that holds a list of lists of records. The classes may be defined after it."""
    return {"records": classes, "depth": 2}


def _text(value: Any) -> str:
    """A value as the language writes it, shortened."""
    if value is None or isinstance(value, bool):
        text = {None: "none", True: "true", False: "false"}[value]
    elif isinstance(value, str):
        text = f'"{value}"'
    elif isinstance(value, Record):
        text = f"{value.name}(...)"
    elif isinstance(value, tuple | list):
        text = "[" + ", ".join(_text(v) for v in value) + "]"
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
