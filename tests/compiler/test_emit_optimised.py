"""What passes make of a graph, on every target that runs here: the same boxes as before."""

import numpy as np
import onnxruntime
import pytest
from built_kernels import run
from small_graphs import mask_rcnn, retinanet

from detc.compiler.emit.onnx import emit
from detc.compiler.emit.tvm.build import build_llvm
from detc.compiler.passes import apply
from detc.compiler.passes.inference import passes


@pytest.mark.parametrize("target", ["onnx", "llvm"])
@pytest.mark.parametrize("make", [retinanet, mask_rcnn])
def test_an_optimised_graph_gives_the_same(make, target: str) -> None:
    small, graph = make(batch=2)
    batch, _, height, width = small.image.shape
    size = {"batch": batch, "height": height, "width": width}
    optimised, weights = apply(passes(**size), graph, small.arrays)
    assert any(node.op == "constant" for node in optimised.nodes)
    assert any(node.attrs.get("logits") for node in optimised.nodes)
    if target == "onnx":
        session = onnxruntime.InferenceSession(emit(optimised, weights, **size).SerializeToString())
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {"image": small.image.numpy()}), strict=True))
    else:
        outputs = run(build_llvm(optimised, weights, **size), small.image.numpy())
    expected = small.expected(graph)
    for name, array in expected.items():
        if array.dtype.kind == "i":
            np.testing.assert_array_equal(outputs[name], array, err_msg=name)
        else:
            np.testing.assert_allclose(outputs[name], array, atol=5e-5 * max(1, np.abs(array).max()), err_msg=name)
