"""What was measured on this machine, remembered in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from detc.compiler.modules import cache_folder
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.files import write_json


def remembered(kind: str, key: Mapping[str, Any], measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `measure` gave when it was called with an equal `key` (JSON) for the first time.

    A cache that cannot be read or written, or that is not to be used (DETC_NO_CACHE), is done without.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    try:
        path = cache_folder() / kind / f"{digest}.json"
    except RuntimeError:  # there is no home
        return measure()
    use = not os.environ.get("DETC_NO_CACHE")
    if use:
        try:
            found = json.loads(path.read_text("utf-8"))
            if isinstance(found, dict) and all(isinstance(value, float) for value in found.values()):
                return found
        except (OSError, ValueError, RecursionError):
            pass
    measured = measure()
    if use:
        with suppress(DiagnosticError):
            write_json(path, measured)
    return measured
