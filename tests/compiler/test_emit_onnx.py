"""ONNX models against a plain torch evaluation of the same graph, run by ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from small_graphs import Small, mask_rcnn, region_values, retinanet

from detc.compiler.emit.onnx import emit
from detc.compiler.emit.static import label, parts
from detc.compiler.graph import Graph, Node, Value
from detc.compiler.passes import apply
from detc.compiler.passes.fold_batch_norm import FoldBatchNorm
from detc.compiler.passes.fold_standardization import FoldStandardization
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.source import Source, Span


def run(model: onnx.ModelProto, *image: np.ndarray, **others: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = {**others, **({"image": image[0]} if image else {})}
    taken = {given.name for given in session.get_inputs()}
    return dict(zip(names, session.run(names, {k: v for k, v in feeds.items() if k in taken}), strict=True))


def value_of(small: Small, value: Value) -> np.ndarray:
    """One value of a small graph, by ONNX Runtime."""
    n, _, h, w = small.image.shape
    return run(emit(small.graph(y=value), small.arrays, batch=n, height=h, width=w), small.image.numpy())["y"]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("fold", [False, True])
def test_a_detector_gives_the_same_boxes(batch: int, fold: bool) -> None:
    small, graph = retinanet(batch=batch)
    expected = small.expected(graph)
    assert (expected["classes"] >= 0).sum() > 10 * batch, "the case is to have detections"
    weights = small.arrays
    if fold:
        graph, weights = apply([FoldBatchNorm()], graph, weights)
    model = emit(graph, weights, batch=batch, height=64, width=96)
    onnx.checker.check_model(model, full_check=True)
    assert {imported.domain for imported in model.opset_import} == {""}
    outputs = run(model, small.image.numpy())
    np.testing.assert_array_equal(outputs["classes"], expected["classes"])
    np.testing.assert_allclose(outputs["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(outputs["boxes"], expected["boxes"], atol=1e-3)


# Windows over a 40 x 44 image: from 7x11 to 13x17, back, and from 4x8 to 8x12 (twice as high, not twice as wide).
@pytest.mark.parametrize(("source", "like"), [(34, 28), (28, 34), (37, 33), (20, 20)])
def test_nearest_resize_is_exact_at_any_ratio(source: int, like: int) -> None:
    small = Small(40, 44)
    x, y = (small.add("max_pool", Value("image"), kernel=k, stride=1, padding=0) for k in (source, like))
    result = small.add("resize", x, y, mode="nearest")
    np.testing.assert_array_equal(value_of(small, result), small.values[result].numpy())


def test_ops_that_the_detector_does_not_use() -> None:
    small = Small(12, 20, batch=2)
    image = Value("image")
    grouped = small.conv(small.conv(image, 8), 12, 3, groups=4, dilation=2, stride=2)
    rows = small.add("per_anchor", grouped, fields=3)
    other = small.add("per_anchor", small.add("max_pool", grouped, kernel=2, stride=2, padding=0), fields=3)
    joined = small.add("concat", (rows, other), axis=1)
    values = [
        small.add("upsample", grouped, scale=3, mode="nearest"),
        small.add("crop", image, grouped),
        small.add("mul", grouped, small.add("global_max_pool", grouped)),
        small.add("split", joined, (rows, other), index=1),
    ]
    for value in values:
        np.testing.assert_allclose(value_of(small, value), small.values[value].numpy(), atol=1e-5)


def detections(small: Small, iou: float, keep: int) -> Graph:
    """`nms` over boxes, scores and classes read from the image: 12 rows of (centre, size, score, class) a batch entry.

    Scores come in steps of 1/8 below a half as 0, so that some are absent.
    """
    rows = small.add("per_anchor", small.conv(Value("image"), 6, bias=False), fields=2)
    score, index, classes = small.add("select_top", small.add("sigmoid", rows), count=200, threshold=0.5)
    grid = small.add(
        "anchor_grid", Value("image"), scales=(1.0, 3.0, 4.0), ratios=(1.0,), base=None, offset=0.5, step=2
    )
    boxes = small.add("gather_rows", grid, index)
    kept = small.add("nms", boxes, score, classes, iou=iou, keep=keep)
    return small.graph(**dict(zip(("boxes", "scores", "classes"), kept, strict=True)))


@pytest.mark.parametrize(("height", "iou", "keep"), [(8, 0.3, 100), (8, 0.55, 7), (2, 0.5, 100)])
def test_nms_keeps_the_best_of_each_class_in_order_and_fills_up(height: int, iou: float, keep: int) -> None:
    small = Small(height, 8, batch=2)
    graph = detections(small, iou, keep)
    expected = small.expected(graph)
    outputs = run(emit(graph, small.arrays, batch=2, height=height, width=8), small.image.numpy())
    assert outputs["boxes"].shape == (2, keep, 4)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("batch", "agnostic"), [(1, False), (2, True)])
def test_a_detector_of_two_stages_gives_the_same_boxes_and_masks(batch: int, agnostic: bool) -> None:
    small, graph = mask_rcnn(batch=batch, agnostic=agnostic)
    expected = small.expected(graph)
    graph, weights = apply([FoldStandardization(), FoldBatchNorm()], graph, small.arrays)
    outputs = run(emit(graph, weights, batch=batch, height=64, width=96), small.image.numpy())
    assert list(outputs) == ["boxes", "scores", "classes", "masks"]
    assert 10 * batch <= (expected["classes"] >= 0).sum() < 20 * batch, "the case is to have detections and absent ones"
    np.testing.assert_array_equal(outputs["classes"], expected["classes"])
    np.testing.assert_allclose(outputs["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(outputs["boxes"], expected["boxes"], atol=1e-3)
    np.testing.assert_allclose(outputs["masks"], expected["masks"], atol=1e-4)


def test_ops_of_regions() -> None:
    small = Small(50, 70, batch=2)
    values = region_values(small)
    graph, weights = apply([FoldStandardization()], small.graph(**values), small.arrays)
    outputs = run(emit(graph, weights, batch=2, height=50, width=70), **small.feeds)
    for name, value in values.items():
        expected = small.values[value].numpy()
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=name)


@pytest.mark.parametrize(
    ("make", "kinds"), [(retinanet, [False, True]), (mask_rcnn, [False, True, False, True, False])]
)
def test_each_part_alone(make, kinds: list[bool]) -> None:
    small, graph = make()
    graph, weights = apply([FoldStandardization()], graph, small.arrays)
    found = parts(graph)
    assert [part.chooses for part in found] == kinds, "networks and choices by turns"
    outputs = {}
    for part in found:
        model = emit(part.graph, weights, batch=1, height=64, width=96)
        if part.chooses:
            assert {node.op_type for node in model.graph.node}.isdisjoint({"Conv", "Sigmoid", "Gemm", "RoiAlign"})
        given = zip(part.graph.inputs, part.given, strict=True)
        outputs |= run(model, **{name: small.values[value].numpy() for name, value in given})
        for value in part.results:
            np.testing.assert_allclose(
                outputs[label(value)], small.values[value].numpy(), atol=1e-3, err_msg=str(value)
            )
    for value in graph.views["predict"].values():
        assert label(value) in outputs


def test_nms_of_nothing() -> None:
    small = Small(8, 8)
    graph = detections(small, 0.5, 10)
    model = emit(graph, {key: array * 0 for key, array in small.arrays.items()}, batch=1, height=8, width=8)
    outputs = run(model, small.image.numpy())
    assert (outputs["classes"] == -1).all()
    assert not outputs["scores"].any()
    assert not outputs["boxes"].any()


def test_an_op_without_lowering_is_named_with_its_place() -> None:
    text = "y = x |> mystery()"
    small = Small()
    span = Span(Source("a.det", text), 9, 18)
    y = Node("m", "mystery", (("x", Value("image")),), {}, {}, (small.inputs["image"],), origins=(span,))
    outputs = dict.fromkeys(("boxes", "scores", "classes"), Value("m"))
    graph = Graph("g", small.inputs, {"m": y}, {}, {"predict": outputs})
    with pytest.raises(DiagnosticError) as raised:
        emit(graph, {}, batch=1, height=64, width=96)
    (diagnostic,) = raised.value.diagnostics
    assert diagnostic.kind.slug == "op-without-lowering"
    assert "mystery" in diagnostic.summary
    assert diagnostic.labels[0].span == span
