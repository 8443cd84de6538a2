"""The CUDA compiler of this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from detc.dsl.catalogue.export import NO_NVCC
from detc.dsl.diagnostics import DiagnosticError


def find_nvcc() -> Path:
    """The CUDA compiler. Raises DiagnosticError nvcc-missing."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [shutil.which("nvcc"), *(f"{home}/bin/nvcc" for home in (*homes, "/usr/local/cuda"))]
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    detail = "install the package cuda-nvcc-13-0 (apt, from NVIDIA's repository) or nvidia-cuda-toolkit"
    raise DiagnosticError(
        NO_NVCC.at(None, "nvcc was not found on PATH, in $CUDA_HOME or in /usr/local/cuda", detail=detail)
    )
