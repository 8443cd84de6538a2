"""What passes make of a graph, on every target that runs here: the same boxes as before."""

import numpy as np
import onnxruntime
import pytest
from small_graphs import Small, mask_rcnn, retinanet

from detc.compiler.emit.onnx import emit
from detc.compiler.emit.tvm.build import build_llvm
from detc.compiler.graph import Graph, Value
from detc.compiler.passes import apply
from detc.compiler.passes.inference import passes
from detc.runtime.artifact import TvmEngine


def doubled() -> tuple[Small, Graph]:
    """A feature at twice its size under a 3x3 convolution, beside others that it is added to; and poolings."""
    small = Small(40, 56, batch=2)
    x = small.norm(small.conv(Value("image"), 6, 3, stride=2))
    large = small.add("relu", small.add("upsample", x, scale=2, mode="nearest"))
    y = small.add("add", small.conv(large, 20, 3), small.conv(Value("image"), 20))
    pools = [small.add("max_pool", y, kernel=size, stride=size, padding=0) for size in (2, 4)]
    return small, small.graph(boxes=y, scores=pools[0], classes=pools[1])


@pytest.mark.parametrize("target", ["onnx", "llvm"])
@pytest.mark.parametrize(
    ("make", "made"),
    [
        (doubled, {"interleave"}),
        (lambda: retinanet(batch=2), {"constant"}),
        (lambda: mask_rcnn(batch=2), {"constant"}),
    ],
    ids=["doubled", "retinanet", "mask_rcnn"],
)
def test_an_optimised_graph_gives_the_same(make, made: set[str], target: str) -> None:
    small, graph = make()
    batch, _, height, width = small.image.shape
    size = {"batch": batch, "height": height, "width": width}
    optimised, weights = apply(passes(**size), graph, small.arrays)
    assert made <= {node.op for node in optimised.nodes}
    if target == "onnx":
        session = onnxruntime.InferenceSession(emit(optimised, weights, **size).SerializeToString())
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {"image": small.image.numpy()}), strict=True))
    else:
        kernels = build_llvm(optimised, weights, **size)
        made_by = (kernels.library, kernels.parameters, kernels.functions, kernels.outputs, "llvm")
        outputs = TvmEngine(*made_by)(image=small.image.numpy())
    expected = small.expected(graph)
    for name, array in expected.items():
        if array.dtype.kind == "i":
            np.testing.assert_array_equal(outputs[name], array, err_msg=name)
        else:
            np.testing.assert_allclose(outputs[name], array, atol=5e-5 * max(1, np.abs(array).max()), err_msg=name)
