"""TVM kernels against a plain torch evaluation of the same graph: run on this processor, built for CUDA."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from built_kernels import compiled, computed, run
from host_kernels import HostKernels
from small_graphs import Small, evaluate, mask_rcnn, region_values, retinanet

from detc.compiler.emit.tvm import build, cpu, cuda, regions, suppress
from detc.compiler.emit.tvm.build import build_cuda, build_llvm
from detc.compiler.emit.tvm.cpu import Cpu, Registers
from detc.compiler.emit.tvm.module import program
from detc.compiler.graph import Graph, Node, Value
from detc.compiler.passes import apply
from detc.compiler.passes.fold_batch_norm import FoldBatchNorm
from detc.compiler.passes.fold_standardization import FoldStandardization
from detc.dsl.diagnostics import DiagnosticError

AVX2 = "haswell"


def agree(small: Small, graph: Graph, arch: str | None = None, tolerance: float = 1e-5) -> None:
    """Builds the graph for a processor, runs it, and compares every output: within a share of its largest value, as
    sums of products round."""
    outputs = compiled(small, graph, arch=arch)
    for name, expected in small.expected(graph).items():
        np.testing.assert_allclose(
            outputs[name], expected, atol=tolerance * max(1.0, abs(expected).max()), err_msg=name
        )


@pytest.mark.parametrize(("batch", "fold"), [(1, True), (2, False)])
def test_a_detector_gives_the_same_boxes(batch: int, fold: bool) -> None:
    small, graph = retinanet(batch=batch)
    expected = small.expected(graph)
    assert (expected["classes"] >= 0).sum() > 10 * batch, "the case is to have detections"
    weights = small.arrays
    if fold:
        graph, weights = apply([FoldBatchNorm()], graph, weights)
    outputs = run(build_llvm(graph, weights, batch=batch, height=64, width=96), small.image.numpy())
    np.testing.assert_array_equal(outputs["classes"], expected["classes"])
    np.testing.assert_allclose(outputs["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(outputs["boxes"], expected["boxes"], atol=1e-3)


# The widest vectors of this processor, and those of one without AVX-512.
@pytest.mark.parametrize("arch", [None, AVX2])
def test_convolutions_of_every_shape(arch: str | None) -> None:
    small = Small(23, 37, batch=2)
    image = Value("image")
    wide = small.add("relu", small.conv(image, 128, 3, stride=2))  # 12 x 19: no tile divides the width
    pointwise = small.add("add", small.conv(wide, 128), wide)
    odd = small.conv(pointwise, 36, 3, bias=False)
    grouped = small.conv(pointwise, 64, 3, groups=8, stride=2, dilation=2, padding=1)
    depthwise = small.conv(odd, 36, 5, groups=36)
    single = small.conv(small.add("global_max_pool", depthwise), 48)
    agree(small, small.graph(boxes=odd, scores=grouped, classes=single), arch)


def test_convolutions_are_scheduled_with_what_follows_them() -> None:
    small, graph = retinanet()
    graph, weights = apply([FoldBatchNorm()], graph, small.arrays)
    target = tvm.target.Target({"kind": "llvm", "mcpu": AVX2})
    registers = Registers.of(target)
    emitted = program(graph, weights, Cpu(registers), batch=1, height=64, width=96)
    convolutions = [
        function.script()
        for name, function in build.lowered(emitted.module, target, registers).functions.items()
        if isinstance(function, tvm.tirx.PrimFunc) and "conv" in name.name_hint
    ]
    assert len(convolutions) >= 11
    for script in convolutions:
        assert "T.parallel" in script
        assert "T.vectorized" in script
        assert "_bias[" in script, "the bias is to be part of the kernel"


@pytest.mark.parametrize(("out", "width", "registers", "tile"), [
    (256, 40, Registers(16, 32), (64, 6)),
    (256, 20, Registers(16, 32), (64, 5)),
    (256, 11, Registers(16, 32), (64, 6)),
    (256, 40, Registers(8, 16), (16, 6)),
    (27, 20, Registers(16, 32), (32, 10)),
])  # fmt: skip
def test_tiles_fit_the_registers_and_the_width(
    out: int, width: int, registers: Registers, tile: tuple[int, int]
) -> None:
    channels = registers.channels(out, 1)
    assert (channels, registers.columns(channels, width)) == tile


@pytest.mark.parametrize(("sizes", "task"), [
    ((1, 200, 336, 4), (1, 4)),
    ((1, 16, 24, 4), (1, 8)),
    ((1, 8, 12, 4), (1, 4)),  # as many tasks as there are
    ((1, 1, 1, 1), (1, 1)),
    ((100, 14, 14, 4), (1, 14)),
    ((1000, 7, 7, 4), (4, 7)),
])  # fmt: skip
def test_tasks_have_pixels_enough_and_are_many(sizes: tuple[int, int, int, int], task: tuple[int, int]) -> None:
    assert cpu._task(*sizes) == task


def test_packed_weights_keep_every_value_in_its_tile() -> None:
    kernel = np.arange(64 * 3 * 2 * 2, dtype=np.float32).reshape(64, 3, 2, 2)
    packed = computed(lambda weight: cpu.pack(weight, 16), kernel)
    assert packed.shape == (4, 2, 2, 3, 16)
    assert packed[2, 1, 0, 1, 5] == kernel[2 * 16 + 5, 1, 1, 0]
    uneven = computed(lambda weight: cpu.pack(weight, 16), kernel[:27])
    assert uneven.shape == (2, 2, 2, 3, 16)
    np.testing.assert_array_equal(uneven[:, ..., :11][1], packed[1, ..., :11])
    assert not uneven[1, ..., 11:].any()


# Windows over a 40 x 44 image: from 7x11 to 13x17, back, and from 4x8 to 8x12 (twice as high, not twice as wide).
def test_nearest_resize_is_exact_at_any_ratio() -> None:
    small = Small(40, 44)
    values = []
    for source, like in ((34, 28), (28, 34), (37, 33)):
        x, y = (small.add("max_pool", Value("image"), kernel=k, stride=1, padding=0) for k in (source, like))
        values.append(small.add("resize", x, y, mode="nearest"))
    agree(small, small.graph(**dict(zip(("boxes", "scores", "classes"), values, strict=True))), tolerance=0)


def test_ops_that_the_detector_does_not_use() -> None:
    small = Small(12, 20, batch=2)
    image = Value("image")
    feature = small.conv(image, 12, 3, stride=2)
    rows = small.add("per_anchor", feature, fields=3)
    other = small.add("per_anchor", small.add("max_pool", feature, kernel=2, stride=2, padding=0), fields=3)
    joined = small.add("concat", (rows, other), axis=1)
    split = small.add("split", joined, (rows, other), index=1)
    up = small.add("concat", (small.add("upsample", feature, scale=3, mode="nearest"),) * 2, axis=1)
    crop = small.add("crop", small.add("mul", image, small.add("global_avg_pool", image)), feature)
    agree(small, small.graph(boxes=split, scores=up, classes=crop))


def nms_graph(small: Small, iou: float, keep: int) -> Graph:
    """`nms` over anchors of three sizes, scored and labelled by the image; about half of the candidates are absent."""
    rows = small.add("per_anchor", small.conv(Value("image"), 6, bias=False, label="c"), fields=2)
    score, index, classes = small.add("select_top", small.add("sigmoid", rows), count=200, threshold=0.5)
    sizes = {"scales": (1.0, 3.0, 4.0), "ratios": (1.0,), "base": None, "offset": 0.5, "step": 2}
    boxes = small.add("gather_rows", small.add("anchor_grid", Value("image"), **sizes), index)
    kept = small.add("nms", boxes, score, classes, iou=iou, keep=keep)
    return small.graph(**dict(zip(("boxes", "scores", "classes"), kept, strict=True)))


@pytest.mark.parametrize(("height", "iou", "keep"), [(8, 0.3, 100), (8, 0.55, 7)])
def test_nms_keeps_the_best_of_each_class_in_order_and_fills_up(height: int, iou: float, keep: int) -> None:
    small = Small(height, 8, batch=2)
    agree(small, nms_graph(small, iou, keep), tolerance=1e-6)


def test_nms_of_nothing() -> None:
    small = Small(8, 8)
    graph = nms_graph(small, 0.5, 10)
    small.arrays["c.weight"][:] = 0
    outputs = run(build_llvm(graph, small.arrays, batch=1, height=8, width=8), small.image.numpy())
    assert (outputs["classes"] == -1).all()
    assert not outputs["scores"].any()
    assert not outputs["boxes"].any()


@pytest.mark.parametrize(("batch", "agnostic"), [(1, False), (2, True)])
def test_a_detector_of_two_stages_gives_the_same_boxes_and_masks(batch: int, agnostic: bool) -> None:
    small, graph = mask_rcnn(batch=batch, agnostic=agnostic)
    expected = small.expected(graph)
    graph, weights = apply([FoldStandardization(), FoldBatchNorm()], graph, small.arrays)
    outputs = run(build_llvm(graph, weights, batch=batch, height=64, width=96), small.image.numpy())
    assert list(outputs) == ["boxes", "scores", "classes", "masks"]
    np.testing.assert_array_equal(outputs["classes"], expected["classes"])
    np.testing.assert_allclose(outputs["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(outputs["boxes"], expected["boxes"], atol=1e-3)
    np.testing.assert_allclose(outputs["masks"], expected["masks"], atol=1e-4)


@pytest.mark.parametrize("arch", [None, AVX2])
def test_ops_of_regions(arch: str | None) -> None:
    small = Small(50, 70, batch=2)
    values = region_values(small)
    graph, weights = apply([FoldStandardization()], small.graph(**values), small.arrays)
    outputs = run(build_llvm(graph, weights, batch=2, height=50, width=70, arch=arch), *small.feeds.values())
    for name, value in values.items():
        expected = small.values[value].numpy()
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=name)


def test_an_op_without_lowering_is_named() -> None:
    small = Small()
    node = Node("m", "mystery", (("x", Value("image")),), {}, {}, (small.inputs["image"],))
    outputs = dict.fromkeys(("boxes", "scores", "classes"), Value("m"))
    graph = Graph("g", small.inputs, {"m": node}, {}, {"predict": outputs})
    with pytest.raises(DiagnosticError, match=r"op-without-lowering.*llvm.*mystery"):
        build_llvm(graph, {}, batch=1, height=64, width=96)


def test_an_unknown_processor_is_refused() -> None:
    small, graph = retinanet()
    with pytest.raises(DiagnosticError, match=r"unknown-arch.*pentium17"):
        build_llvm(graph, small.arrays, batch=1, height=64, width=96, arch="pentium17")


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


@needs_nvcc
def test_cuda_kernels_are_machine_code_for_the_architecture() -> None:
    small, graph = retinanet()
    graph, weights = apply([FoldBatchNorm()], graph, small.arrays)
    library = build_cuda(graph, weights, batch=1, height=64, width=96, arch="sm_90").library
    assert set(cuda.device_code(library)) == {"sm_90"}
    assert b"__global__" not in library, "CUDA source text in place of code"
    assert b".text.detc_suppress" in library
    assert library.count(b".text.fused_conv2d") > 5


@needs_nvcc
def test_layers_of_rounded_values_are_kernels_of_our_own() -> None:
    small, graph = mask_rcnn()
    graph, weights = apply([FoldStandardization(), FoldBatchNorm()], graph, small.arrays)
    size = {"batch": 1, "height": 64, "width": 96}
    library = build_cuda(graph, weights, **size, arch="sm_80", precision="bfloat16").library
    assert set(cuda.device_code(library)) == {"sm_80"}
    assert b".text.detc_conv_bf16_chunks_" in library
    assert b".text.detc_conv_bf16_wide_" in library, "the stem reads the image"
    assert b".text.detc_top" in library
    assert not re.search(rb"\.text\.\w*(conv2d|matmul)", library)
    with pytest.raises(DiagnosticError, match=r"cuda-build-failed.*bfloat16.*sm_75"):
        build_cuda(graph, weights, **size, arch="sm_75", precision="bfloat16")


@needs_nvcc
def test_an_architecture_that_nvcc_does_not_know() -> None:
    small = Small(8, 8)
    with pytest.raises(DiagnosticError, match=r"cuda-build-failed.*sm_1") as raised:
        build_cuda(nms_graph(small, 0.5, 10), small.arrays, batch=1, height=8, width=8, arch="sm_1")
    assert "sm_1" in raised.value.diagnostics[0].detail


def test_device_code_reads_the_entries_of_a_fat_binary() -> None:
    def entry(kind: int, arch: int, size: int) -> bytes:
        head = kind.to_bytes(2, "little") + b"\1\1" + (64).to_bytes(4, "little") + size.to_bytes(8, "little")
        return (head + bytes(12) + arch.to_bytes(4, "little")).ljust(64, b"\0") + bytes(size)

    body = entry(1, 80, 24) + entry(2, 90, 40)
    fat = b"\x50\xed\x55\xba\1\0\x10\0" + len(body).to_bytes(8, "little") + body
    assert list(cuda.device_code(b"junk" + fat + b"more")) == ["sm_90"], "the first entry is PTX, which is not code"
    assert list(cuda.device_code(fat[:10])) == []
    assert list(cuda.device_code(b'extern "C" __global__ void f()')) == []


def test_a_missing_nvcc_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    with pytest.raises(DiagnosticError, match="nvcc-missing") as raised:
        cuda.find_nvcc()
    assert "cuda-nvcc" in raised.value.diagnostics[0].detail


@needs_nvcc
def test_a_detector_of_two_stages_is_built_for_cuda() -> None:
    small, graph = mask_rcnn()
    graph, weights = apply([FoldStandardization(), FoldBatchNorm()], graph, small.arrays)
    library = build_cuda(graph, weights, batch=1, height=64, width=96, arch="sm_90").library
    assert set(cuda.device_code(library)) == {"sm_90"}
    assert b".text.detc_cut_out_f32" in library
    assert b".text.fused_matmul" in library


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """Our CUDA kernels, compiled for this processor."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    return HostKernels([suppress.CUDA, *regions.CUDA.values()], tmp_path_factory.mktemp("host"))


