"""Starting a command once for each device of this machine: torch's elastic launcher, as `torchrun` uses it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detc.dsl.catalogue.running import PROCESS_LOST
from detc.dsl.diagnostics import DiagnosticError

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

# What a run may take to end a step and save once it is asked to.
_SECONDS_TO_SAVE = "600"


def launched() -> bool:
    """Whether this process is one of those that torch's launcher started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def local_processes(count: int, folder: str) -> LaunchConfig:
    """How torch's launcher starts so many processes of this machine; its logs go to a folder."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )


def launch(arguments: Sequence[str], processes: int) -> int:
    """Runs `python -m detc ARGUMENTS` in so many processes that know of each other; its exit status.

    When one fails, the others are ended, and its status is the result: it has said itself what was wrong. Signals to
    this process reach all of them.

    Raises:
        DiagnosticError: process-lost where one was killed.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SECONDS_TO_SAVE)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="detc-") as folder:
        try:
            elastic_launch(local_processes(processes, folder), sys.executable)("-m", "detc", *arguments)
        except SignalException as stopped:
            return 128 + int(stopped.sigval)
        except ChildFailedError as failed:
            codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
            for rank, code in codes.items():
                if code < 0:
                    name = signal.Signals(-code).name
                    summary = f"process {rank} of {processes} was ended by {name}, and the others with it"
                    raise DiagnosticError(PROCESS_LOST.at(None, summary)) from None
            return next(iter(codes.values()))
    return 0


def says_why() -> bool:
    """Whether this process is the one, of those started together, that says why they failed: the first that asks."""
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not launched() or place is None:
        return True
    try:
        (Path(place).parent.parent / "said").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
