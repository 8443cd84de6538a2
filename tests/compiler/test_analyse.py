from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from handmade import Builder, backbone, fpn, fpn_detector, head

import detc
from detc.compiler.analyse import TRUTH, Summary, summarise
from detc.compiler.graph import Graph, Value

ROOT = Path(__file__).parents[2]


def of_chain(b: Builder, last: Value, **size: int) -> Summary:
    return summarise(b.graph({"forward": {"y": last}}), "forward", **{"height": 64, "width": 96, **size})


def test_a_convolution_worked_by_hand() -> None:
    b = Builder()
    x = b.conv("stem", b.image, 16, 3, 2, bias=False)
    b.conv("body.conv", x, 32, 5, 2)
    summary = of_chain(b, Value("body.conv"), batch=2)
    # The stem makes 2 x 16 x 32 x 48 numbers of 3 x 3 x 3 products, the body 2 x 32 x 16 x 24 of 16 x 5 x 5 and a bias.
    stem, body = 2 * 16 * 32 * 48 * 27, 2 * 32 * 16 * 24 * 400
    assert summary.total.macs == stem + body
    assert summary.total.flops == 2 * (stem + body) + 2 * 32 * 16 * 24
    assert summary.total.parameters == 16 * 27 + 32 * 400 + 32
    assert summary.weight_bytes == 4 * summary.total.parameters
    assert {c.path: c.macs for c in summary.components} == {"stem": stem, "body": body, "body.conv": body}


def test_groups_divide_the_products() -> None:
    b = Builder()
    x = b.conv("stem", b.image, 8)
    y = b.conv("grouped", x, 8, 3)
    graph = b.graph({"forward": {"y": y}})
    node = graph["grouped"]
    grouped = type(node)(node.name, node.op, node.inputs, {**node.attrs, "groups": 4}, node.weights, node.types)
    graph = graph.replaced(nodes={"stem": graph["stem"], "grouped": grouped})
    assert summarise(graph, "forward", 10, 10).components[1].macs == 100 * 8 * 2 * 9


def test_a_shared_module_has_its_weights_once_and_its_arithmetic_every_time() -> None:
    summary = summarise(fpn_detector(), "forward", 256, 256, depth=2)
    (cls,) = [c for c in summary.components if c.path == "bbox_head.cls"]
    cells = 32 * 32 + 16 * 16 + 8 * 8 + 4 * 4
    assert cls.parameters == 4 * 16 * 9 + 4
    assert cls.macs == cells * 4 * 16 * 9


def test_components_add_up_and_name_what_they_apply() -> None:
    summary = summarise(fpn_detector(), "forward", 256, 320, depth=1)
    assert [(c.path, c.name, c.calls) for c in summary.components] == [
        ("backbone", "Plain", 1),
        ("neck", "FPN", 1),
        ("bbox_head", "Head", 1),
    ]
    for figure in ("parameters", "trainable", "macs", "flops", "activation_bytes", "saved_bytes"):
        assert sum(getattr(c, figure) for c in summary.components) == getattr(summary.total, figure)


def test_the_image_is_padded_to_the_divisor() -> None:
    graph = fpn_detector()
    padded = summarise(graph, "forward", 250, 300)
    assert (padded.height, padded.width) == (256, 320)
    assert padded.total.macs == summarise(graph, "forward", 256, 320).total.macs


def test_frozen_weights_are_not_trainable_and_keep_nothing_for_the_backward_pass() -> None:
    b = Builder()
    x = b.relu("r1", b.conv("frozen", b.image, 8, 3, frozen=True))
    b.relu("r2", b.conv("trained", x, 8, 3))
    summary = of_chain(b, Value("r2"))
    frozen, trained = summary.components
    assert (frozen.trainable, trained.trainable) == (0, trained.parameters)
    assert frozen.saved_bytes == 0
    # The trained convolution keeps its operand, the second relu its result.
    assert summary.total.saved_bytes == 2 * 8 * 64 * 96 * 4


