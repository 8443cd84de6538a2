"""The project as a user gets it: the wheel, on its own, outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "dsl", "compiler", "runtime", "specs"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"detc/{name}" for name in tracked.stdout.split() if (ROOT / name).exists()} - inside == set()
    assert any(name.endswith("/LICENSE") for name in inside)


def test_the_wheel_checks_and_compiles_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # The dependencies are those of this interpreter; its own, editable, detc is not seen through a .pth file.
    (site,) = (tmp_path / "venv/lib").glob("*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "mine.det").write_bytes((ROOT / "specs/fpg.det").read_bytes())

    def detc(*arguments: str) -> str:
        command = [str(tmp_path / "venv/bin/detc"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    detc("check", "mine.det")
    assert "Conv2d(" in detc("compile", "mine.det:retinanet_r50_fpg_crop640_50e", "--emit", "graph")
    where = subprocess.run(
        [python, "-c", "import detc; print(detc.__file__)"], check=True, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(tmp_path))