@pytest.mark.parametrize("name", ["adaptive", "other levels", "two points"])
def test_the_cuda_kernel_of_regions(host: HostKernels, name: str) -> None:
    small = Small(50, 70, batch=2)
    value = region_values(small)[name]
    node = small.nodes[value.node]
    *features, boxes, level = (small.values[operand].numpy() for operand in node.operands)
    strides, size, samples = node.attrs["strides"], node.attrs["size"], node.attrs["samples"]
    levels = np.array([(*f.shape[2:], stride) for f, stride in zip(features, strides, strict=True)], np.float32)
    fine, coarse = (np.ascontiguousarray(f.transpose(0, 2, 3, 1)) for f in (features[0], features[-1]))
    found = np.full((2 * boxes.shape[1], size, size, 6), 9, np.float32)
    arrays = (fine, coarse, *(fine,) * 6, levels, np.ascontiguousarray(boxes), level, found)
    sizes = (boxes.shape[1], 6, size, samples)
    host.launch("detc_cut_out_f32", *arrays, *sizes, blocks=2 * boxes.shape[1] * size, threads=4)
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), small.values[value].numpy(), atol=1e-5)


@pytest.mark.parametrize("short", ["f16", "bf16"])
def test_the_cuda_kernel_of_regions_of_rounded_features(host: HostKernels, short: str) -> None:
    """Cells are what the kernel for float32 makes of the rounded features, rounded."""
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[short]
    given = torch.randn(1, 9, 11, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    levels = np.array([(9, 11, 4)], np.float32)
    boxes = np.array([[(2, 3, 30, 29), (-4, 9, 60, 20)]], np.float32)
    cells = {}
    for name, kind in (("f32", torch.float32), (short, dtype)):
        feature, found = given.to(kind), torch.full((2, 3, 3, 5), torch.nan, dtype=kind)
        arrays = [a.view(torch.uint16).numpy() if a.itemsize == 2 else a.numpy() for a in (feature, found)]
        pointers = (*(arrays[0],) * 8, levels, boxes, np.zeros((1, 2), np.int64), arrays[1])
        host.launch(f"detc_cut_out_{name}", *pointers, 2, 5, 3, 0, blocks=6, threads=2)
        cells[name] = found
    assert torch.equal(cells[short], cells["f32"].to(dtype))


@pytest.mark.parametrize(("keep", "absent"), [(500, 20), (9, 20), (50, 150), (20, 0)])
def test_the_cuda_kernel_of_nms(host: HostKernels, keep: int, absent: int) -> None:
    images, count = 2, 150
    rng = np.random.default_rng(keep)
    corner, size = rng.uniform(0, 60, (images, count, 2)), rng.uniform(5, 40, (images, count, 2))
    boxes = np.concatenate([corner, corner + size], axis=2).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, (images, count)).astype(np.float32))[:, ::-1].copy()
    scores[:, count - absent :] = 0
    classes = rng.integers(0, 3, (images, count))
    inputs = tuple((name, Value(name)) for name in ("b", "s", "c"))
    node = Node("nms", "nms", inputs, {"iou": 0.4, "keep": keep}, {}, ())
    values = {Value(name): torch.from_numpy(array) for name, array in (("b", boxes), ("s", scores), ("c", classes))}
    expected = evaluate(node, values, {})
    found = [np.full((images, keep, 4), 9, "f4"), np.full((images, keep), 9, "f4"), np.full((images, keep), 9, "i8")]
    # 32 threads a block: candidates come in five portions, the last of them not full.
    arrays = (boxes, scores, classes, *found)
    host.launch("detc_suppress", *arrays, count, keep, 0.4, blocks=images, threads=32)
    for actual, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted.numpy())
