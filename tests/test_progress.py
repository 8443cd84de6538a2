"""How far a command is, where there is no terminal."""

from __future__ import annotations

import pytest

from detc.cli import progress
from detc.cli.progress import watched


def test_a_line_now_and_then_says_how_much_is_left(monkeypatch, capsys):
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(watched([1, 2, 3, 4], "evaluating")) == [1, 2, 3, 4]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "evaluating: 1/4, 2 min left",
        "evaluating: 2/4, 1 min left",
        "evaluating: 3/4, 0 min left",
        "evaluating: 4/4, 0 min left",
    ]


def test_nothing_is_said_of_what_is_quick_and_errors_pass(capsys):
    def items():
        yield 1
        raise KeyError

    with pytest.raises(KeyError):
        list(watched(items(), "evaluating"))
    assert capsys.readouterr().err == ""
