"""From a spec's text to its graph: what the literate cases cannot say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import detc
from detc.compiler.elaborate import Elaborated, elaborate
from detc.compiler.graph import Graph, Value, Weight
from detc.compiler.modules import Loader, specs_folder
from detc.compiler.serialize import to_text
from detc.compiler.verify import GraphError, verify
from detc.dsl import tree as t
from detc.dsl.diagnostics import DiagnosticError

ONLY = """
model Only(body: block)(image: feature) -> feature { return image |> body: body }
detector example : Only { body = Body }
"""


def graph(folder: Path, text: str) -> Graph:
    (folder / "spec.det").write_text(text + ONLY)
    return detc.load(folder / "spec.det").graph


def inits(graph: Graph) -> dict[str, object]:
    return {key: weight.init for key, weight in graph.weights.items()}


def test_the_innermost_rule_initialises_and_a_label_comes_before_an_op(tmp_path: Path) -> None:
    found = inits(
        graph(
            tmp_path,
            """
            block Inner(x: feature) -> feature {
                init Conv2d.weight: normal(0.5)
                return x |> conv: Conv2d(4, 1)
            }
            block Body(x: feature) -> feature {
                x = x |> plain: Conv2d(4, 1) |> inner: Inner
                x = x |> last: Conv2d(4, 1)
                init last.weight: ones()
                init Conv2d.weight: xavier_uniform()
                init Conv2d.bias: zeros()
                return x
            }
            """,
        )
    )
    assert found["body.plain.weight"] == ("xavier_uniform", 1.0)
    assert found["body.inner.conv.weight"] == ("normal", 0.5)
    assert found["body.inner.conv.bias"] == ("zeros",)
    assert found["body.last.weight"] == ("ones",)


def test_frozen_weights_take_no_gradient_and_their_norms_keep_their_statistics(tmp_path: Path) -> None:
    found = graph(
        tmp_path,
        """
        block Stem(x: feature) -> feature { return x |> conv: Conv2d(4, 1) |> BatchNorm2d() }
        block Body(x: feature) -> feature {
            freeze stem
            return x |> stem: Stem |> head: Stem
        }
        """,
    )
    trainable = {k for k, w in found.weights.items() if w.trainable}
    assert trainable == {"body.head.conv.weight", "body.head.conv.bias", "body.head.bn.weight", "body.head.bn.bias"}
    assert found["body.stem.bn"].attrs["fixed"] is True
    assert found["body.head.bn"].attrs["fixed"] is False


def test_a_tie_gives_one_tensor_two_names(tmp_path: Path) -> None:
    found = graph(
        tmp_path,
        """
        block Body(x: feature) -> feature {
            for i in 0 ..< 3 {
                x = x |> convs[i]: Conv2d(3, 3)
                tie convs[i] to convs[0]
            }
            return x
        }
        """,
    )
    assert found.weights["body.convs.0.weight"].tied is None
    assert found.weights["body.convs.2.weight"].tied == "body.convs.0.weight"


def test_compiling_twice_gives_the_same_graph() -> None:
    texts = {to_text(detc.load(specs_folder() / "fpg.det").graph) for _ in range(2)}
    assert len(texts) == 1


def producers(graph: Graph, node: str) -> dict[str, Value]:
    return {port: value for port, value in graph[node].inputs if isinstance(value, Value)}


def test_fpg_has_the_arrows_of_its_figure() -> None:
    found = detc.load(specs_folder() / "fpg.det", "retinanet_r50_fpg_crop640_50e").graph
    outputs = {call.path: call.outputs[0][1] for call in found.calls if call.component == "GridNode"}
    # Level l (index l - 3) joins in after 7 - l pathways: 9 pathways less 4, 3, 2, 1, 0.
    assert len(outputs) == 5 + 6 + 7 + 8 + 9

    def source(path: str, arrow: str) -> str:
        """The node that an arrow into a grid node starts from, past ReLU and enlargement."""
        name = f"{path}.{arrow}.conv" + (".conv" if arrow == "across_down" else "")
        while found[name].op in ("Conv2d", "relu", "upsample"):
            name = producers(found, name)["x"].node
            if any(value.node == name for value in outputs.values()) or name.startswith("neck.lateral"):
                break
            if name.startswith("neck.extra"):
                break
        return name

    here = "neck.fpn_transitions.8.1"
    assert source(here, "across_lateral") == outputs["neck.fpn_transitions.7.1"].node
    assert source(here, "across_down") == outputs["neck.fpn_transitions.7.2"].node
    assert source(here, "same_up") == outputs["neck.fpn_transitions.8.0"].node
    assert source(here, "across_skip") == "neck.lateral_convs.1"
    assert source("neck.fpn_transitions.0.4", "same_up") == "neck.extra_downsamples.0"


def test_every_declaration_of_the_library_says_what_it_is() -> None:
    for file in sorted((specs_folder() / "lib").glob("*.det")):
        for declaration in Loader().load(file).file.declarations:
            assert declaration.doc, f"{file.name}: {declaration.name} has no documentation"


def test_every_primitive_names_its_results() -> None:
    for declaration in Loader().load(specs_folder() / "lib" / "ops.det").file.declarations:
        if isinstance(declaration, t.Component):
            assert declaration.results


def test_the_published_rows_are_there() -> None:
    rows = {f.stem: [d.name for d in Loader().load(f).detectors] for f in specs_folder().glob("*.det")}
    counts = {name: len(detectors) for name, detectors in rows.items()}
    assert counts == {
        "cascade_rcnn": 20,
        "cityscapes": 2,
        "deepfashion": 1,
        "fast_rcnn": 1,
        "faster_rcnn": 20,
        "fpg": 7,
        "group_norm": 6,
        "lvis": 8,
        "mask_rcnn": 15,
        "mixed_precision": 3,
        "nas_fpn": 2,
        "pafpn": 1,
        "pascal_voc": 2,
        "retinanet": 10,
        "rpn": 10,
        "scratch": 2,
        "simpledet": 5,
        "weight_standardization": 12,
    }


def test_verify_finds_what_is_broken(tmp_path: Path) -> None:
    whole = graph(tmp_path, "block Body(x: feature) -> feature { return x |> conv: Conv2d(3, 1) }")
    with pytest.raises(GraphError, match="does not exist"):
        verify(whole.replaced(weights={}))
    with pytest.raises(GraphError, match="does not exist"):
        verify(whole.replaced(views={"forward": {"features": Value("nowhere")}}))
    renamed = {k: Weight("other", w.shape) for k, w in whole.weights.items()}
    with pytest.raises(GraphError, match="filed under"):
        verify(whole.replaced(weights=renamed))


def test_the_classes_of_the_data_are_those_of_the_head(tmp_path: Path) -> None:
    (tmp_path / "mine.det").write_text(
        """
        import retinanet_r50_fpn_1x from "retinanet.det"
        import voc from "lib/data.det"
        detector mine = retinanet_r50_fpn_1x with { data = voc(["cat", "dog"], "data") }
        """
    )
    mine = detc.load(tmp_path / "mine.det")
    assert mine.classes == ["cat", "dog"]
    assert mine.graph["bbox_head.retina_cls"].type.channels == 9 * 2
    assert mine.reported == {}, "what was published of the base was not published of a variant"


def test_a_train_block_without_a_loss_is_reported(tmp_path: Path) -> None:
    (tmp_path / "spec.det").write_text(
        """
        block Body(x: feature) -> feature {
            train(truth) { boxes = relu(truth.boxes) }
            return x
        }
        """
        + ONLY
    )
    detector = detc.load(tmp_path / "spec.det")
    assert [w.kind.slug for w in detector.warnings] == ["unused-output"]
    assert "train" not in detector.graph.views


# ---- pieces ----------------------------------------------------------------------------------------------------------

PIECES = """
block Unit(channels: int)(x: feature) -> feature {
    init Conv2d.weight: normal(0.1 * channels)
    return x |> conv: Conv2d(channels, 3) |> bn: BatchNorm2d |> relu
}
block Twice(x: feature) -> feature { return x + x }
block Either(x: feature, y: feature) -> bundle { return {same = x, sum = x + y, both = {1: y, 2: x |> one: Unit(8)}} }
block Body(units: int)(x: feature) -> feature {
    x = x |> stem: Unit(8)
    for i in 0 ..< units {
        x = x |> units[i]: Unit(8)
    }
    freeze units[1]
    x = Twice(x) + Twice(Twice(x))
    two = either: Either(x, x)
    other = others: Either(x, two.sum)
    shared = other.same |> units[0]: Unit(8)
    y = two.both[2] + other.both[2] + shared
    train(truth) {
        rows = per_anchor(y, fields = 4)
        loss `loss_{units}` = l1_loss(rows, rows, fill(rows, value = 0), any_object(truth.labels), classes = 1)
    }
    return y
}
model Only(body: block)(image: feature) -> feature { return image |> body: body }
detector two : Only { body = Body(2) }
detector three = two with { body.units = 3 }
detector again = three with { body.units = 2 }
"""


def facts(made: Elaborated) -> Any:
    """All that a graph says, with places."""
    g = made.graph
    nodes = [(node, [str(span) for span in node.origins]) for node in g.nodes]
    calls = [(call, str(call.span)) for call in g.calls]
    return nodes, list(g.weights.items()), calls, g.views, g.inputs, g.size_divisor, [str(w) for w in made.warnings]


def same_without_pieces(path: Path) -> None:
    """Each detector of a file is the same graph whatever was elaborated before it."""
    module = Loader().load(path)
    reused = 0
    for detector in module.detectors:
        known = len(module.pieces)
        # Without whole graphs, which rows share.
        made = elaborate(replace(module, graphs={}), detector.name)
        new = replace(module, values={}, graphs={}, pieces={})
        assert facts(made) == facts(elaborate(new, detector.name)), detector.name
        reused += len(module.pieces) - known < len(new.pieces)
    assert reused > 0 or len(module.detectors) == 1


@pytest.mark.parametrize("spec", ["faster_rcnn", "fpg", "weight_standardization", "simpledet"])
def test_a_graph_does_not_depend_on_what_was_elaborated_before(spec: str) -> None:
    same_without_pieces(specs_folder() / f"{spec}.det")


def test_blocks_alike_are_pieces_whatever_they_hold(tmp_path: Path) -> None:
    """Weights that two labels share, results that are inputs, names that count on: all as if nothing were kept."""
    (tmp_path / "spec.det").write_text(PIECES)
    same_without_pieces(tmp_path / "spec.det")


def test_pieces_that_cannot_stand_beside_each_other_are_refused_as_ever(tmp_path: Path) -> None:
    text = """
    block Inner(channels: int)(x: feature) -> feature { return x |> conv: Conv2d(channels, 1) }
    block Trained(x: feature) -> feature {
        train(truth) {
            rows = per_anchor(x, fields = 4)
            loss same = l1_loss(rows, rows, fill(rows, value = 0), any_object(truth.labels), classes = 1)
        }
        return x
    }
    model Only(one: int, other: int, times: int)(image: feature) -> feature {
        a = image |> same: Inner(one) |> first: Trained
        b = image |> same: Inner(other)
        return if times == 1 then a + b else a + (b |> second: Trained)
    }
    detector fine : Only { one = 4  other = 4  times = 1 }
    detector conflict = fine with { other = 8 }
    detector twice = fine with { times = 2 }
    """
    (tmp_path / "spec.det").write_text(text)
    module = Loader().load(tmp_path / "spec.det")
    for _ in range(2):
        elaborate(module, "fine")
        for name, kind in (("conflict", "label-conflict"), ("twice", "duplicate-name")):
            with pytest.raises(DiagnosticError) as error:
                elaborate(module, name)
            assert [d.kind.slug for d in error.value.diagnostics] == [kind]
