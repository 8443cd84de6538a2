"""CUDA machine code without a GPU.

Where the driver's library is absent, TVM cannot load its CUDA part and quietly writes CUDA *source text* into the
library instead of code. So the compilation runs in a process of its own whose library path has stand-ins for `libcuda`
and `libcudart`: every function that TVM's library wants, each returning "no device". TVM then finds its CUDA part
loadable, calls nvcc, and embeds what nvcc makes. What comes back is checked to hold machine code for the architecture,
and no source.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import tvm
import tvm_ffi
from tvm import tirx

from detc.compiler.emit.nvcc import find_nvcc
from detc.compiler.emit.tvm import conv_cuda, letterbox, regions, suppress, top
from detc.compiler.emit.tvm.module import Program
from detc.compiler.emit.tvm.own import CudaKernel, joined
from detc.dsl.catalogue.export import CUDA_BUILD_FAILED, NO_LINKER
from detc.dsl.diagnostics import DiagnosticError

_FATBIN_MAGIC = b"\x50\xed\x55\xba"
_ELF_ENTRY = 2
_CALL_PACKED = "tirx.tvm_call_packed"


def compile_program(emitted: Program, arch: str, *, graphs: bool = True) -> bytes:
    """The shared library of a program, its kernels in machine code for `arch` (such as sm_90).

    With `graphs`, launches are recorded when a function runs first, as CUDA graphs that are started from then on.

    Raises DiagnosticError where nvcc is missing or fails, or the result is not machine code.
    """
    nvcc = find_nvcc()
    with tempfile.TemporaryDirectory(prefix="detc-cuda-") as name:
        folder = Path(name)
        (folder / "module.json").write_text(tvm.ir.save_json(recordable(emitted) if graphs else emitted.module))
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(_stand_ins(folder)), os.getenv("LD_LIBRARY_PATH")])),
            "PATH": os.pathsep.join(filter(None, [str(nvcc.parent), os.getenv("PATH")])),
            "TVM_CUDA_COMPILE_MODE": "nvcc",
            # Boxes must agree with the judge's: exact division and exponentials.
            "TVM_CUDA_NVCC_NO_FAST_MATH": "1",
        }
        files = [str(folder / "module.json"), str(folder / "model.so")]
        command = [sys.executable, "-m", __name__, *files, str(nvcc), arch, "graphs" if graphs else "launches"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise _failed(arch, "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:]))
        library = (folder / "model.so").read_bytes()
    found = set(device_code(library))
    if not found or found != {arch.rstrip("af")} or b'extern "C" __global__' in library:
        raise _failed(arch, f"the library holds code for {sorted(found) or 'no architecture'}")
    return library


def device_code(library: bytes) -> Iterator[str]:
    """The architecture of each piece of GPU machine code in a library: of the code entries of its fat binaries."""
    for match in re.finditer(re.escape(_FATBIN_MAGIC), library):
        start = match.start()
        if start + 16 > len(library):
            break
        _, _, header, size = struct.unpack_from("<IHHQ", library, start)
        entry, end = start + header, min(start + header + size, len(library))
        while entry + 32 <= end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", library, entry)
            if kind == _ELF_ENTRY:
                yield f"sm_{struct.unpack_from('<I', library, entry + 28)[0]}"
            if entry_header == 0:
                break
            entry += entry_header + entry_size


def _failed(arch: str, detail: str) -> DiagnosticError:
    return DiagnosticError(CUDA_BUILD_FAILED.at(None, f"the CUDA kernels did not compile for {arch}", detail=detail))


def _stand_ins(folder: Path) -> Path:
    """A folder of libraries that define what TVM's CUDA library lacks, under the names and versions it asks for."""
    library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    wanted: dict[str, list[str]] = defaultdict(list)
    listing = _run("nm", "-D", "--undefined-only", str(library))
    for symbol in re.findall(r"\bU (cu\w+)", listing):
        wanted["libcudart" if symbol.startswith("cuda") else "libcuda"].append(symbol)
    result = folder / "stand-ins"
    result.mkdir()
    for soname in re.findall(r"NEEDED.*\[(lib\S+)\]", _run("readelf", "-d", str(library))):
        stem = soname.partition(".so")[0]
        if stem in wanted:
            # 100 is "no device" in both interfaces.
            source = "".join(f"int {symbol}(void) {{ return 100; }}\n" for symbol in wanted[stem])
            (folder / f"{stem}.c").write_text(source)
            (folder / f"{stem}.map").write_text(f"{soname} {{ global: *; }};\n")
            options = [f"-Wl,-soname,{soname}", f"-Wl,--version-script,{folder / stem}.map"]
            _run("gcc", "-shared", "-fPIC", *options, "-o", str(result / soname), str(folder / f"{stem}.c"))
    return result


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        summary = f"{command[0]} was not found, which compiling for a GPU on a machine without one needs"
        raise DiagnosticError(NO_LINKER.at(None, summary, detail="install the packages gcc and binutils")) from None
    except subprocess.CalledProcessError as error:
        raise DiagnosticError(NO_LINKER.at(None, f"{command[0]} failed", detail=error.stderr.strip())) from None


