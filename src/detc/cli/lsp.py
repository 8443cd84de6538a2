"""detc lsp"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def lsp(
    import_root: Annotated[list[Path] | None, typer.Option(help="A folder that specs may import from.")] = None,
    log: Annotated[
        Path | None, typer.Option(help="A file for what goes wrong; else the standard error stream.")
    ] = None,
) -> None:
    """Serve an editor: diagnostics, hover, completion and the rest of the Language Server Protocol.

    The editor starts it and talks to it over standard input and output; docs/editors.md says how to set that up.

    Example: detc lsp --log detc-lsp.log
    """
    from detc.cli.server import serve

    serve(tuple(import_root or ()), log)
