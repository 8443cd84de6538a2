"""Static values that leave the language: what `data`, `schedule` and `reported` hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detc.dsl.source import Span


@dataclass(frozen=True)
class Record:
    """An evaluated `record` of the language: its declared name, and every field with its value (defaults filled in).

    Field values are numbers, strings, booleans, None, lists (tuples) and records. `spans` says where each field was
    set, for diagnostics about a value that turns out wrong at run time."""

    name: str
    fields: Mapping[str, Any]
    span: Span | None = field(default=None, compare=False)
    spans: Mapping[str, Span] = field(default_factory=dict, compare=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(f"record {self.__dict__.get('name')} has no field {name}") from None

    def as_json(self) -> dict[str, Any]:
        """Nested dicts and lists, the record's name under "record"."""

        def plain(value: Any) -> Any:
            if isinstance(value, Record):
                return value.as_json()
            if isinstance(value, tuple | list):
                return [plain(v) for v in value]
            return value

        return {"record": self.name, **{k: plain(v) for k, v in self.fields.items()}}
