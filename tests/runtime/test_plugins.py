"""A project's own primitive: declared in its spec, computed by a file that the user names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import detc
from detc.runtime import plugins

SPEC = """
op third(factor: float = 3.0)(x: feature) -> (y: feature) {}
op shifted(x: feature) -> (y: feature) {
    weight shift: [x.channels] = constant(2.0)
}
model Only(body: block)(image: feature) -> feature { return image |> body: body }
block Body(x: feature) -> feature { return x |> third() |> move: shifted }
detector example : Only { body = Body }
"""
KERNELS = """
import torch

def third(x, *, factor):
    return x / factor

class shifted(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(weights["shift"]))

    def forward(self, x):
        return x + self.shift[:, None, None]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugins, "_files", [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.det").write_text(SPEC)
    (tmp_path / "kernels.py").write_text(KERNELS)
    return tmp_path


def test_a_spec_alone_finds_no_kernel(project: Path) -> None:
    with pytest.raises(detc.DiagnosticError, match="kernel-missing"):
        detc.load(project / "mine.det").module()


@pytest.mark.parametrize("how", ["register", "pyproject"])
def test_the_user_names_the_kernels(project: Path, how: str) -> None:
    if how == "register":
        plugins.register(project / "kernels.py")
    else:
        (project / "pyproject.toml").write_text('[tool.detc]\nkernels = ["kernels.py"]\n')
    module = detc.load(project / "mine.det").module()
    assert list(module.state_dict()) == ["body.move.shift"]
    out = module(torch.full((1, 3, 4, 4), 6.0))
    assert torch.equal(out["features"], torch.full((1, 3, 4, 4), 4.0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def relu(x): return x", "exists already"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_bad_plugin_is_named(project: Path, text: str, says: str) -> None:
    (project / "kernels.py").write_text(text)
    plugins.register(project / "kernels.py")
    with pytest.raises(detc.DiagnosticError, match=says):
        detc.load(project / "mine.det").module()


def test_a_missing_plugin_is_named(project: Path) -> None:
    with pytest.raises(detc.DiagnosticError, match="no file"):
        plugins.register(project / "missing.py")
