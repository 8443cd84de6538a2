"""The examples of every diagnostic's explanation, run."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import pytest
from commands import refused
from drawn import coco_file, draw, voc_folder

import detc
from detc.compiler.check import check_paths
from detc.compiler.modules import specs_folder
from detc.dsl.diagnostics import DiagnosticError, Example, Kind
from detc.dsl.explain import FAMILIES, all_kinds, to_terminal
from detc.runtime.checkpoint import load_weights, save_weights
from detc.runtime.export import export
from detc.runtime.verify import verify

ROOT = Path(__file__).parents[2]
KINDS = all_kinds()
EXAMPLES = [(kind, title) for kind in KINDS for title in ("wrong", "right")]
NAMES = [f"{kind.code}-{title}" for kind, title in EXAMPLES]

# What a component called Example is put into.
AROUND = {
    "block": """
model Only(body: block)(image: feature) -> feature { return image |> body: body }
detector example : Only { body = Example }
""",
    "neck": """
model Features(backbone: backbone, neck: neck)(image: feature) -> pyramid {
    return image |> backbone: backbone |> neck: neck
}
detector example : Features { backbone = ResNet(18, levels = 4..5)  neck = Example }
""",
    "head": """
model WithHead(backbone: backbone, head: head)(image: feature) -> bundle {
    return image |> backbone: backbone |> bbox_head: head(image = image)
}
detector example : WithHead { backbone = ResNet(18)  head = Example  classes = ["a", "b"] }
""",
}

# The spec that commands name.
MINE = """
detector mine : SingleStage {
    backbone   = ResNet(18, channels = 8)
    neck       = FPN(16, levels = 3..7, extra = "input")
    head       = RetinaHead(stacked = 1, channels = 16)
    data       = voc(["square", "disc"], root = "shapes", resize = Resize([96, 64])) with { test = [] }
    schedule   = schedule_1x with { epochs = 1 }
    pretrained = "resnet18.pth"
}
"""

BARE = re.sub(r"(?m)^ +(data|schedule|pretrained) .*\n", "", MINE.replace("mine", "bare")).replace(
    "channels = 16)\n", 'channels = 16)\n    classes = ["square", "disc"]\n'
)

# Examples in Python that are kernels, with the spec that they are for.
KERNELS_FOR = {
    "E0501": "op swish(x: feature) -> (y: feature) {}\nblock Example(x: feature) -> feature { return x |> swish }",
    "E0502": "op Scale(x: feature) -> (y: feature) { weight scale: [x.channels] = ones() }\n"
    "block Example(x: feature) -> feature { return x |> scale: Scale }",
    "E0790": "op soft_relu(x: feature) -> (y: feature) {}\n"
    "block Example(x: feature) -> feature { return x |> soft_relu }",
}

# Examples of which the form alone is checked, by why.
NOT_RUN = {
    "what is there to be had differs from one machine to another": {
        "E0630", "E0711", "E0712", "E0730", "E0804", "E0805", "E0806", "E0813", "E0818",
    },
    "takes a minute or COCO: a diverging run, compiling": {"E0618", "E0704", "E0807-right", "E0819-right", "E0820"},
    "what something else makes: proposals, a recording, a stopped run, augmentations, a head without nms": {
        "E0619", "E0620", "E0627", "E0706-right", "E0721", "E0722", "E0801",
    },
}  # fmt: skip
SKIPPED = set().union(*NOT_RUN.values())
# Commands of which a run stands before, in the folder where they look.
AFTER = {
    "E0705-right": "detc train mine.det --from-scratch --workers 0 --output runs/mine --epochs 1",
}


@cache
def library() -> dict[str, str]:
    """Every name that a file of detc's own declares, and the file."""
    from detc.compiler.modules import Loader

    specs = specs_folder()
    loader = Loader()
    files = sorted(specs.glob("lib/*.det")) + sorted(specs.glob("*.det"))
    found: dict[str, str] = {}
    for file in files:
        if file.name != "ops.det":
            for declaration in loader.load(file).file.declarations:
                found.setdefault(declaration.name, file.relative_to(specs).as_posix())
    return found


