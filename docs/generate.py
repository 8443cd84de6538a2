"""Writes the pages of the documentation that are made from the program: `python docs/generate.py`."""

from __future__ import annotations

from pathlib import Path

from detc.dsl.explain import all_kinds, to_page

DOCS = Path(__file__).parent


def pages() -> dict[Path, str]:
    """The text of each generated page that is kept in the repository, for readers on GitHub."""
    return {DOCS / "errors.md": to_page(all_kinds())}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
