"""Agreement with published figures, and that every kind of disagreement is found and said."""

import copy
import datetime
import functools
import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from threads import threads

import detc
from detc.compiler.elaborate import elaborate
from detc.compiler.evaluate import Evaluator
from detc.compiler.modules import Loader
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime import deterministic
from detc.runtime.verify import verify

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference"

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaSepBNHead, Anchors from "lib/heads.det"
import SingleStage from "lib/models.det"

detector small : SingleStage {
    classes  = ["cat", "dog"]
    backbone = ResNet(18, channels = 8, frozen_stages = 1)
    neck     = FPN(8, levels = 3..5)
    head     = RetinaSepBNHead(stacked = 1, channels = 8, anchors = Anchors(octaves = 1))
    reported { config = "mine/small" }
}

detector other = small with { reported { config = "mine/other" } }

detector unreported = small with { reported { box_ap = 1.0 } }
"""


# ---- deterministic inputs: numbers printed by the reference's own script ---------------------------------------------


def test_weights_are_the_references():
    def near(key, shape, expected):
        assert deterministic.weight(key, shape).ravel()[: len(expected)].tolist() == pytest.approx(expected, rel=1e-6)

    near("neck.conv.weight", (2, 3, 1, 1), [0.9503943920135498, 0.9388919472694397, 0.8534492254257202])
    near("bn.weight", (3,), [1.118333339691162, 1.08878755569458, 0.818167507648468])
    near("bn.running_var", (2,), [1.2716795206069946, 1.2736375331878662])
    near("bn.bias", (2,), [0.047998424619436264, -0.007893004454672337])
    assert deterministic.weight("bn.num_batches_tracked", ()) is None
    assert deterministic.weight("rpn_head.init_proposal_bboxes.weight", (2, 4)).tolist() == [[0.5, 0.5, 1, 1]] * 2


def test_image_masks_and_samples_are_the_references():
    image = deterministic.image(5, 7, 2)
    assert image[0, 0, 0, :3].tolist() == pytest.approx([0.7791128158569336, 1.5765881538391113, 0.8183161616325378])
    assert image[1, 2, 4, 6] == pytest.approx(2.1456193923950195)
    assert deterministic.sample(np.arange(1000.0), 5).tolist() == [222, 321, 713, 898, 967]
    assert deterministic.sample(np.arange(3.0), 5).tolist() == [0, 1, 2]
    assert deterministic.masks(256, 384).sum((1, 2)).tolist() == [9196, 22636, 1976, 248]


# ---- published figures -----------------------------------------------------------------------------------------------


def rows():
    """Every published row with figures: spec, detector, configuration."""
    found = []
    loader = Loader()
    for path in sorted((ROOT / "specs").glob("*.det")):
        module = loader.load(path)
        for declared in module.detectors:
            fields = Evaluator(module).detector(declared, module).fields
            reported = fields["reported"].value.entries if "reported" in fields else {}
            if "config" in reported:
                found.append((path.stem, declared.name, reported["config"]))
    return found


def figures_of(kind):
    return {file.name.split(".json")[0].replace("__", "/"): file for file in (REFERENCE / kind).iterdir()}


ROWS = rows()
LAYOUTS, LOSSES = figures_of("layouts"), figures_of("losses")
# All rows take half an hour: `make test` takes some, others every day, and plain `pytest` takes all.
A_DAY = 6
COMPARED = [(spec, name) for spec, name, config in ROWS if config in LOSSES]
PERIOD = -(-len(COMPARED) // A_DAY)
TODAY = datetime.date.today().toordinal() % PERIOD


@pytest.fixture
def two_threads():
    """As many as the figures were made with: in deep networks the order of sums is seen."""
    with threads(2):
        yield


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        pytest.param(spec, name, marks=[] if index % PERIOD == TODAY else [pytest.mark.slow])
        for index, (spec, name) in enumerate(COMPARED)
    ],
)
@pytest.mark.usefixtures("two_threads")
def test_published_detectors_agree_with_their_figures(spec, name):
    found = verify(ROOT / "specs" / f"{spec}.det", name, [REFERENCE])
    (detector,) = found.detectors
    checks = {check.kind: check.first for check in detector.checks}
    assert checks.keys() >= {"layout", "forward", "losses", "gradients"}
    assert {kind: first for kind, first in checks.items() if first} == {}
    assert found.agrees


def test_every_published_row_has_the_keys_of_its_checkpoint():
    compared = 0
    loader = Loader()
    for spec, name, config in ROWS:
        if config not in LAYOUTS:
            continue
        layout = json.loads(gzip.decompress(LAYOUTS[config].read_bytes()))
        graph = elaborate(loader.load(ROOT / "specs" / f"{spec}.det"), name).graph
        assert {key: list(weight.shape) for key, weight in graph.weights.items()} == layout, name
        compared += 1
    assert (compared, len(COMPARED)) == (116, 85)


# ---- every disagreement is found -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "small.det"
    path.write_text(SPEC)
    return path


def filled(detector):
    """The views of a detector with deterministic weights, set in the order of the keys."""
    views = detector.modules("predict", "train")
    for key, tensor in views["train"].state_dict().items():
        value = deterministic.weight(key, tensor.shape)
        if value is not None:
            tensor.copy_(torch.from_numpy(np.array(value)))
    return views


def measured(tensor):
    values = tensor.double().numpy()
    return {
        "shape": list(values.shape),
        "l2": math.sqrt((values**2).sum()),
        "sample": deterministic.sample(values).tolist(),
    }


@pytest.fixture(scope="module")
def figures(spec):
    """What a reference would have of the detector, made here from hooks on its modules rather than from its graph."""
    detector = detc.load(spec, "small")
    views = filled(detector)
    predict, train = views["predict"].eval(), views["train"]
    image = torch.from_numpy(deterministic.image(256, 384))
    seen = []
    hooks = [
        predict.get_submodule(f"neck.fpn_convs.{i}.conv").register_forward_hook(
            lambda module, inputs, output: seen.append(output)
        )
        for i in range(3)
    ]
    with torch.no_grad():
        found = predict(image)
    for hook in hooks:
        hook.remove()
    forward = {"neck": {f".{i}": measured(feature) for i, feature in enumerate(seen)}}
    rows = [
        [int(c), *map(float, box), float(s)]
        for c, box, s in zip(found["classes"][0], found["boxes"][0], found["scores"][0], strict=True)
        if s > 0
    ]
    assert len(rows) == 100
    train.eval()
    labels = torch.from_numpy(deterministic.LABELS).clamp(max=1)[None]
    losses = train(image, torch.from_numpy(deterministic.BOXES)[None], labels)
    total = sum(value for values in losses.values() for value in values)
    total.backward()

    def norm(prefix):
        taking = [p for name, p in train.named_parameters() if name.startswith(prefix) and p.grad is not None]
        return math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in taking))

    columns = "class,x1,y1,x2,y2,score"
    return {
        "layout": {key: list(value.shape) for key, value in train.state_dict().items()},
        "forward": {
            "config": "mine/small.py",
            "input": [1, 3, 256, 384],
            "forward": forward,
            "detections": rows,
            "detection_columns": columns,
        },
        "losses": {
            "config": "mine/small.py",
            "total": total.item(),
            "losses": {**{n: [v.item() for v in values] for n, values in losses.items()}, "acc": [12.5]},
            "grad_l2": {name: norm(f"{name}.") for name in ("backbone.layer2", "neck.fpn_convs", "bbox_head")},
            "frozen": ["backbone.conv1", "backbone.layer1"],
        },
    }


def write(folder, figures, packed=True):
    for kind, content in figures.items():
        (folder / kind).mkdir()
        text = json.dumps(content).encode()
        name = "mine__small.json"
        (folder / kind / f"{name}.gz" if packed else folder / kind / name).write_bytes(
            gzip.compress(text) if packed else text
        )
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_a_detector_agrees_with_its_own_figures(tmp_path, spec, figures, packed):
    found = verify(spec, None, [write(tmp_path, figures, packed)])
    assert found.agrees and not found.unmatched
    (detector,) = found.detectors
    assert detector.detector == "small" and found.alone == ["other", "unreported"]
    counts = {check.kind: check.compared for check in detector.checks}
    assert counts["layout"] == len(figures["layout"])
    assert counts["forward"] == 3 * (64 + 2)
    assert counts["detections"] == 100
    assert all(check.worst < 0.5 for check in detector.checks)


def change(path, value):
    def apply(figures):
        *way, last = path
        place = functools.reduce(lambda place, step: place[step], way, figures)
        place[last] = value(place.get(last) if isinstance(place, dict) else place[last])

    return apply


def put(path, value):
    return change(path, lambda before: value)


def remove(*path):
    def apply(figures):
        *way, last = path
        del functools.reduce(lambda place, step: place[step], way, figures)[last]

    return apply


def rename(figures):
    key = "neck.fpn_convs.0.conv.bias"
    figures["layout"] = {("neck.fpn_convs.0.conv.bais" if k == key else k): v for k, v in figures["layout"].items()}


def nudge_sample(figures, times):
    tensor = figures["forward"]["forward"]["neck"][".1"]
    tensor["sample"][5] += times * 1e-4 * tensor["l2"] / math.sqrt(math.prod(tensor["shape"]))


def shift_boxes(figures, count, pixels):
    for row in figures["forward"]["detections"][:count]:
        row[1:5] = [side + pixels + 2e-3 * side for side in row[1:5]]


NECK = ("forward", "forward", "neck")
LOSS = ("losses", "losses", "loss_cls")

DISAGREEMENTS = [
    (rename, "layout", 'neck.fpn_convs.0.conv.bais is missing; did you mean "neck.fpn_convs.0.conv.bias"?'),
    (remove("layout", "backbone.bn1.bias"), "layout", "backbone.bn1.bias is not in the reference"),
    (put(("layout", "backbone.bn1.bias"), [9]), "layout", "backbone.bn1.bias is [8], and [9] in the reference"),
    (lambda f: nudge_sample(f, 1.5), "forward", "neck .1, value 6 of 64, is"),
    (change((*NECK, ".2", "l2"), lambda x: x * 1.0002), "forward", "neck .2, L2 norm, is"),
    (put((*NECK, ".2", "shape"), [1, 8, 8, 13]), "forward", "and [1, 8, 8, 13] in the reference"),
    (put((*NECK, ".2", "sample"), [0.0]), "forward", "neck .2 has 64 samples, the reference 1"),
    (lambda f: f["forward"]["forward"]["neck"].update({".3": f["forward"]["forward"]["neck"][".2"]}), "forward",
     "neck has no output .3"),
    (lambda f: f["forward"]["forward"].update({"roi_head": f["forward"]["forward"]["neck"]}), "forward",
     "no component has the label roi_head"),
    (lambda f: f["forward"]["forward"].update({"neck#1": f["forward"]["forward"]["neck"]}), "forward",
     "neck#1 has no output .0"),
    (lambda f: shift_boxes(f, 3, 0.1), "detections", "3 of 100 have no partner"),
    (lambda f: f["forward"]["detections"].__delitem__(slice(0, 3)), "detections", "3 more than the reference's 97"),
    (lambda f: [row.__setitem__(0, 1 - row[0]) for row in f["forward"]["detections"][:3]], "detections", "no partner"),
    (lambda f: [row.__setitem__(5, row[5] + 2e-4) for row in f["forward"]["detections"][::30]], "detections",
     "4 of 100 have no partner"),
    (change((*LOSS, 1), lambda x: x * 1.0002), "losses", "loss_cls[1] is"),
    (remove(*LOSS, 2), "losses", "loss_cls is there 3 times, and 2 times in the reference"),
    (remove(*LOSS), "losses", "loss_cls is not in the reference"),
    (put(("losses", "losses", "loss_iou"), [1.0]), "losses", "loss_iou is there 0 times"),
    (change(("losses", "total"), lambda x: x * 1.0002), "losses", "the sum is"),
    (change(("losses", "grad_l2", "bbox_head"), lambda x: x * 1.002), "gradients", "the gradient of bbox_head is"),
    (put(("losses", "grad_l2", "rpn_head"), 1.0), "gradients", "rpn_head has no parameters"),
    (put(("losses", "frozen"), ["backbone.layer2"]), "gradients", "backbone.layer2 takes a gradient"),
]  # fmt: skip


@pytest.mark.parametrize(("apply", "kind", "told"), DISAGREEMENTS, ids=[told for _, _, told in DISAGREEMENTS])
def test_every_disagreement_is_found_and_told(tmp_path, spec, figures, apply, kind, told):
    wrong = copy.deepcopy(figures)
    apply(wrong)
    part = {"layout": "layout", "losses": "losses", "gradients": "losses"}.get(kind, "forward")
    # The layout too, where it is not itself wrong: it is what decides tied weights.
    found = verify(spec, "small", [write(tmp_path, {"layout": wrong["layout"], part: wrong[part]})])
    assert not found.agrees
    assert [check.kind for check in found.detectors[0].checks if not check.agrees] == [kind]
    (check,) = [check for check in found.detectors[0].checks if not check.agrees]
    assert told in check.first and check.differing > 0


@pytest.mark.parametrize(
    "apply",
    [
        lambda f: nudge_sample(f, 0.7),
        change((*NECK, ".2", "l2"), lambda x: x * 1.00007),
        lambda f: shift_boxes(f, 2, 0.1),
        lambda f: [row.__setitem__(1, row[1] + 0.03) for row in f["forward"]["detections"]],
        change((*LOSS, 0), lambda x: x * 1.00007),
        change(("losses", "grad_l2", "bbox_head"), lambda x: x * 1.0007),
        put(("losses", "losses", "acc"), [0.0]),
    ],
)
def test_what_is_within_tolerance_agrees(tmp_path, spec, figures, apply):
    near = copy.deepcopy(figures)
    apply(near)
    assert verify(spec, "small", [write(tmp_path, near)]).agrees


def test_of_tied_weights_the_last_key_of_the_layout_decides(tmp_path, spec, figures):
    shared = [f"bbox_head.cls_convs.{level}.0.conv.weight" for level in range(3)]
    reordered = copy.deepcopy(figures)
    reordered["layout"] = {**{k: v for k, v in figures["layout"].items() if k != shared[0]}, shared[0]: [8, 8, 3, 3]}
    found = verify(spec, "small", [write(tmp_path, reordered)])
    assert [c.kind for c in found.detectors[0].checks if not c.agrees] == ["detections", "losses", "gradients"]


# ---- references ------------------------------------------------------------------------------------------------------


def slugs(spec, name, references):
    with pytest.raises(DiagnosticError) as raised:
        verify(spec, name, references)
    return [diagnostic.kind.slug for diagnostic in raised.value.diagnostics]


MALFORMED = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[1, 2]",
    b'{"a": 3}',
    gzip.compress(b'{"backbone.conv1.weight": [1]}')[:-9],
    b"\x1f\x8b\x08\x00 not gzip after all",
    b'{"forward": {"neck": [1]}, "input": [1, 3, 4, 4]}',
    b'{"forward": {"neck": {".0": {"shape": [1]}}}, "input": [1, 3, 4, 4]}',
    b'{"forward": {}, "input": [1, 3]}',
    b'{"forward": {}, "input": [1, 3, 4, 4], "detections": [[1, 2]], "detection_columns": "class,score"}',
    b'{"losses": {"loss": 3}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_reference_is_refused(tmp_path, spec, content):
    path = tmp_path / "mine__small.json"
    path.write_bytes(content)
    assert slugs(spec, "small", [path]) == ["reference-malformed"]


def test_a_reference_that_is_not_there_is_refused(tmp_path, spec):
    assert slugs(spec, "small", [tmp_path / "none.json"]) == ["reference-malformed"]


def test_references_of_other_detectors_are_counted_unless_there_are_no_others(tmp_path, spec, figures):
    write(tmp_path, {"layout": figures["layout"]})
    (tmp_path / "mine__strange.json").write_text(json.dumps(figures["layout"]))
    (tmp_path / "notes.json").write_text('["no figures"]')
    found = verify(spec, None, [tmp_path])
    assert found.agrees and [r.config for r in found.unmatched] == ["mine/strange"]
    assert slugs(spec, "other", [tmp_path]) == ["reference-unmatched"]
    assert slugs(spec, "unreported", [tmp_path]) == ["reference-unmatched"]
    assert slugs(spec, "smal", [tmp_path]) == ["unknown-detector"]


def test_a_broken_spec_of_a_folder_is_told_beside_what_agrees(tmp_path, spec, figures):
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "small.det").write_text(SPEC)
    (folder / "broken.det").write_text("detector a : Missing { }")
    found = verify(folder, None, [write(tmp_path, {"layout": figures["layout"]})])
    assert found.detectors[0].agrees and not found.agrees
    assert [d.kind.slug for d in found.diagnostics] == ["unknown-name"]


def test_the_command_says_what_differs_and_exits_with_1(tmp_path, spec, figures):
    def run(*arguments):
        command = [sys.executable, "-m", "detc", "verify", f"{spec}:small", "--reference", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    write(tmp_path, {"layout": figures["layout"]}, packed=False)
    done = run()
    assert done.returncode == 0 and "1 of 1 agree" in done.stdout
    wrong = copy.deepcopy(figures)
    rename(wrong)
    (tmp_path / "layout" / "mine__small.json").write_text(json.dumps(wrong["layout"]))
    done = run()
    assert done.returncode == 1
    assert "small, layout: neck.fpn_convs.0.conv.bais is missing" in done.stdout
    done = run("--format", "json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["agrees"] is False
    assert report["detectors"][0]["checks"][0]["differing"] == 2
