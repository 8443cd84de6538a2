"""Shell completion, by the protocol that the shells' scripts speak."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def bash(*words: str, folder: Path = ROOT) -> list[str]:
    """What is offered for the last of the words."""
    return ask({"COMP_WORDS": "\n".join(["detc", *words]), "COMP_CWORD": str(len(words))}, "complete_bash", folder)


def ask(environment: dict[str, str], instruction: str, folder: Path = ROOT) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "detc"],
        env={**os.environ, **environment, "_DETC_COMPLETE": instruction},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_verbs_and_options() -> None:
    assert bash("co") == ["compile", "convert"]
    assert bash("data", "v") == ["view"]
    assert bash("train", "specs/fpg.det", "--re") == ["--resume", "--remat", "--remat-budget"]


def test_specs_and_the_detectors_in_them(tmp_path: Path) -> None:
    (tmp_path / "zoo/deep").mkdir(parents=True)
    (tmp_path / "zoo/deep/a.det").write_text("detector one : M { }\ndetector other : M { }\nlet open = 1\n")
    (tmp_path / "zoo/b.det").write_text("")
    (tmp_path / "zoo/b.txt").write_text("")
    (tmp_path / "broken.det").write_text("detector { {")
    assert bash("check", "z", folder=tmp_path) == ["zoo/b.det", "zoo/deep/a.det"]
    assert bash("compile", "zoo/b", folder=tmp_path) == ["zoo/b.det"]
    assert bash("compile", "zoo/deep/a.det:o", folder=tmp_path) == ["zoo/deep/a.det:one", "zoo/deep/a.det:other"]
    assert bash("diff", "zoo/b.det", "broken.det:", folder=tmp_path) == []
    assert bash("diff", "zoo/b.det", "not-there.det:x", folder=tmp_path) == []


def test_bash_takes_a_colon_for_the_end_of_a_word() -> None:
    names = ["retinanet_r50_fpg_crop640_50e", "retinanet_r50_fpg_chn128_crop640_50e"]
    assert bash("compile", "specs/fpg.det", ":", "reti") == names
    assert set(names) < set(bash("compile", "specs/fpg.det", ":"))
    assert bash("diff", "specs/rpn.det", ":", "a", "specs/fpg.det", ":", "reti") == names


def test_codes_of_diagnostics() -> None:
    assert bash("explain", "stride") == ["stride-mismatch"]
    assert bash("explain", "E030")[:2] == ["E0301", "E0302"]


def test_zsh_and_fish() -> None:
    line = {
        "_TYPER_COMPLETE_ARGS": "detc compile specs/fpg.det:retinanet_r50_fpg_c",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    assert ask(line, "complete_fish") == [
        "specs/fpg.det:retinanet_r50_fpg_crop640_50e",
        "specs/fpg.det:retinanet_r50_fpg_chn128_crop640_50e",
    ]
    (first, _) = ask(line, "complete_zsh")
    assert first == r"""_arguments '*: :(("specs/fpg.det\\:retinanet_r50_fpg_crop640_50e\""""[:-2] + '"'


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_runs_the_script_that_is_shown(tmp_path: Path) -> None:
    program = tmp_path / "detc"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m detc "$@"\n')
    program.chmod(0o755)
    # typer looks at the shell that started it, which need not be bash here, unless it is told not to.
    asked = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run(
        [sys.executable, "-m", "detc", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
        env=asked,
    ).stdout
    script = f"""{shown}
COMP_WORDS=(detc compile specs/fpg.det : retinanet_r50_fpg_cr); COMP_CWORD=4
_detc_completion detc; echo "${{COMPREPLY[@]}}" """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "retinanet_r50_fpg_crop640_50e\n"
    assert done.stderr == ""


def test_completion_loads_neither_torch_nor_numpy() -> None:
    code = "import detc.cli, sys; detc.cli._run([]); print([n for n in ('torch', 'numpy', 'lark') if n in sys.modules])"
    asked = {"_DETC_COMPLETE": "complete_bash", "COMP_WORDS": "detc\nco", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["compile", "convert", "[]"]
