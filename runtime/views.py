"""Test-time augmentation: an image is looked at several times, and what is found each time becomes one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from detc.compiler.graph import Graph, Value
from detc.dsl.catalogue.running import VIEWS_NOT_MERGED
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.preprocess import Detections, Preprocess
from detc.runtime.data.settings import Data, Views
from detc.runtime.data.transforms import Resize

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Augmentation:
    """The views of an image, and the suppression that merges what is found in them.

    Boxes of all views, in pixels of the image, go through one more NMS within each class, with the `iou` of the
    detector's own, of which the best `keep` stay. So MMDetection 3 merges (`DetTTAModel`), which has a threshold of its
    own, 0.5 if none is given. A mask is that of the view whose box stayed: none is averaged.
    """

    views: Views
    iou: float
    keep: int

    def of(self, once: Preprocess) -> tuple[Preprocess, ...]:
        """How each view is made, from how an image is made ready that is looked at once; that one's size comes first
        where the views name none."""
        sizes = self.views.sizes or (once.resize.size,)
        scaled = [replace(once, resize=Resize((size[0], size[1]), once.resize.keep_ratio)) for size in sizes]
        return tuple(_with_mirrored(scaled)) if self.views.flip else tuple(scaled)

    def merged(self, found: Sequence[Detections]) -> Detections:
        """What was found in the views of one image, as found in the image."""
        import torch

        from detc.runtime.kernels.select import nms_rows

        boxes, scores, classes = (
            np.concatenate([getattr(detections, name) for detections in found])
            for name in ("boxes", "scores", "classes")
        )
        tensors = (torch.from_numpy(array)[None] for array in (boxes, scores, classes))
        rows = nms_rows(*tensors, iou=self.iou, keep=self.keep)[0].numpy()
        rows = rows[rows >= 0]
        masks = None
        if found[0].masks is not None:
            every = [mask for detections in found for mask in detections.masks or ()]
            masks = tuple(every[row] for row in rows)
        return Detections(boxes[rows], scores[rows], classes[rows], masks)


def _with_mirrored(views: Sequence[Preprocess]) -> Iterator[Preprocess]:
    for view in views:
        yield view
        yield replace(view, mirrored=True)


def augmentation_of(graph: Graph, settings: Data, wanted: bool | None) -> Augmentation | None:
    """The test-time augmentation of a detector: what its data says, or, where `wanted` says so, at least a mirrored
    view; None without any, and where `wanted` is False.

    Raises:
        DiagnosticError: views-not-merged where the detector's boxes do not come from a suppression.
    """
    views = settings.test_views or (Views() if wanted else None)
    if views is None or wanted is False:
        return None
    boxes = graph.views["predict"]["boxes"]
    last = graph[boxes.node] if isinstance(boxes, Value) and boxes.node in graph else None
    if last is None or last.op != "nms":
        summary = f"the boxes of {graph.name} are not those of an `nms`, which would say how boxes of views are merged"
        raise DiagnosticError(VIEWS_NOT_MERGED.at(None, summary, detail="--no-tta looks at each image once"))
    iou, keep = last.attrs["iou"], last.attrs["keep"]
    assert isinstance(iou, int | float) and isinstance(keep, int)
    return Augmentation(views, float(iou), keep)
