"""Runs the literate cases of this folder and of the documentation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from harness import Case, cases, run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = [*sorted(HERE.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"]
CASES = [case for file in FILES for case in cases(file)]


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_case(case: Case, tmp_path: Path) -> None:
    run(case, tmp_path)


def test_the_specification_has_cases() -> None:
    assert sum(c.name.startswith("language:") for c in CASES) >= 15