def test_peak_counts_what_is_alive_at_a_time() -> None:
    b = Builder()
    image, one = 3 * 64 * 96 * 4, 8 * 64 * 96 * 4
    x = b.conv("conv", b.image, 8)
    for i in range(5):
        x = b.relu(f"r{i}", x)
    assert of_chain(b, x).peak_bytes == image + 2 * one
    b.add("sum", x, Value("conv"))
    # The convolution's result now waits for the sum beside the two of the relu at hand.
    assert of_chain(b, Value("sum")).peak_bytes == image + 3 * one


def test_an_unknown_op_is_said_to_be_uncounted() -> None:
    b = Builder()
    x = b.conv("conv", b.image, 8)
    y = b.node("n", "my_op", {"x": x}, b.types["conv"])
    assert of_chain(b, y).uncounted == {"my_op": 1}


def _residual() -> Graph:
    b = Builder()
    x = b.relu("r0", b.batch_norm("bn0", b.conv("conv0", b.image, 8, 3, 2, bias=False, frozen=True)))
    pooled = b.max_pool("pool", b.conv("conv1", x, 8, 3))
    y = b.batch_norm("bn2", b.conv("conv2", pooled, 8, 3))
    y = b.relu("r1", b.add("sum", y, pooled))
    gate = b.node("gate", "sigmoid", {"x": y}, b.types[y.node])
    z = b.node("mul", "mul", {"x": y, "y": gate}, b.types[y.node])
    return b.graph({"forward": {"y": b.conv("conv3", b.resize("up", z, x), 4)}})


def test_saved_bytes_are_what_autograd_keeps() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    conv0 = torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False).requires_grad_(False)
    conv1, conv2 = torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
    conv3, bn0, bn2 = torch.nn.Conv2d(8, 4, 1), torch.nn.BatchNorm2d(8), torch.nn.BatchNorm2d(8)
    weights = {p.untyped_storage().data_ptr() for m in (conv0, conv1, conv2, conv3, bn0, bn2) for p in m.parameters()}
    weights |= {p.untyped_storage().data_ptr() for m in (bn0, bn2) for p in m.buffers()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = functional.relu(bn0(conv0(torch.randn(2, 3, 64, 96))))
        pooled = functional.max_pool2d(conv1(x), 1, 2)
        y = functional.relu(bn2(conv2(pooled)) + pooled)
        z = y * torch.sigmoid(y)
        conv3(functional.interpolate(z, x.shape[-2:]))
    assert summarise(_residual(), "forward", 64, 96, batch=2).total.saved_bytes == sum(kept.values())


def test_a_detectors_parts_are_in_tree_order() -> None:
    b = Builder()
    scores = head(b, fpn(b, backbone(b)))
    paths = [
        c.path for c in summarise(b.graph({"forward": {"s": tuple(scores.values())}}), "forward", 64, 64).components
    ]
    assert paths[:2] == ["backbone", "backbone.stem"]
    assert paths.index("neck.lateral_convs") == paths.index("neck") + 1
    assert paths.index("bbox_head") > paths.index("neck.fpn_convs")


def test_published_figures_of_retinanet() -> None:
    # The reference implementation reports 37.74 M parameters (those that take a gradient) and, for 1280x800 images,
    # 239.32 G, in which it counts some ops beside convolutions.
    summary = summarise(detc.load(ROOT / "specs/retinanet.det", "retinanet_r50_fpn_1x").graph, "forward", 800, 1280)
    assert round(summary.total.trainable / 1e6, 2) == 37.74
    assert summary.total.macs == pytest.approx(239.32e9, rel=0.005)


def test_saved_bytes_of_a_whole_detector_are_what_autograd_keeps() -> None:
    torch = pytest.importorskip("torch")
    detector = detc.load(ROOT / "examples/demo/shapes.det")
    module = detector.module("train").train()
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    corners = 60 * torch.rand(2, TRUTH, 2)
    labels = torch.randint(0, len(detector.classes), (2, TRUTH))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(torch.randn(2, 3, 128, 192), torch.cat((corners, corners + 40), dim=2), labels)
    counted = summarise(detector.graph, "train", 128, 192, batch=2).total.saved_bytes
    # Scalars and the like are not counted.
    assert counted == pytest.approx(sum(kept.values()), rel=1e-3)
