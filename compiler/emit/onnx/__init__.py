"""The predict view as an ONNX model: pixels in, boxes out, in standard operators only."""

from detc.compiler.emit.onnx.model import drop_outputs, emit, emit_detect

__all__ = ["drop_outputs", "emit", "emit_detect"]
