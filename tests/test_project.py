"""The project as a user gets it: the wheel, on its own, outside the checkout."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import detc

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools would put what earlier builds left there into the wheel.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
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
    assert all((ROOT / "src" / name).exists() for name in inside if name.startswith("detc/"))
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


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_readmes_detectors_compile(tmp_path: Path) -> None:
    excerpt, row, spec = blocks("det")
    _, cell = excerpt.split("\n\n", maxsplit=1)
    assert cell in (ROOT / "specs/lib/necks.det").read_text()
    _, detector_of_row = row.split("\n\n", maxsplit=1)
    assert detector_of_row.removesuffix("}\n") in (ROOT / "specs/fpg.det").read_text()
    (tmp_path / "mine.det").write_text(spec)
    detector = detc.load(tmp_path / "mine.det", "mine")
    assert set(detector.graph.views) == {"forward", "train", "predict"}
    light = detc.load(tmp_path / "mine.det", "mine_light")
    assert light.graph["neck.fpn_convs.0.conv"].type.channels == 128


def test_the_readmes_diff_is_what_detc_prints() -> None:
    printed = next(text for text in blocks("text") if "checkpoint of the first" in text)
    rows = [f"specs/fpg.det:faster_rcnn_r50_{neck}_crop640_50e" for neck in ("fpn", "fpg")]
    done = subprocess.run(
        [sys.executable, "-m", "detc", "diff", *rows], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == printed


def test_the_readmes_python_runs() -> None:
    script, _ = blocks("python")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "128\n"


def test_the_pictures_of_the_documentation_are_what_detc_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "docs/pictures/graphs.py"))["pictures"]()
    stale = [
        name for name, text in drawn.items() if (ROOT / "docs/pictures" / name).read_text(encoding="utf-8") != text
    ]
    assert not stale, "run python docs/pictures/graphs.py"
    assert {path.name for path in (ROOT / "docs/pictures").glob("*.svg")} == drawn.keys()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/drawing.md"])
def test_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text())
    folder = (ROOT / document).parent
    missing = [link for link in links if not link.startswith("http") and not (folder / link).exists()]
    assert links and not missing
