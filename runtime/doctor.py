"""What of this machine detc can use, what is missing, and what to do about it.

Nothing is imported here that might be broken: packages are imported, and tools tried, in processes of their own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from detc.compiler.emit.nvcc import find_nvcc
from detc.compiler.modules import cache_folder
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.render import several

# "fine"; "absent", which only some uses need; or "wrong", without which detc does not work.
State = Literal["fine", "absent", "wrong"]
# Seconds: a first import from a slow disk takes long, a tool that hangs takes for ever.
PATIENCE = 180
# Distributions whose module has another name.
MODULES = {
    "apache-tvm": "tvm",
    "apache-tvm-ffi": "tvm_ffi",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "pytest-xdist": "xdist",
    "mkdocs-material": "material",
}
# What is not needed, but is imported by others where it is installed, and then has to work.
OPTIONAL = ("torchvision",)

_IMPORTS = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(json.dumps([name, "begun"]), flush=True)
    try:
        importlib.import_module(name)
        result = ""
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    print(json.dumps([name, result]), flush=True)
"""
_TORCH = """
import json, torch
gpus = []
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        gpus.append([p.name, f"sm_{p.major}{p.minor}", p.total_memory])
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus, "threads": torch.get_num_threads()}))
"""
_TVM = """
import json, tvm
kinds = ["llvm", "cuda"]
print(json.dumps({kind: tvm.get_global_func("target.build." + kind, True) is not None for kind in kinds}))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `remedy` is a command or what to do, where something is absent or wrong."""

    section: str
    name: str
    state: State
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def examine(self_test: bool = True) -> Iterator[Finding]:
    """Everything that was found, section by section. A probe that fails is a finding itself, and never an exception."""
    for section, probe in (
        ("packages", _packages),
        ("extras", _extras),
        ("machine", _machine),
        ("devices", _devices),
        ("targets", _targets),
        *([("self test", _self_tests)] if self_test else []),
    ):
        try:
            for name, state, text, remedy in probe():
                yield Finding(section, name, state, text, remedy)
        except Exception as error:
            yield Finding(section, section, "wrong", f"cannot be looked at: {type(error).__name__}: {error}")


Row = tuple[str, State, str, str]


def _packages() -> Iterator[Row]:
    import detc

    yield "python", "fine", f"{platform.python_version()} at {sys.executable}", ""
    yield "detc", "fine", f"{detc.__version__} at {Path(detc.__file__).parent}", ""
    try:
        declared = importlib.metadata.requires("detc") or []
    except importlib.metadata.PackageNotFoundError:
        yield "requirements", "wrong", "detc is not installed, so what it needs is not known", "pip install ."
        return
    needed = {_name(line): line for line in declared if "extra ==" not in line}
    broken = _broken([_module(name) for name in (*needed, *OPTIONAL) if _version(name) is not None])
    for name, line in needed.items():
        yield _package(name, line, broken, needed=True)
    for name in OPTIONAL:
        if _version(name) is not None:
            yield _package(name, name, broken, needed=False)


def _package(name: str, line: str, broken: dict[str, str], needed: bool) -> Row:
    version = _version(name)
    if version is None:
        return name, "wrong", "not installed", f"pip install '{line}'"
    why = broken.get(_module(name), "")
    if why:
        remedy = f"pip install --force-reinstall '{line}'" if needed else f"pip uninstall {name} (detc does without it)"
        return name, "wrong" if needed else "absent", f"{version}, which cannot be imported: {why[:300]}", remedy
    if not _allows(line, version):
        return name, "wrong", f"{version}, which is not {line}", f"pip install '{line}'"
    return name, "fine", version, ""


def _extras() -> Iterator[Row]:
    declared = importlib.metadata.requires("detc") or []
    for extra in importlib.metadata.metadata("detc").get_all("Provides-Extra") or []:
        lines = [line for line in declared if f'extra == "{extra}"' in line]
        lacking = [_name(line) for line in lines if _version(_name(line)) is None]
        if lacking:
            yield extra, "absent", f"not installed: {', '.join(lacking)}", f"pip install 'detc[{extra}]'"
        else:
            yield extra, "fine", several(len(lines), "package"), ""


def _machine() -> Iterator[Row]:
    yield "system", "fine", f"{platform.system()} {platform.release()}, {platform.machine()}", ""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", "fine", f"{usable} of {os.cpu_count()}", ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield "memory", "fine", _gib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")), ""
    folder = cache_folder()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = _gib(shutil.disk_usage(existing).free)
    if os.access(existing, os.W_OK):
        yield "cache", "fine", f"{folder}, {free} free", ""
    else:
        yield "cache", "absent", f"{folder} cannot be written, so specs are parsed anew each time", "set XDG_CACHE_HOME"


