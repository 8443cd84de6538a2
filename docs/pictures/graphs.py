"""Draws the pictures of graphs in docs/pictures, as detc graph and detc diff do.

python docs/pictures/graphs.py
"""

from __future__ import annotations

from pathlib import Path

import detc
from detc.compiler.draw import diff_to_svg, to_svg

ROOT = Path(__file__).parents[2]

# What is drawn under which name: the spec, the detector, and where it is not the whole, the component.
GRAPHS = {
    "fpg": ("fpg.det", "faster_rcnn_r50_fpg_crop640_50e", ""),
    "fpn": ("retinanet.det", "retinanet_r50_fpn_1x", ""),
    "nas_fpn": ("nas_fpn.det", "retinanet_r50_nasfpn_crop640_50e", ""),
    "pafpn": ("pafpn.det", "faster_rcnn_r50_pafpn_1x", ""),
    "cascade_mask_rcnn": ("cascade_rcnn.det", "cascade_mask_rcnn_r50_fpn_1x", ""),
    "bottleneck": ("retinanet.det", "retinanet_r50_fpn_1x", "backbone.layer1.0"),
}
DIFFERENCES = {
    "diff": (
        ("fpg.det", "retinanet_r50_fpg_crop640_50e"),
        ("fpg.det", "retinanet_r50_fpg_chn128_crop640_50e"),
    ),
}


def pictures() -> dict[str, str]:
    """The text of every picture, by its file's name."""
    drawn = {
        f"{name}.svg": to_svg(detc.load(ROOT / "specs" / spec, detector).graph, component)
        for name, (spec, detector, component) in GRAPHS.items()
    }
    for name, rows in DIFFERENCES.items():
        first, second = (detc.load(ROOT / "specs" / spec, detector).graph for spec, detector in rows)
        drawn[f"{name}.svg"] = diff_to_svg(first, second)
    return drawn


if __name__ == "__main__":
    for name, text in pictures().items():
        Path(__file__).with_name(name).write_text(text, encoding="utf-8")