def recordable(emitted: Program) -> tvm.IRModule:
    """A program whose functions say which of their inputs lie in the same place at every call, its parameters, and
    whose `main` calls no other: what a graph records are the launches of one function."""
    module = emitted.module.clone()
    variables = {variable.name_hint: variable for variable in module.get_global_vars()}
    for name, parameters in emitted.functions.items():
        function = module[variables[name]]
        if name == "main":
            inner = {variables[part]: module[variables[part]] for part in emitted.functions if part.startswith("part_")}
            function = function.inline_functions(inner)
        module[variables[name]] = function.with_attr("num_input", len(function.params) - len(parameters))
    return module


def _compile(source: Path, result: Path, nvcc: str, arch: str, graphs: bool) -> None:
    """Compiles and links, in the process whose library path has the stand-ins."""
    module = tvm.ir.load_json(source.read_text())
    own = own_kernels(module)
    if own:
        module = module.with_attr("external_mods", [_compiled(own, source.parent, nvcc, arch)])
    with target(arch) as on, tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": graphs}):
        tvm.compile(module, target=on).export_library(str(result))


def target(arch: str) -> tvm.target.Target:
    """A GPU, as TVM's rules want to know it, beside this processor."""
    described = {
        "kind": "cuda",
        "arch": arch,
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": 49152,
        "thread_warp_size": 32,
    }
    return tvm.target.Target(described, host={"kind": "llvm"})


def own_kernels(module: tvm.IRModule) -> list[CudaKernel]:
    """Our own kernels that a module calls."""
    found: set[str] = set()

    def visit(call: tvm.ir.Call) -> None:
        if isinstance(call.op, tvm.ir.Op) and call.op.name == _CALL_PACKED:
            found.add(str(call.args[0].value))

    for function in module.functions.values():
        if isinstance(function, tirx.PrimFunc):
            tvm_ffi.structural_walk(function.body, (tvm.ir.Call, visit))
    kernels = {kernel.name: kernel for kernel in (letterbox.CUDA, suppress.CUDA, top.CUDA, *regions.CUDA.values())}
    return [kernels.get(name) or conv_cuda.named(name) for name in sorted(found) if name.startswith("detc_")]


def _compiled(own: Sequence[CudaKernel], folder: Path, nvcc: str, arch: str) -> tvm.runtime.Module:
    """Kernels of our own, as the module that launches them under their names."""
    source, binary = folder / "own.cu", folder / "own.fatbin"
    source.write_text(joined(own))
    subprocess.run([nvcc, "-O3", f"-arch={arch}", "-fatbin", "-o", str(binary), str(source)], check=True)
    kernels = {
        kernel.name: {"name": "", "arg_types": list(kernel.arguments), "launch_param_tags": kernel.launch_tags}
        for kernel in own
    }
    described = json.dumps({"tvm_version": tvm.__version__, "func_info": kernels})
    functions = tvm.get_global_func("runtime.LoadMetaDataFromJSON")(described)
    return tvm.get_global_func("ffi.Module.create.cuda")(binary.read_bytes(), "fatbin", functions, {})


if __name__ == "__main__":
    _compile(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5] == "graphs")
