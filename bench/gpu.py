"""Everything that is to be checked and measured on a GPU, in one call.

    python bench/gpu.py pack .gpu                     # here: detectors compiled for the GPU, without their weights
    python bench/gpu.py run .gpu --out results        # there: all checks, as results/gpu.json and results/gpu.md

What is packed is small, since weights are left out: they are made again from a seed, and laid out as kernels want them
by what `pack` found out about each. The machine with the GPU needs torch and the packages of `NEEDED`, not TVM, whose
runtime libraries are packed; `pack --wheels` fetches them for its Python, and `run` takes them from the folder. Each
stage stands alone: one that fails is reported, and those for which no time is left are named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
# Of the machine with the GPU: its Python, and what detc needs that is not there.
PYTHON = "3.12"
NEEDED = ("lark", "pycocotools", "apache-tvm-ffi")


@dataclass(frozen=True)
class Job:
    """A detector to compile: with `graphs`, launches are recorded as CUDA graphs."""

    spec: str
    name: str
    precision: str
    batch: int = 1
    size: tuple[int, int] = (640, 640)
    graphs: bool = True

    @property
    def label(self) -> str:
        return f"{self.name}-{self.precision}-{self.batch}{'' if self.graphs else '-launches'}"


_RETINANET = ("specs/retinanet.det", "retinanet_r50_fpn_1x")
JOBS = (
    Job(*_RETINANET, "float16"),
    Job(*_RETINANET, "bfloat16"),
    Job(*_RETINANET, "float32"),
    Job(*_RETINANET, "bfloat16", batch=16),
    Job(*_RETINANET, "float16", graphs=False),
    Job("specs/nas_fpn.det", "retinanet_r50_nasfpn_crop640_50e", "bfloat16"),
    Job("specs/faster_rcnn.det", "faster_rcnn_r50_fpn_1x", "bfloat16"),
    Job("specs/mask_rcnn.det", "mask_rcnn_r50_fpn_1x", "float16"),
    Job("specs/fpg.det", "faster_rcnn_r50_fpg_crop640_50e", "bfloat16"),
)


# ---- packing ---------------------------------------------------------------------------------------------------------


def pack(folder: Path, jobs: Sequence[Job], target: str, arch: str | None, *, wheels: bool) -> None:
    """Compiles jobs, and writes their libraries and how their parameters follow from weights."""
    from detc.compiler.emit.tvm.build import build_cuda, build_llvm

    folder.mkdir(parents=True, exist_ok=True)
    packed = []
    for job in jobs:
        started = time.perf_counter()
        graph, weights = folded(job, seed_state(job))
        size = {"batch": job.batch, "height": job.size[0], "width": job.size[1]}
        if target == "cuda":
            kernels = build_cuda(
                graph, weights, **size, arch=arch or "sm_90", precision=job.precision, graphs=job.graphs
            )
        else:
            kernels = build_llvm(graph, weights, **size, arch=arch, precision=job.precision)
        recipes = {name: recipe(name, array, weights) for name, array in kernels.parameters.items()}
        raw = {name: kernels.parameters[name] for name, found in recipes.items() if found is None}
        (folder / f"{job.label}.so").write_bytes(kernels.library)
        np.savez_compressed(folder / f"{job.label}.npz", **raw)
        described = {
            "job": asdict(job),
            "target": target,
            "recipes": {name: found for name, found in recipes.items() if found is not None},
            "raw": list(raw),
            **{name: getattr(kernels, name) for name in ("functions", "prepared", "outputs")},
        }
        packed.append(described)
        megabytes = sum((folder / f"{job.label}.{suffix}").stat().st_size for suffix in ("so", "npz")) / 1e6
        print(f"{job.label}: {megabytes:.1f} MB, {time.perf_counter() - started:.0f} s", flush=True)
        (folder / "jobs.json").write_text(json.dumps(packed, indent=1))
    _pack_runtime(folder / "site", target)
    if wheels:
        _fetch_wheels(folder / "wheels")


def _pack_runtime(site: Path, target: str) -> None:
    """TVM's runtime libraries, as a package of its name that has nothing else."""
    found = importlib.util.find_spec("tvm")
    libraries = Path(found.submodule_search_locations[0]) / "lib"
    (site / "tvm/lib").mkdir(parents=True, exist_ok=True)
    (site / "tvm/__init__.py").write_text('"""The runtime libraries of TVM alone."""\n')
    for name in ("runtime", "runtime_extra", *(("runtime_cuda",) if target == "cuda" else ())):
        shutil.copy2(libraries / f"libtvm_{name}.so", site / "tvm/lib")


