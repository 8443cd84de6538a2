"""Passes keep what a graph computes."""

import numpy as np
import pytest
from small_graphs import Small, evaluate, retinanet

from detc.compiler.graph import Graph, Value
from detc.compiler.passes import apply, discover
from detc.compiler.passes.fold_batch_norm import FoldBatchNorm
from detc.compiler.passes.fold_standardization import FoldStandardization


def values_of(graph: Graph, weights, small: Small):
    values = {Value("image"): small.image}
    for node in graph.nodes:
        for index, result in enumerate(evaluate(node, values, weights)):
            values[Value(node.name, index)] = result
    return values


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def folded(small: Small, *results: Value):
    graph = small.graph(boxes=results)
    return (graph, *apply([FoldBatchNorm()], graph, small.arrays))


def test_passes_are_found_by_name() -> None:
    assert discover()["fold-batch-norm"] is FoldBatchNorm


def test_a_training_graph_is_refused() -> None:
    graph = Graph("g", {}, {}, {}, {"train": {}})
    with pytest.raises(ValueError, match="inference"):
        apply([FoldBatchNorm()], graph, {})


@pytest.mark.parametrize("bias", [False, True])
def test_a_batch_norm_is_folded_into_the_convolution(bias: bool) -> None:
    small = Small()
    y = small.norm(small.conv(Value("image"), 8, 3, label="c", bias=bias))
    before = {key: array.copy() for key, array in small.arrays.items()}
    _, graph, weights = folded(small, y)
    assert ops(graph) == ["Conv2d"]
    assert set(graph.weights) == set(weights) == {"c.weight", "c.bias"}
    assert graph[y.node].attrs["bias"] is True
    np.testing.assert_allclose(values_of(graph, weights, small)[y], small.values[y], atol=2e-6)
    for key, array in before.items():
        np.testing.assert_array_equal(small.arrays[key], array)


def test_a_convolution_with_another_user_is_left() -> None:
    small = Small()
    x = small.conv(Value("image"), 8, label="c")
    y = small.add("add", small.norm(x), x)
    original, graph, weights = folded(small, y)
    assert ops(graph) == ops(original)
    assert set(weights) == set(small.arrays)


def test_a_convolution_that_is_an_output_is_left() -> None:
    small = Small()
    x = small.conv(Value("image"), 8)
    _, graph, _ = folded(small, x, small.norm(x))
    assert ops(graph) == ["Conv2d", "BatchNorm2d"]


def test_a_norm_of_a_sum_is_left() -> None:
    small = Small()
    total = small.add("add", small.conv(Value("image"), 8), small.conv(Value("image"), 8))
    _, graph, _ = folded(small, small.norm(total))
    assert "BatchNorm2d" in ops(graph)


def test_shared_weights_with_different_norms_get_a_copy_each() -> None:
    small = Small()
    a = small.norm(small.conv(Value("image"), 8, label="c"), "bn.0")
    b = small.norm(small.conv(small.add("relu", Value("image")), 8, label="c"), "bn.1")
    _, graph, weights = folded(small, a, b)
    assert ops(graph) == ["relu", "Conv2d", "Conv2d"] or sorted(ops(graph)) == ["Conv2d", "Conv2d", "relu"]
    assert len(weights) == 4
    values = values_of(graph, weights, small)
    for value in (a, b):
        np.testing.assert_allclose(values[value], small.values[value], atol=2e-6)


def test_shared_weights_with_the_same_norm_stay_shared() -> None:
    small = Small()
    a = small.norm(small.conv(Value("image"), 8, label="c"), "bn")
    b = small.norm(small.conv(small.add("relu", Value("image")), 8, label="c"), "bn")
    _, graph, weights = folded(small, a, b)
    assert set(weights) == {"c.weight", "c.bias"}
    values = values_of(graph, weights, small)
    for value in (a, b):
        np.testing.assert_allclose(values[value], small.values[value], atol=2e-6)


def test_a_weight_used_with_and_without_a_norm_keeps_both() -> None:
    small = Small()
    plain = small.conv(Value("image"), 8, label="c")
    normed = small.norm(small.conv(small.add("relu", Value("image")), 8, label="c"))
    _, graph, weights = folded(small, plain, normed)
    values = values_of(graph, weights, small)
    for value in (plain, normed):
        np.testing.assert_allclose(values[value], small.values[value], atol=2e-6)


def test_a_whole_detector_keeps_its_boxes() -> None:
    small, graph = retinanet()
    result, weights = apply([FoldBatchNorm()], graph, small.arrays)
    assert "BatchNorm2d" not in ops(result)
    values = values_of(result, weights, small)
    for name, expected in small.expected(graph).items():
        np.testing.assert_allclose(values[result.views["predict"][name]], expected, atol=1e-3)


def standardized(small: Small, *results: Value):
    graph = small.graph(boxes=results)
    return apply([FoldStandardization(), FoldBatchNorm()], graph, small.arrays)


def test_standardised_weights_are_folded_and_then_the_norm() -> None:
    small = Small()
    y = small.norm(small.conv(Value("image"), 8, 3, label="c", standardize=True))
    graph, weights = standardized(small, y)
    assert ops(graph) == ["Conv2d"]
    assert set(weights) == {"c.weight", "c.bias"}
    np.testing.assert_allclose(values_of(graph, weights, small)[y], small.values[y], atol=2e-5)


def test_a_norm_is_not_folded_into_a_weight_that_is_still_to_be_standardised() -> None:
    small = Small()
    y = small.norm(small.conv(Value("image"), 8, 3, standardize=True))
    original, graph, _ = folded(small, y)
    assert ops(graph) == ops(original)


def test_a_weight_that_is_also_used_as_it_is_stays() -> None:
    small = Small()
    a = small.conv(Value("image"), 8, 3, label="c", standardize=True)
    b = small.conv(Value("image"), 8, 3, label="c")
    graph, weights = standardized(small, a, b)
    assert set(weights) == {"c.weight", "c.bias", "c.standardized.weight"}
    values = values_of(graph, weights, small)
    for value in (a, b):
        np.testing.assert_allclose(values[value], small.values[value], atol=2e-5)
