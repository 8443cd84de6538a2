"""detc: a compiler for object detectors.

import detc

detector = detc.load("specs/fpg.det", "retinanet_r50_fpg_crop640_50e")
module = detector.module()            # a torch.fx.GraphModule with the published checkpoint's keys

model = detector.predictor("best.safetensors")        # or detc.Artifact.load("model.detc")
for found in model(["street.jpg"]):
    print(found.names, found.boxes, found.scores)
"""

from typing import TYPE_CHECKING

from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.detector import Detector, load

if TYPE_CHECKING:
    from detc.runtime.artifact import Artifact

__all__ = ["Artifact", "Detector", "Diagnostic", "DiagnosticError", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`Artifact` is imported when it is first wanted: it brings numpy, which a check of a spec does without."""
    if name == "Artifact":
        from detc.runtime.artifact import Artifact

        return Artifact
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