def _fetch_wheels(folder: Path) -> None:
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28)]
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    pinned = [f"{name}=={distribution(name).version}" for name in NEEDED]
    command = [sys.executable, "-m", "pip", "download", *options, *platforms, "--platform=manylinux2014_x86_64"]
    subprocess.run([*command, "-d", str(folder), *pinned], check=True)


def seed_state(job: Job) -> dict[str, np.ndarray]:
    """The detector's fresh weights: what they are does not matter when a job is packed."""
    import torch

    import detc

    torch.manual_seed(0)
    module = detc.load(ROOT / job.spec, job.name).module("predict")
    return {key: value.numpy() for key, value in module.state_dict().items()}


def folded(job: Job, state: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    """The predict graph and the weights that kernels are given."""
    import detc
    from detc.compiler.passes import apply
    from detc.compiler.passes.fold_batch_norm import FoldBatchNorm
    from detc.compiler.passes.fold_standardization import FoldStandardization

    graph = detc.load(ROOT / job.spec, job.name).graph.view("predict")
    folds = [FoldStandardization(), FoldBatchNorm()]
    return apply(folds, graph, {key: state[key] for key in graph.weights})


# How a parameter is laid out, of a weight (O, I, KH, KW) or (F, D); what pixels a row has is found by trying.
_PIXELS = ((1, 1), (7, 7), (14, 14), (3, 3), (4, 4), (6, 6), (8, 8))


def recipe(name: str, array: np.ndarray, weights: Mapping[str, np.ndarray]) -> list[Any] | None:
    """What makes a parameter of which weight: its key, and the arguments of `laid_out`; None where nothing does."""
    # (A weight's name is followed by what was done to it.)
    keys = [key for key in weights if name == key or name.startswith(f"{key}.")]
    for key in sorted(keys, key=len, reverse=True):
        for way in _ways(weights[key], array):
            made = laid_out(weights[key], *way)
            if made.dtype == array.dtype and made.shape == array.shape and np.array_equal(made, array):
                return [key, *way]
    return None


def _ways(weight: np.ndarray, array: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Arguments of `laid_out` that may make an array of a weight."""
    if weight.ndim == 1:
        yield ("repeated", max(1, array.size // weight.size))
        return
    dtype = {"uint16": "bfloat16"}.get(str(array.dtype), str(array.dtype))
    for turn in ("as it is", "side by side", "turned"):
        if turn == "as it is" or weight.ndim == 4:
            yield ("stored", turn, dtype)
            yield ("channels last", turn, dtype)
            for groups in (1, 32, 64):
                if turn == "as it is" or groups == 1:
                    yield ("rows", turn, dtype, groups, (1, 1))
    if weight.ndim == 2:
        yield ("transposed", dtype, (1, 1))
        for pixels in _PIXELS:
            if weight.shape[1] % (pixels[0] * pixels[1]) == 0:
                yield ("rows", "as it is", dtype, 1, pixels)
                yield ("transposed", dtype, pixels)


def laid_out(weight: np.ndarray, way: str, *arguments: Any) -> np.ndarray:
    """A weight as a kernel reads it."""
    from detc.compiler.emit.precision import rounded
    from detc.compiler.emit.tvm import conv_cuda

    if way == "repeated":
        return np.tile(weight, arguments[0])
    if way == "transposed":
        dtype, pixels = arguments
        return np.ascontiguousarray(_by_pixel(weight, pixels).T)
    turn, dtype, *rest = arguments
    if turn == "side by side":
        weight = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0], 1, 1)
    elif turn == "turned":
        weight = np.ascontiguousarray(weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    if way == "rows":
        groups, pixels = rest
        if weight.ndim == 2:
            weight = _by_pixel(weight, pixels)[:, :, None, None]
        return conv_cuda.pack(weight, groups, dtype)[0]
    if way == "channels last":
        weight = weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight
    return np.ascontiguousarray(rounded(weight, dtype))


def _by_pixel(weight: np.ndarray, pixels: Sequence[int]) -> np.ndarray:
    """A weight (F, C * H * W) for rows that lie as (H, W, C)."""
    height, width = pixels
    return weight.reshape(len(weight), -1, height, width).transpose(0, 2, 3, 1).reshape(weight.shape)


# ---- running ---------------------------------------------------------------------------------------------------------


class Report:
    """What the stages found. It is written after each of them."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._until = time.monotonic() + seconds
        self.stages: dict[str, Any] = {}

    def stage(self, name: str, run: Callable[[], Any], needs: float = 0) -> None:
        """Runs a stage, where at least `needs` seconds are left."""
        started = time.monotonic()
        if self._until - started < needs:
            self.stages[name] = {"not run": f"{needs:.0f} s are needed, {self._until - started:.0f} s are left"}
        else:
            try:
                self.stages[name] = {"found": run()}
            except Exception as error:  # whatever is wrong with one stage must not lose the others
                self.stages[name] = {"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
            self.stages[name]["seconds"] = round(time.monotonic() - started, 1)
        print(name, json.dumps({k: v for k, v in self.stages[name].items() if k != "trace"})[:400], flush=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "gpu.json").write_text(json.dumps(self.stages, indent=1))
        (self._folder / "gpu.md").write_text(self._markdown())

    def _markdown(self) -> str:
        lines = ["# Measured on a GPU", "", "| stage | seconds | result |", "|---|---|---|"]
        for name, stage in self.stages.items():
            (what, value), *_ = stage.items()
            text = json.dumps(value) if what == "found" else f"{what}: {value}"
            lines.append(f"| {name} | {stage.get('seconds', '')} | {text.replace('|', '/')[:3000]} |")
        return "\n".join(lines) + "\n"


@dataclass
class Subject:
    """A packed job on this machine: its weights, the torch module that has them, and the compiled engine."""

    job: Job
    detector: Any
    graph: Any
    state: dict[str, np.ndarray]
    module: Any
    parts: Any
    engine: Any

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.job.batch, 3, *self.job.size


def load(folder: Path, described: Mapping[str, Any]) -> Subject:
    """A packed job, with weights that find objects."""
    import torch
    from export import with_objects

    import detc
    from detc.runtime.agreement import image_like
    from detc.runtime.engines import TvmEngine
    from detc.runtime.judge import TvmCandidate

    job = Job(**{**described["job"], "size": tuple(described["job"]["size"])})
    torch.manual_seed(0)
    detector = detc.load(ROOT / job.spec, job.name)
    module = with_objects(detector, image_like(0, (1, 3, *job.size)))
    state = {key: value.detach().numpy() for key, value in module.state_dict().items()}
    graph, weights = folded(job, state)
    with np.load(folder / f"{job.label}.npz") as raw:
        parameters = {name: raw[name] for name in described["raw"]}
    parameters |= {name: laid_out(weights[key], *way) for name, (key, *way) in described["recipes"].items()}
    library = (folder / f"{job.label}.so").read_bytes()
    given = (described[name] for name in ("functions", "prepared", "outputs"))
    engine = TvmEngine(library, parameters, *given, described["target"])
    candidate = TvmCandidate(engine, parameters, graph, no_compiler, job.precision)
    return Subject(job, detector, detector.graph.view("predict"), state, module, candidate, engine)


def no_compiler(graph: Any) -> Any:
    """What a candidate is given to compile parts of a graph: TVM's compiler does not travel."""
    raise RuntimeError(f"{graph.name} cannot be taken apart here: there is no compiler")


def agreement(subject: Subject) -> dict[str, Any]:
    """The artifact against torch.fx in float32 on the processor: every network, every choice, the detections."""
    from detc.runtime.agreement import compare
    from detc.runtime.judge import Judge
    from detc.runtime.low_precision import compare_rounded

    judge = Judge(subject.graph, subject.state)
    shape, precision = (subject.job.batch, 3, *subject.job.size), subject.job.precision
    if precision == "float32":
        return asdict(compare(judge, subject.parts, shape, images=1))
    return asdict(compare_rounded(judge, subject.parts, shape, precision, images=1))


def latency(subject: Subject, device: str, *, compiled: bool, seconds: float) -> dict[str, Any]:
    """Milliseconds from an image array to arrays of boxes, of ours and of torch, which take turns.

    Torch is in the artifact's precision by autocast, channels last; `compiled` adds torch.compile, tuned as far as it
    goes.
    """
    import torch

    from detc.runtime.agreement import image_like
    from detc.runtime.predict import FxEngine

    image = image_like(1, subject.shape)
    dtype = getattr(torch, subject.job.precision)

    def torch_engine(module: Any) -> Callable[[], Any]:
        engine = FxEngine(module.to(memory_format=torch.channels_last), device)

        def run() -> Any:
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                return engine(image=image)

        return run

    runs: dict[str, Callable[[], Any]] = {
        "detc": lambda: subject.engine(image=image),
        "torch eager": torch_engine(subject.module),
    }
    if compiled:
        # (On a processor, where this is only tried, nothing is generated.)
        options = {"mode": "max-autotune"} if device == "cuda" else {"backend": "eager"}
        runs["torch.compile"] = torch_engine(torch.compile(subject.module, dynamic=False, **options))
    found = turns(runs, seconds)
    found["operations"] = operations(subject)
    found["TFLOP/s"] = found["operations"] / found["detc"]["median"] / 1e9
    return found


def turns(runs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """Milliseconds of each, one after the other until the time is up, after three turns that warm up."""
    for _ in range(3):
        for run in runs.values():
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(next(iter(taken.values()))) < 3:
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            taken[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: {"median": np.median(t), "p99": np.percentile(t, 99), "least": min(t), "turns": len(t)}
        for name, t in taken.items()
    }


def operations(subject: Subject) -> int:
    """Multiplications and additions of the layers, for a batch."""
    from detc.runtime.tune import layers

    return sum(layer.operations for layer in layers(subject.graph, subject.job.batch, *subject.job.size))


def onnxruntime_latency(subject: Subject, seconds: float) -> dict[str, Any]:
    """Milliseconds under ONNX Runtime's CUDA provider, in float32, which its models are."""
    import onnxruntime

    from detc.compiler.emit.onnx import emit
    from detc.runtime.agreement import image_like

    providers = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in providers:
        return {"not there": f"this ONNX Runtime has {', '.join(providers)}"}
    graph, weights = folded(subject.job, subject.state)
    model = emit(graph, weights, batch=subject.job.batch, height=subject.job.size[0], width=subject.job.size[1])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
    image = image_like(1, subject.shape)
    runs = {
        "onnxruntime": lambda: session.run(None, {"image": image}),
        "detc": lambda: subject.engine(image=image),
    }
    return turns(runs, seconds)


def ceilings() -> dict[str, float]:
    """What the card does at most: bf16 products of random matrices by torch, TFLOP/s, and copies, TB/s."""
    import torch

    def seconds(run: Callable[[], object]) -> float:
        for _ in range(3):
            run()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e4

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(2**31, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return {
        "bf16 TFLOP/s": 2 * 8192**3 / seconds(lambda: a @ b) / 1e12,
        "copy TB/s": 2 * 2**31 / seconds(lambda: target.copy_(source)) / 1e12,
    }


def every_tile(dtype: str) -> dict[str, Any]:
    """Every tile, with one block and with three to a reduction, against torch: the largest errors."""
    from detc.compiler.emit.tvm.tuning import TILES, Choice, Convolution
    from detc.runtime.tune import Bench, architecture

    shape = {"kernel": (3, 3), "padding": (1, 1)}
    tried = [
        Convolution(2, 37, 29, 72, 37, 29, 104, **shape),
        Convolution(1, 37, 29, 64, 19, 15, 36, (3, 3), (2, 2), (1, 1)),
        Convolution(1, 37, 29, 64, 37, 29, 128, (3, 3), padding=(2, 2), dilation=(2, 2), groups=2),
        Convolution(1, 64, 96, 3, 32, 48, 64, (7, 7), (2, 2), (3, 3)),
    ]
    choices = [Choice(tile, splits) for tile in TILES for splits in (1, 3)]
    bench = Bench(((layer, choice) for layer in tried for choice in choices), dtype, architecture())
    found = {str(layer): bench.measure(layer, choices) for layer in tried}
    wrong = [f"{layer}: {each.choice}" for layer, all_ in found.items() for each in all_ if not each.agrees]
    return {"wrong": wrong, "largest error": {layer: max(m.error for m in all_) for layer, all_ in found.items()}}


def tuned(subject: Subject, out: Path, seconds: float, most: int = 8) -> dict[str, Any]:
    """A table for the layers of a detector, most work first, as far as time allows; and what it brings."""
    from detc.runtime.tune import Bench, architecture, layers, load_table, promising, save_table

    arch, path = architecture(), out / "tuned.json"
    until = time.monotonic() + seconds
    table = load_table(path)
    known = table.setdefault(arch, {})
    all_layers = layers(subject.graph, subject.job.batch, *subject.job.size)
    wanted = sorted(dict.fromkeys(all_layers), key=lambda layer: -layer.operations * all_layers.count(layer))
    tried = {layer: promising(layer, arch, most) for layer in wanted}
    dtype = subject.job.precision
    bench = Bench(((layer, choice) for layer, choices in tried.items() for choice in choices), dtype, arch)
    lines = []
    for layer, choices in tried.items():
        if time.monotonic() > until:
            break
        measured = bench.measure(layer, choices)
        rule = next(each for each in measured if each.choice == choices[0])
        if measured[0].agrees:
            known[str(layer)] = measured[0].choice
            save_table(path, table)
        count, rate = all_layers.count(layer), layer.operations / measured[0].seconds / 1e12
        best, by_rule = (round(1e6 * each.seconds, 1) for each in (measured[0], rule))
        lines.append([str(layer), count, str(measured[0].choice), best, by_rule, round(rate)])
    total, ruled = (round(sum(line[1] * line[column] for line in lines) / 1e3, 3) for column in (3, 4))
    return {"layers": f"{len(lines)} of {len(wanted)}", "ms": total, "ms by the rule": ruled, "lines": lines}


def training(spec: str, name: str, device: str, dtype: str, size: int, steps: int = 3) -> dict[str, Any]:
    """Some steps of training on made-up images: losses that are numbers, and change."""
    import torch
    from training_inputs import total_loss, training_inputs

    import detc

    torch.manual_seed(0)
    detector = detc.load(ROOT / spec, name)
    module = detector.module("train").to(device, memory_format=torch.channels_last).train()
    given = [x.to(device) for x in training_inputs(module, size, size, 2, len(detector.classes), objects=5)]
    optimizer = torch.optim.SGD((p for p in module.parameters() if p.requires_grad), 1e-4)
    scaler = torch.amp.GradScaler(device, enabled=dtype == "float16")
    losses, started = [], time.perf_counter()
    for _ in range(steps):
        with torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32"):
            loss = total_loss(module(*given))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert all(np.isfinite(losses)), losses
    return {"losses": losses, "seconds a step": (time.perf_counter() - started) / steps}


def nccl(count: int) -> dict[str, Any]:
    """A sum over all GPUs, a process for each."""
    import torch

    if count < 2:
        return {"not there": f"{count} GPU"}
    torch.multiprocessing.spawn(_sum_up, (count,), nprocs=count)
    return {"devices": count, "sum": "right"}


def _sum_up(rank: int, count: int) -> None:
    import torch

    torch.cuda.set_device(rank)
    address = "tcp://127.0.0.1:29517"
    torch.distributed.init_process_group("nccl", init_method=address, rank=rank, world_size=count)
    value = torch.full((1 << 20,), float(rank + 1), device="cuda")
    torch.distributed.all_reduce(value)
    assert bool((value == count * (count + 1) / 2).all())
    torch.distributed.destroy_process_group()


def machine(device: str) -> dict[str, Any]:
    import torch

    found = {"python": sys.version.split()[0], "torch": torch.__version__}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "processors": properties.multi_processor_count}
        found["driver"] = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout[:400]
    return found


def run(folder: Path, out: Path, seconds: float, share: float) -> Report:
    """All stages over what is packed in a folder; `share` is the seconds that each measurement may take."""
    import torch

    # A script's own folder is on the path; what the tests make training inputs with is beside it.
    sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests/support")]
    packed = json.loads((folder / "jobs.json").read_text())
    device = "cuda" if packed[0]["target"] == "cuda" else "cpu"
    report = Report(out, seconds)
    report.stage("machine", lambda: machine(device))
    if device == "cuda":
        report.stage("ceilings", ceilings)
        for dtype in ("float16", "bfloat16"):
            report.stage(f"every tile, {dtype}", lambda dtype=dtype: every_tile(dtype), 20)
    subjects: dict[str, Subject] = {}
    for described in packed:
        label = Job(**described["job"]).label

        def check(described: Mapping[str, Any] = described, label: str = label) -> Any:
            subjects[label] = load(folder, described)
            return agreement(subjects[label])

        report.stage(f"agreement, {label}", check, 15)
    for label, subject in subjects.items():
        measure = lambda subject=subject: latency(subject, device, compiled=False, seconds=share)  # noqa: E731
        report.stage(f"latency, {label}", measure, 3 * share)
    first = next(iter(subjects.values()), None)
    if first is not None:
        report.stage("onnxruntime", lambda: onnxruntime_latency(first, share), 10 * share)
        if device == "cuda":
            for subject in [first, *(each for each in subjects.values() if each.job.batch > 1)]:
                table = lambda subject=subject: tuned(subject, out, 8 * share)  # noqa: E731
                report.stage(f"tune, {subject.job.label}", table, 12 * share)
        job = first.job
        for dtype in ("float32", "bfloat16", *(("float16",) if device == "cuda" else ())):
            train = lambda dtype=dtype: training(job.spec, job.name, device, dtype, min(job.size))  # noqa: E731
            report.stage(f"training, {dtype}", train, 5 * share)
        report.stage("nccl", lambda: nccl(torch.cuda.device_count() if device == "cuda" else 0), share)
        compiled = lambda: latency(first, device, compiled=True, seconds=share)  # noqa: E731
        report.stage(f"torch.compile, {job.label}", compiled, 20 * share)
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, dest="command")
    packing = commands.add_parser("pack")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--only", help="of the jobs, those whose label has this in it")
    packing.add_argument("--wheels", action="store_true", help="fetch the packages that the other machine lacks")
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--seconds", type=float, default=540)
    running.add_argument("--share", type=float, default=4, help="seconds of one measurement")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT / "src"))
    if given.command == "pack":
        jobs = [job for job in JOBS if not given.only or given.only in job.label]
        pack(given.folder, jobs, "cuda", "sm_90", wheels=given.wheels)
    else:
        _install(given.folder)
        run(given.folder, given.out, given.seconds, given.share)


def _install(folder: Path) -> None:
    """Makes packages of the packed folder importable, before those of this machine."""
    site = folder / "site"
    wheels = sorted(map(str, (folder / "wheels").glob("*.whl")))
    if wheels:
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
    if importlib.util.find_spec("tvm") is None:
        sys.path.insert(0, str(site.resolve()))


if __name__ == "__main__":
    main()