def whole(text: str) -> str:
    """An example with what it leaves out: imports, and the detector around a component called Example."""
    component = re.search(r"^(block|neck|head) Example\b", text, re.MULTILINE)
    if component and not re.search(r"^detector\b", text, re.MULTILINE):
        text += AROUND[component[1]]
    code = re.sub(r'"[^"\n]*"?|#.*', "", text)
    there = set(re.findall(r"\b(?:let|block|neck|head|model|record|op|detector)\s+(\w+)", code))
    there |= {
        name for names in re.findall(r"^import ([\w, ]+) from", text, re.MULTILINE) for name in re.split(r"\W+", names)
    }
    used = [name for name in dict.fromkeys(re.findall(r"(?<![.\w])[A-Za-z_]\w*", code)) if name in library()]
    return "".join(f'import {name} from "{library()[name]}"\n' for name in used if name not in there) + text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What takes long to make: weights of the spec that commands name and of another, and an export."""
    import torch

    folder = tmp_path_factory.mktemp("made")
    (folder / "mine.det").write_text(whole(MINE))
    mine = detc.load(folder / "mine.det")
    module = mine.module("predict")
    save_weights(folder / "best.safetensors", module.state_dict(), mine)
    backbone = {k.removeprefix("backbone."): v for k, v in module.state_dict().items() if k.startswith("backbone.")}
    torch.save(backbone, folder / "resnet18.pth")
    export(mine, module, folder / "mine-llvm.detc", target="onnx", sizes=[(64, 96)])
    (folder / "other.det").write_text(whole(MINE.replace("FPN(16", "FPN(24")))
    other = detc.load(folder / "other.det")
    save_weights(folder / "other.safetensors", other.module("predict").state_dict(), other)
    return folder


def codes_of_spec(kind: Kind, text: str, folder: Path, kernels: Path | None = None) -> set[str]:
    """The codes of what detc says of a spec: checked; for E05 and E0790 made a module of; else its data looked at."""
    from detc.runtime import plugins
    from detc.runtime.data.check import look_at_spec, report
    from detc.runtime.predict import data_of

    path = folder / "example.det"
    path.write_text(text, encoding="utf-8")
    checked = check_paths([path]).diagnostics
    if checked or kind.code < "E04":
        return {d.kind.code for d in checked}
    try:
        if kernels is not None:
            plugins.register(kernels)
        detector = detc.load(path)
        if kernels is not None or kind.code < "E06":
            detector.module()
            return set()
        looks = look_at_spec(detector, data_of(detector), None, None, False)
        return {f.diagnostic.kind.code for part in report(looks).parts for f in part.findings}
    except DiagnosticError as error:
        return {d.kind.code for d in error}
    finally:
        plugins._files.clear()


def codes_of_annotations(example: dict[str, Any], folder: Path) -> set[str]:
    """The codes of what detc says of a COCO file whose lists, image or annotation has what the example says."""
    from detc.runtime.data.check import look_at_path, report

    found = set()
    for part in ("train", "val"):
        root = coco_file(folder / part, 1)
        content = json.loads((root / "annotations.json").read_text())
        (root / "annotations.json").unlink()
        (root / "images/0.png").rename(root / "images/1.png")
        (root / "images/cut.png").write_bytes((root / "images/1.png").read_bytes()[:-400])
        image = {"id": 1, "file_name": "1.png", "width": 96, "height": 64}
        outline = [[10, 10, 30, 10, 30, 30]]
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "iscrowd": 0, "area": 400}
        content = {"images": [image], "annotations": [box | {"segmentation": outline}], "categories": []}
        content["categories"] = [{"id": 1, "name": "cat"}]
        for key, value in example.items():
            if key in content:
                content[key] = value
            elif key in image:
                image[key] = value
            else:
                content["annotations"][0][key] = value
        (root / f"{part}.json").write_text(json.dumps(content))
        try:
            looks = look_at_path(root / f"{part}.json", None, False)
            found |= {f.diagnostic.kind.code for p in report(looks).parts for f in p.findings}
        except DiagnosticError as error:
            found |= {d.kind.code for d in error}
    return found


def codes_of_command(
    line: str, before: str | None, title: str, folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> set[str]:
    """The codes of what a command says in a folder with specs, the drawn data `shapes`, and files of the examples."""
    (folder / "specs").symlink_to(specs_folder())
    (folder / "bare.det").write_text(whole(BARE))
    taken(made, folder)
    (folder / "photos").symlink_to(folder / "shapes/JPEGImages")
    (folder / "photographs").symlink_to(folder / "shapes/JPEGImages")
    (folder / "photo.detc").write_bytes(b"\xff\xd8\xff")
    (folder / "latin1.det").write_bytes("# caf\xe9\n".encode("latin-1"))
    (folder / "weights.det").write_bytes(b"\0" * 1_100_000)
    (folder / "weights.pth").symlink_to(ROOT / "README.md" if title == "wrong" else made / "resnet18.pth")
    (folder / "fpg.html").write_text("<!DOCTYPE html>")
    monkeypatch.chdir(folder)
    if before is None:
        (folder / "runs/mine/weights").mkdir(parents=True)
    else:
        assert run(before, capsys) == set()
    return run(line, capsys)


def taken(made: Path, folder: Path) -> None:
    """Puts what was made into a folder."""
    for file in made.iterdir():
        shutil.copy(file, folder)


def run(line: str, capsys: Any) -> set[str]:
    """The codes of what a command says."""
    from detc.cli import _run

    try:
        _run(shlex.split(line)[1:])
    except DiagnosticError as error:
        return {d.kind.code for d in error}
    except BaseException as error:  # typer's exit
        assert "Exit" in type(error).__name__ or isinstance(error, SystemExit), error
    output = capsys.readouterr()
    return set(re.findall(r"\[(E\d{4})\]", output.out + output.err))


def codes_of_program(kind: Kind, text: str, folder: Path, made: Path, capsys: Any) -> set[str]:
    """The codes of what a program says, or of what a command says of the file that it wrote."""
    import torch

    mine = detc.load(made / "mine.det")
    given: dict[str, Any] = {"detc": detc, "torch": torch, "model": mine.module("predict")}
    image = given["image"] = given["photo"] = draw(0)[0]
    assert image.dtype == "uint8"
    if "predictor(" in text:
        given["predictor"] = mine.predictor(made / "best.safetensors")
    for file in made.iterdir():
        (folder / file.name).symlink_to(file)
    if kind.code == "E0511":  # a class that lies in no file
        given["model"] = torch.nn.Linear(2, 2)
    try:
        exec(compile(text, kind.code, "exec"), given)
    except DiagnosticError as error:
        return {d.kind.code for d in error}
    written = re.search(r'"([\w.]+\.pth)"', text)
    if written is None:
        return set()
    if kind.code == "E0511":
        return run(f"detc convert {written[1]}", capsys)
    # The detector of these weights.
    (folder / "pets.det").write_text(whole(MINE).replace("square", "cat").replace("disc", "dog").replace("shapes", "."))
    (folder / "picture").mkdir()
    assert cv2.imwrite("picture/0.png", image)
    return run(f"detc predict pets.det picture --weights {written[1]} --output found", capsys)


def codes_of_reference(text: str, folder: Path) -> set[str]:
    """The codes of what is said of a layout."""
    layout = folder / "fpg__retinanet_r50_fpg_crop640_50e_coco.json"
    layout.write_text(text)
    try:
        found = verify(specs_folder() / "fpg.det", None, [layout])
    except DiagnosticError as error:
        return {d.kind.code for d in error}
    return {d.kind.code for d in found.diagnostics}


def codes_of_pets(kind: Kind, title: str, folder: Path, made: Path) -> set[str]:
    """The codes of what is said where the weights are those of the right example."""
    for name in ("wrong", "right"):
        example: Example = getattr(kind, name)
        (folder / f"{name}.det").write_text(f'import mine from "mine.det"\n{example.text}')
    taken(made, folder)
    right = detc.load(folder / "right.det")
    save_weights(folder / "weights.safetensors", right.module("predict").state_dict(), right)
    detector = detc.load(folder / f"{title}.det")
    try:
        load_weights(detector.module("predict"), folder / "weights.safetensors", detector)
    except DiagnosticError as error:
        return {d.kind.code for d in error}
    return set()


def codes(
    kind: Kind, title: str, folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> set[str] | None:
    """What an example gives; None where it is only read and not run."""
    example: Example = getattr(kind, title)
    name = f"{kind.code}-{title}"
    runs = not {kind.code, name} & SKIPPED
    if kind.code == "E0513":
        return codes_of_pets(kind, title, folder, made)
    if kind.code == "E0521":
        (folder / "example.det").write_text(whole(example.text))
        try:
            figures = ROOT / "tests/reference/layouts/fpg__retinanet_r50_fpg_crop640_50e_coco.json.gz"
            return {d.kind.code for d in verify(folder / "example.det", None, [figures]).diagnostics}
        except DiagnosticError as error:
            return {d.kind.code for d in error}
    if example.language == "det":
        text = whole(example.text.strip("\n") + "\n")
        if not runs:
            (folder / "example.det").write_text(text)
            assert check_paths([folder / "example.det"]).diagnostics == []
            return None
        return codes_of_spec(kind, text, folder)
    if example.language == "python":
        monkeypatch.chdir(folder)
        if kind.code not in KERNELS_FOR:
            return codes_of_program(kind, example.text, folder, made, capsys)
        kernels = folder / "my_kernels.py"
        kernels.write_text(example.text)
        return codes_of_spec(kind, whole(KERNELS_FOR[kind.code]), folder, kernels)
    if example.language == "json":
        if kind.code.startswith("E05"):
            return codes_of_reference(example.text, folder)
        return codes_of_annotations(json.loads(example.text), folder)
    if example.language == "shell":
        lines = [line for line in example.text.strip().splitlines() if line.startswith("detc ")]
        assert lines
        assert [refused(line) for line in lines] == [None] * len(lines)
        return codes_of_command(lines[-1], AFTER.get(name), title, folder, made, monkeypatch, capsys) if runs else None
    return None


@pytest.mark.parametrize(("kind", "title"), EXAMPLES, ids=NAMES)
def test_example(
    kind: Kind, title: str, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    if kind.code > "E05" and getattr(kind, title).language in ("det", "shell"):
        voc_folder(tmp_path / "shapes", {"train": 6, "val": 6, "test": 6})
        coco_file(tmp_path / "outlined", 4)
    found = codes(kind, title, tmp_path, made, monkeypatch, capsys)
    if found is None:
        return
    if title == "wrong":
        assert kind.code in found
    else:
        assert kind.code not in found
    if kind.code < "E04":  # a spec, of which nothing else is to be said
        assert found == ({kind.code} if title == "wrong" else set())


def test_every_kind_is_explained() -> None:
    assert len(KINDS) > 90
    for kind in KINDS:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+|duplicate|unterminated", kind.slug), kind.code
        assert kind.code[:3] in FAMILIES, kind.code
        assert len(kind.explanation.split()) > 8, kind.code
        assert kind.summary and kind.summary[0].islower() and not kind.summary.endswith("."), kind.code
        assert kind.wrong.text.strip() != kind.right.text.strip(), kind.code
        assert kind.wrong.text.strip("\n") in to_terminal(kind).replace("\n    ", "\n"), kind.code
    assert len({kind.slug for kind in KINDS}) == len(KINDS)


def test_the_generated_pages_are_up_to_date() -> None:
    """Run `python docs/generate.py` where this fails."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, path