def _devices() -> Iterator[Row]:
    seen: list[str] = []
    smi = shutil.which("nvidia-smi")
    if smi:
        query = [smi, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode == 0:
            seen = done.stdout.strip().splitlines()
        else:
            why = (done.stdout + done.stderr).strip()[:200]
            yield "driver", "absent", f"nvidia-smi fails: {why}", "install the driver of the GPU anew"
    for line in seen:
        yield "driver", "fine", line, ""
    torch = json.loads(_child(_TORCH))
    for name, arch, memory in torch["gpus"]:
        yield "GPU", "fine", f"{name}, {arch}, {_gib(memory)}", ""
    if torch["gpus"]:
        return
    build = f"torch is built for CUDA {torch['cuda']}" if torch["cuda"] else "torch is built without CUDA"
    if seen:
        yield "GPU", "wrong", f"{build} and uses none of the GPUs here", "install the torch of pytorch.org/get-started"
    else:
        yield "GPU", "absent", f"none; {build}. Training runs on the CPU", ""


def _targets() -> Iterator[Row]:
    """What kernels can be compiled for, and the tools for it."""
    for tool in ("gcc", "g++"):
        found = shutil.which(tool)
        if found:
            yield tool, "fine", _first_line(found, "--version"), ""
        else:
            yield tool, "absent", "not found; --target llvm and cuda link with it", f"apt-get install {tool}"
    nvcc = _nvcc()
    if nvcc:
        yield "nvcc", "fine", f"{_first_line(nvcc, '--version', last=True)} at {nvcc}", ""
    else:
        remedy = "apt-get install nvidia-cuda-toolkit; see detc explain E0804"
        yield "nvcc", "absent", "not found; --target cuda needs it, a GPU it does not need", remedy
    for kind, present in json.loads(_child(_TVM)).items():
        state: State = "fine" if present else "wrong"
        yield f"tvm {kind}", state, "TVM can" if present else "TVM was built without it", ""


def _self_tests() -> Iterator[Row]:
    """Runs detc.runtime.selftest, two tests at a time."""
    tests = ["compile", "torch", "onnxruntime"]
    tests += ["llvm"] if shutil.which("gcc") else []
    tests += ["cuda"] if _nvcc() and shutil.which("gcc") else []

    def run(test: str) -> Row:
        try:
            return test, "fine", _child("-m", "detc.runtime.selftest", test).strip(), ""
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            needed = test in ("compile", "torch")
            return test, "wrong" if needed else "absent", str(error), "the findings above say what it may need"

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(run, tests)


# ---- probes ----------------------------------------------------------------------------------------------------------


def _child(*code: str, arguments: Sequence[str] = ()) -> str:
    """What another Python process prints, given code, or -m and a module.

    Raises:
        ValueError: with its last words where it fails.
        subprocess.TimeoutExpired
    """
    command = [sys.executable, *(code if code[0] == "-m" else ("-c", *code)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    if done.returncode != 0:
        words = (done.stderr.strip() or "it says nothing").splitlines()[-1]
        how = f"ended by signal {-done.returncode}" if done.returncode < 0 else "failed"
        raise ValueError(f"{how}: {words[:300]}")
    return done.stdout


def _broken(modules: Sequence[str]) -> dict[str, str]:
    """The modules that cannot be imported, and why. One that ends its process is told from those after it."""
    broken, rest = {}, list(modules)
    while rest:
        command = [sys.executable, "-c", _IMPORTS, *rest]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
            )
            printed, end = done.stdout, f"it ends the process that imports it, with status {done.returncode}"
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
            printed = output.decode(errors="replace") if isinstance(output, bytes) else output
            end = f"importing it takes longer than {PATIENCE} s"
        states: dict[str, str] = {}
        for line in printed.splitlines():
            entry = _entry(line)
            if entry is not None:
                states[entry[0]] = entry[1]
        broken |= {name: why for name, why in states.items() if why and why != "begun"}
        stuck = next((name for name, why in states.items() if why == "begun"), None)
        if stuck is None:
            return broken
        broken[stuck] = end
        rest = rest[rest.index(stuck) + 1 :]
    return broken


def _entry(line: str) -> tuple[str, str] | None:
    """A line of `_IMPORTS`; modules may print others."""
    try:
        name, why = json.loads(line)
    except (ValueError, TypeError):
        return None
    return (name, why) if isinstance(name, str) and isinstance(why, str) else None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _allows(line: str, version: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(line).specifier.contains(version, prereleases=True)


def _name(line: str) -> str:
    """The distribution of a requirement such as `torch>=2.6; extra == "x"`."""
    return re.split(r"[^\w.-]", line, maxsplit=1)[0]


def _module(distribution: str) -> str:
    return MODULES.get(distribution.lower(), distribution.replace("-", "_"))


def _nvcc() -> str | None:
    try:
        return str(find_nvcc())
    except DiagnosticError:
        return None


def _first_line(tool: str, *arguments: str, last: bool = False) -> str:
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)
    lines = done.stdout.strip().splitlines() or [f"ends with status {done.returncode}"]
    return lines[-1 if last else 0]


def _gib(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"
