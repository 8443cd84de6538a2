"""The predict view as an ONNX model: pixels in, boxes out, in standard operators only."""

from detc.compiler.emit.onnx.half import halve
from detc.compiler.emit.onnx.model import embed, emit, large_weights, refer

__all__ = ["embed", "emit", "halve", "large_weights", "refer"]
