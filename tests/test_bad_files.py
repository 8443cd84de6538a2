"""Files that are no specs, as a user of the command line meets them: a diagnostic, exit status 1, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detc", "check", str(path)], capture_output=True, text=True, timeout=20, check=False
    )


@pytest.mark.parametrize(
    ("content", "slug"),
    [
        (b"let a = " + b"(" * 10_000 + b"1" + b")" * 10_000, "nested-too-deeply"),
        (b"let a = " + b"-" * 10_000 + b"1", "nested-too-deeply"),
        (b"let a = " + b"1 + " * 10_000 + b"1", "nested-too-deeply"),
        (b"let a = x" + b".y" * 10_000, "nested-too-deeply"),
        (b"let a = \xff\xfe\x00", "not-utf8"),
        (b"", "empty-file"),
        (b"# only a comment\n", "empty-file"),
        (b"\x00\x01\x02", "syntax-error"),
        (b"#" * 1_000_001, "too-large-file"),
        (b"detector a : Missing { }", "unknown-name"),
    ],
    ids=["parentheses", "signs", "sums", "fields", "bytes", "empty", "comment", "control", "large", "model"],
)
def test_bad_file(tmp_path: Path, content: bytes, slug: str) -> None:
    path = tmp_path / "bad.det"
    path.write_bytes(content)
    done = check(path)
    assert done.returncode == 1
    assert f"[{slug}]" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_file(tmp_path: Path) -> None:
    (tmp_path / "retinanet.det").write_text("let a = 1")
    done = check(tmp_path / "retinanett.det")
    assert done.returncode == 1
    assert "[unreadable-file]" in done.stderr
    assert 'did you mean "retinanet.det"?' in done.stderr


def test_a_link_out_of_the_roots_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "parts.det").write_text("let a = 1")
    project = tmp_path / "project"
    project.mkdir()
    (project / "link.det").symlink_to(secret / "parts.det")
    (project / "mine.det").write_text('import a from "link.det"')
    done = check(project / "mine.det")
    assert done.returncode == 1
    assert "[import-outside-roots]" in done.stderr


def test_check_never_imports_torch() -> None:
    code = (
        "import sys; sys.argv = ['detc', 'check', 'specs']\n"
        "from detc.cli import main\n"
        "try: main()\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "heavy = {'torch', 'onnx', 'tvm', 'numpy', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
