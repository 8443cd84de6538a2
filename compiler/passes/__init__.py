"""Passes: rewrites of a graph and its weights that keep what it computes, and `recompute`, which chooses for training.

A pass is a frozen dataclass in a module of this folder, with a kebab-case `name`; its fields are its options. Adding
one is adding a file: `discover` finds it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from detc.compiler.verify import verify

if TYPE_CHECKING:
    import numpy as np

    from detc.compiler.graph import Graph

    # Key of `graph.weights` -> its array.
    Weights = Mapping[str, np.ndarray]


@runtime_checkable
class Pass(Protocol):
    """A rewrite for inference: batch norms use their running statistics, dropout does nothing."""

    name: ClassVar[str]

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        """The rewritten graph, and the weights it needs. Neither argument is changed."""
        ...


def discover() -> dict[str, type[Pass]]:
    """Name -> class of every pass in this folder, sorted by name."""
    found: dict[str, type[Pass]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "name"):
                if value.name in found:
                    raise ValueError(f"two passes are called {value.name}")
                found[value.name] = value
    return dict(sorted(found.items()))


def apply(passes: Iterable[Pass], graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """Runs the passes in order on an inference graph.

    Raises ValueError for a graph that holds a `train` view: what holds at inference does not hold there.
    """
    if "train" in graph.views:
        raise ValueError("passes take an inference graph: use graph.view('predict')")
    verify(graph)
    for step in passes:
        graph, weights = step.run(graph, weights)
        verify(graph)
    return graph, weights
