"""What `detc doctor` finds, on machines that lack or have broken something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detc.runtime import doctor, selftest
from detc.runtime.doctor import Finding


def module(folder: Path, name: str, code: str, version: str = "9.9") -> None:
    """A package that stands before the installed one of this name."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_broken_packages_are_findings_and_no_tracebacks(tmp_path: Path) -> None:
    module(tmp_path, "torch", "raise OSError('libtorch_cpu.so: cannot open shared object file')")
    module(tmp_path, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    module(tmp_path, "onnxruntime", "import os\nos.abort()")
    module(tmp_path, "safetensors", "", version="0.1")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "PATH": str(tmp_path),  # no gcc, no nvcc, no nvidia-smi
        "CUDA_HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "detc", "doctor", "--format", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    found = {(f["section"], f["name"]): f for f in json.loads(done.stdout)["findings"]}
    torch = found["packages", "torch"]
    assert (torch["state"], "libtorch_cpu.so" in torch["text"]) == ("wrong", True)
    assert torch["remedy"] == "pip install --force-reinstall 'torch>=2.6'"
    assert found["packages", "torchvision"]["state"] == "absent"
    assert "torchvision::nms" in found["packages", "torchvision"]["text"]
    assert "ends the process" in found["packages", "onnxruntime"]["text"]
    assert found["packages", "safetensors"] == {
        "section": "packages",
        "name": "safetensors",
        "state": "wrong",
        "text": "0.1, which is not safetensors>=0.4.5",
        "remedy": "pip install 'safetensors>=0.4.5'",
    }
    assert found["packages", "lark"]["state"] == "fine"
    assert found["targets", "gcc"]["remedy"] == "apt-get install gcc"
    assert found["self test", "compile"]["state"] == "fine"
    assert found["self test", "torch"]["state"] == "wrong"
    assert ("self test", "llvm") not in found


def test_what_is_missing_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["nothing-of-this-name>=2", 'nor-this; extra == "tools"', 'numpy>=1; extra == "more"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)

    class About:
        def get_all(self, key: str) -> list[str]:
            return ["tools", "more"]

    monkeypatch.setattr("importlib.metadata.metadata", lambda name: About())
    monkeypatch.setattr(doctor, "OPTIONAL", ())
    rows = {name: (state, remedy) for name, state, _, remedy in (*doctor._packages(), *doctor._extras())}
    assert rows["nothing-of-this-name"] == ("wrong", "pip install 'nothing-of-this-name>=2'")
    assert rows["tools"] == ("absent", "pip install 'detc[tools]'")
    assert rows["more"] == ("fine", "")


def test_a_probe_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> object:
        raise OSError("no such device")

    for name in ("_packages", "_extras", "_machine", "_devices", "_targets", "_self_tests"):
        monkeypatch.setattr(doctor, name, fails)
    found = list(doctor.examine())
    assert len(found) == 6
    assert found[0] == Finding("packages", "packages", "wrong", "cannot be looked at: OSError: no such device")


@pytest.mark.parametrize("name", ["compile", "torch", "onnxruntime", "llvm"])
def test_the_self_tests_pass_here(name: str) -> None:
    assert selftest.TESTS[name]()


def test_a_target_with_other_values_fails_its_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, weights, expected = selftest._reference()
    monkeypatch.setattr(selftest, "_reference", lambda: (detector, weights, expected + 1))
    with pytest.raises(ValueError, match="differ from torch's by 1"):
        selftest.runs_in_onnxruntime()
