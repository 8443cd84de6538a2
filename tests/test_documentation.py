"""The pages of docs/: their commands and programs run, their links lead somewhere, the site's list of them is whole."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import pytest
import yaml
from commands import refused
from drawn import draw, voc_folder

import detc
from detc.cli import _run
from detc.runtime import plugins
from detc.runtime.checkpoint import save_weights
from detc.runtime.export import export

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Pages whose blocks are steps, one after the other in one folder.
STEPS = [page for page in PAGES if page.parent.name == "how-to" or page.stem in ("tutorial", "zoo")]
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    options: str
    text: str

    @property
    def commands(self) -> list[str]:
        return [line for line in self.text.splitlines() if line and not line.startswith("#")]


@cache
def blocks(page: Path) -> list[Block]:
    return [Block(*match) for match in _FENCE.findall(page.read_text("utf-8"))]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", STEPS, ids=name)
def test_the_steps_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        path = re.search(r"path=(\S+)", block.options)
        if path:
            (tmp_path / path[1]).write_text(block.text, "utf-8")
        elif "not-run" in block.options:
            assert block.language == "shell"
        elif block.language == "python":
            subprocess.run([sys.executable, "-c", block.text], check=True, capture_output=True)
        elif block.language == "shell":
            for command in block.commands:
                execute(command)


# What the other pages speak of: a detector, its data and weights, an export, pictures and a video.
MINE = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead, Anchors from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc, Resize, RandomFlip from "lib/data.det"
import schedule_1x from "lib/schedules.det"

detector mine : SingleStage {
    backbone = ResNet(18, channels = 8)
    neck     = FPN(16, levels = 3..6, extra = "output")
    head     = RetinaHead(stacked = 1, channels = 16, anchors = Anchors(octaves = 1))
    data     = voc(["square", "disc"], root = "pets", augment = [Resize([96, 64]), RandomFlip()])
        with { resize = Resize([96, 64]) }
    schedule = schedule_1x with { epochs = 1  decay = none }
}
"""
# Commands that are not run, by what stands in them.
NEEDS = {
    "--devices 8": "eight GPUs",
    "--data coco": "COCO",
    "--resume": "a run that was stopped",
    "main/specs": "two checkouts of a project",
    "detc lsp": "an editor",
    "detc tune": "a GPU",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "mine.det").write_text(MINE, "utf-8")
    voc_folder(folder / "pets", {"train": 4, "val": 2, "test": 2})
    detector = detc.load(folder / "mine.det")
    module = detector.module("predict")
    save_weights(folder / "best.safetensors", module.state_dict(), detector)
    export(detector, module, folder / "mine-llvm.detc", target="onnx", sizes=[(64, 96)])
    picture = draw(0)[0]
    for name in ("street.jpg", "photos/a.jpg", "more/deep/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), picture)
    video = cv2.VideoWriter(str(folder / "ride.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for _ in range(6):
        video.write(picture)
    video.release()
    (folder / "specs").symlink_to(ROOT / "specs")
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if p not in STEPS and p.stem != "errors"], ids=name)
def test_the_commands_and_programs_of_other_pages_run(
    page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    for line in command_lines(page):
        if not any(needed in line for needed in NEEDS):
            execute(line)
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, page.name, "exec"), {})


def execute(command: str) -> None:
    """A line of a page; those of detc in this process, which saves loading torch for each."""
    program, *words = shlex.split(command, comments=True)
    if program == "detc":
        try:
            status = _run(words)
        except BaseException as error:
            if type(error).__name__ != "Exit" and not isinstance(error, SystemExit):
                raise
            status = getattr(error, "exit_code", 1)
        finally:
            plugins._files.clear()
        assert status == ("exits with 1" in command), command
    else:
        assert program == "python", command
        subprocess.run([sys.executable, *words], check=True, capture_output=True)


def command_lines(page: Path) -> list[str]:
    """Every line of a page that is a command of detc: in shell blocks, and in those that are indented."""
    shell = [line for block in blocks(page) if block.language in ("shell", "") for line in block.commands]
    indented = re.findall(r"^    (detc .*)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return [line for line in (*shell, *indented) if line.startswith("detc ")]


# The commands of errors.md are examples of what is wrong, which test_catalogue.py runs.
@pytest.mark.parametrize(
    "page", [*(p for p in PAGES if p.stem != "errors"), ROOT / "README.md", ROOT / "examples/bccd/README.md"], ids=name
)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    wrong = {line: refused(line) for line in command_lines(page)}
    assert {line: why for line, why in wrong.items() if why is not None} == {}


def anchors(page: Path) -> set[str]:
    """What can stand behind # in a link to a page, as GitHub and MkDocs make it of headings."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def listed(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    children = entry.values() if isinstance(entry, dict) else entry
    return [path for child in children for path in listed(child)]


def test_the_site_lists_every_page_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(listed(settings["nav"])) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)
    assert settings["theme"]["font"] is False, "fonts would come from another machine"


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_zoos_pages_have_the_figures_and_a_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = module(DOCS / "zoo_pages.py")
    monkeypatch.setattr(made, "specs_folder", lambda: Few(ROOT / "specs", "scratch.det"))
    pages = made.zoo_pages()
    assert sorted(pages) == ["zoo/scratch.md", "zoo/scratch.svg"]
    rows = [line for line in pages["zoo/scratch.md"].splitlines() if line.startswith("| `")]
    text = (ROOT / "specs/scratch.det").read_text("utf-8")
    assert len(rows) == len(re.findall(r"^detector ", text, re.MULTILINE))
    (figure,) = {re.search(r"box_ap\s*=\s*([\d.]+)", text)[1]} - {""}  # type: ignore[index]
    assert figure in pages["zoo/scratch.md"]
    table = [line for line in pages["zoo/scratch.md"].splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1, "every row has as many cells"
    assert set(table[1]) == set("|- ")
    assert all(" | ran | " in row for row in rows), "each was exported to onnx and run"
    assert pages["zoo/scratch.svg"].startswith("<svg")


class Few:
    """A folder of which one file is seen."""

    def __init__(self, folder: Path, only: str) -> None:
        self.folder, self.only = folder, only

    def glob(self, pattern: str) -> list[Path]:
        return [self.folder / self.only]


@pytest.mark.parametrize(
    ("text", "fetches"),
    [
        ('<script src="https://unpkg.com/mermaid.js"></script>', True),
        ('<link rel="stylesheet" href="https://fonts.googleapis.com/css">', True),
        ("@font-face { src: url(//fonts.gstatic.com/a.woff2) }", True),
        ('<a href="https://squidfunk.github.io">Material</a> <img src="zoo/fpg.svg">', False),
        ('<link rel="canonical" href="https://example.org/">', False),
    ],
)
def test_what_a_built_page_would_fetch_is_found(text: str, fetches: bool) -> None:
    assert bool(module(DOCS / "build.py")._FETCHED.search(text)) is fetches


def test_pages_that_are_steps_say_what_they_do_not_run() -> None:
    skipped = [page.stem for page in PAGES for block in blocks(page) if "not-run" in block.options]
    assert skipped == ["distributed"]
