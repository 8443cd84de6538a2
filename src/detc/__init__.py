"""detc: a compiler for object detectors.

import detc

detector = detc.load("specs/fpg.det", "retinanet_r50_fpg_crop640_50e")
module = detector.module()            # a torch.fx.GraphModule with the published checkpoint's keys
"""

from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.detector import Detector, load

__all__ = ["Detector", "Diagnostic", "DiagnosticError", "load"]
__version__ = "0.1.0"
