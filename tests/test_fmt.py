"""`detc fmt`, from the outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

UGLY, NICE = "let   a=1", "let a = 1\n"


def fmt(*arguments: str | Path, text: bytes = b"") -> tuple[int, str, str]:
    """Exit status, output and errors."""
    command = [sys.executable, "-m", "detc", "fmt", *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one spec to change, one that is as it should be, one that is no spec, and another file."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "ugly.det").write_text(UGLY)
    (tmp_path / "nice.det").write_text(NICE)
    (tmp_path / "wrong.det").write_text("let a = (\n")
    (tmp_path / "other.txt").write_text(UGLY)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.rglob("*.*")}


def test_files_are_changed_where_they_must(folder: Path) -> None:
    before = contents(folder)
    kept = (folder / "nice.det").stat()
    (folder / "inner" / "ugly.det").chmod(0o600)
    status, output, errors = fmt(folder)
    assert (status, output) == (1, "")
    assert "[unterminated]" in errors and "3 files, 1 changed" in errors
    assert contents(folder) == {**before, "ugly.det": NICE}
    after = (folder / "nice.det").stat()
    assert (after.st_ino, after.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    assert (folder / "inner" / "ugly.det").stat().st_mode & 0o777 == 0o600
    (folder / "wrong.det").unlink()
    assert fmt(folder) == (0, "", "2 files, 0 changed\n")


@pytest.mark.parametrize("option", ["--check", "--diff"])
def test_nothing_is_written_when_asked(folder: Path, option: str) -> None:
    before = contents(folder)
    ugly, nice = folder / "inner" / "ugly.det", folder / "nice.det"
    status, output, errors = fmt(option, ugly, nice)
    assert status == 1 and "2 files, 1 would change" in errors
    assert ("ugly.det would change" in errors) == (option == "--check")
    assert ("\n-let   a=1\n\\ No newline at end of file\n+let a = 1\n" in output) == (option == "--diff")
    assert contents(folder) == before
    assert fmt(option, nice)[0] == 0


def test_standard_input_goes_to_standard_output(folder: Path) -> None:
    assert fmt("-", text=b"\xef\xbb\xbflet  a=1 # \xc3\xbc\r\n") == (0, "let a = 1    # \u00fc\n", "")
    assert fmt("-", "--check", text=UGLY.encode()) == (1, "", "<stdin> would change\n")
    assert fmt("-", "--check", text=NICE.encode()) == (0, "", "")
    status, output, errors = fmt("-", text=b"let a = (")
    assert (status, output) == (1, "") and "<stdin>:1:9" in errors
    status, output, errors = fmt("-", text=b"let a = \xff")
    assert (status, output) == (1, "") and "[not-utf8]" in errors


def test_line_ends_and_a_byte_order_mark_are_a_change(tmp_path: Path) -> None:
    for data in (b"let a = 1\r\n", b"\xef\xbb\xbflet a = 1\n"):
        (tmp_path / "a.det").write_bytes(data)
        assert fmt("--check", tmp_path)[0] == 1
        assert fmt(tmp_path)[0] == 0
        assert (tmp_path / "a.det").read_bytes() == NICE.encode()


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "target.det").write_text(UGLY)
    (tmp_path / "link.det").symlink_to("target.det")
    assert fmt(tmp_path / "link.det")[0] == 0
    assert (tmp_path / "link.det").is_symlink()
    assert (tmp_path / "target.det").read_text() == NICE


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.det"):
        status, _, errors = fmt(path)
        assert status == 1 and "[unreadable-file]" in errors


def test_numbers_are_not_worked_with() -> None:
    """Nothing large is imported: an editor formats at every save."""
    program = (
        "import sys; sys.argv = ['detc', 'fmt', '--check', '-']\n"
        "from detc.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'numpy', 'networkx'} & set(sys.modules), set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=NICE.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_pages_are_laid_out_when_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Let\n\n```det\nlet a=1\n```\n")
    (tmp_path / "spec.det").write_text("let a = 1\n")
    # A folder is its specs.
    assert fmt(tmp_path)[0] == 0
    assert page.read_text().endswith("let a=1\n```\n")
    assert fmt(page, "--check")[0] == 1
    assert fmt(page)[0] == 0
    assert page.read_text() == "# Let\n\n```det\nlet a = 1\n```\n"
    assert fmt(page, "--check")[0] == 0
