"""Exported detectors: one `.detc` file each, written by `detc export`, run without torch and without a compiler.

    from detc.runtime.artifact import Artifact

    artifact = Artifact.load("model.detc")
    (found,) = artifact("street.jpg")         # or pixels (height, width, 3) uint8 in blue, green, red
    print(found.names, found.boxes, found.scores)

A `.detc` file is a zip archive without compression. `manifest.json` says what is in it (docs/exporting.md), with the
SHA-256 of every other member: `weights.safetensors`, and for each batch and image size a `model-*.onnx` that refers to
it, or a `kernels-*.so`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detc.dsl.catalogue.data import PROPOSALS_MISSING
from detc.dsl.catalogue.export import (
    ARTIFACT_DAMAGED,
    ARTIFACT_ELSEWHERE,
    ARTIFACT_VERSION,
    NO_ENGINE,
    NOT_AN_ARTIFACT,
    WRONG_INPUT,
)
from detc.dsl.catalogue.running import NO_SETTINGS
from detc.dsl.diagnostics import DiagnosticError, Kind
from detc.runtime.benchmark import cores, processor
from detc.runtime.data.images import MOST_PIXELS
from detc.runtime.engines import WEIGHTS, Engine, OnnxEngine, OpenVinoEngine, Tensors, TvmEngine, aligned, on_device
from detc.runtime.files import write_whole
from detc.runtime.inputs import Order, Picture
from detc.runtime.remembered import remembered

if TYPE_CHECKING:
    from detc.runtime.predict import ArtifactPredictor, Found

FORMAT = 2

_MANIFEST = "manifest.json"
PRECISIONS = ("float32", "float16", "bfloat16")
# Which engines run the artifacts of a target, and the package that each needs.
ENGINES = {"onnx": ("onnxruntime", "openvino"), "llvm": ("tvm",), "cuda": ("tvm",)}
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tvm": "apache-tvm"}
# Runs that settle an engine, and runs of which the fastest counts.
_WARM, _MEASURED = 2, 5


@dataclass(frozen=True, eq=False)
class Entry:
    """A batch and an image size that an artifact is compiled for, and the names and shapes of what goes in and out."""

    batch: int
    height: int
    width: int
    file: str
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    functions: Mapping[str, Sequence[str]]
    prepared: tuple[str, ...]
    passes: tuple[str, ...]
    graph: str

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Entry:
        """An entry of a manifest."""
        sides = (int(described[name]) for name in ("batch", "height", "width"))
        inputs, outputs = (tuple(described[name]) for name in ("inputs", "outputs"))
        functions, prepared = described["functions"], tuple(described["prepared"])
        made_by = tuple(described["passes"]), str(described["graph"])
        return cls(*sides, str(described["file"]), inputs, outputs, functions, prepared, *made_by)


class Artifact:
    """An exported detector, loaded and ready.

    It holds variants for one or more batches and image sizes. Any number of images may be given: they are split into
    its batches (`split`), each image going to the size that keeps most of its own scale. An engine is made for a
    variant when it is first needed, or by `warm_up`.
    """

    def __init__(
        self, manifest: Mapping[str, Any], members: Mapping[str, bytes], engine: str, threads: int | None = None
    ) -> None:
        self.manifest = manifest
        self.engine = engine
        self._threads = threads
        self.entries = tuple(Entry.of(each) for each in manifest["entries"])
        self._members = members
        self._engines: dict[Entry, Engine] = {}
        self._space = np.zeros(0, np.uint8)

    @property
    def name(self) -> str:
        """The detector's name."""
        name: str = self.manifest["detector"]
        return name

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return list(self.manifest["classes"])

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """The (height, width) that images are fitted into, one of them each."""
        return list(dict.fromkeys((entry.height, entry.width) for entry in self.entries))

    @property
    def batches(self) -> list[int]:
        """How many images its variants take, rising."""
        return sorted({entry.batch for entry in self.entries})

    @property
    def takes_pixels(self) -> bool:
        """Whether images go in as they are; else they go in normalised, to `run`."""
        return bool(self.entries[0].inputs[0]["name"] == "pixels")

    @property
    def described(self) -> str:
        """What runs it, with its version, in words."""
        names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tvm": "TVM"}
        return f"{names[self.engine]} {version(PACKAGES[self.engine])}"

    def __call__(self, pictures: Picture | Iterable[Picture], order: Order = "bgr") -> list[Found]:
        """What is found in each picture, or in the only one: boxes in its own pixels, by falling score.

        A picture is a file, an array (h, w, 3) uint8, or a picture of Pillow. `order` is that of the channels of
        arrays: "bgr", as OpenCV reads them, or "rgb", as most others do.

        Raises:
            DiagnosticError: image-unreadable, bad-picture, and those of `predictor`.
        """
        return self.predictor()(pictures, order)

    def predictor(self) -> ArtifactPredictor:
        """This detector as what `detc predict` uses: pictures in, one by one or many, boxes in their pixels out.

        Raises:
            DiagnosticError: proposals-missing, where it takes more than an image; no-settings, where its spec had no
                `data` to say what images become.
        """
        if not self.takes_pixels:
            if len(self.entries[0].inputs) > 1:
                summary = f"{self.name} takes proposals beside an image"
                raise DiagnosticError(PROPOSALS_MISSING.at(None, summary, detail="give both to the artifact's `run`"))
            hint = "give the spec `data` and export it again, or give the artifact's `run` normalised images"
            summary = f"{self.name} was exported without `data`, which says how images are normalised"
            raise DiagnosticError(NO_SETTINGS.at(None, summary, detail=hint))
        from detc.runtime.predict import ArtifactPredictor

        tells_apart = any(output["name"] == "classes" for output in self.entries[0].outputs)
        return ArtifactPredictor(self, tuple(self.classes) if tells_apart else ("object",))

    def detect(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """What is found in each of any number of images (h, w, 3) uint8 in blue, green, red.

        Of each, `boxes` (K, 4) float32 in its own pixels, within it, and the rest as `run` gives for a batch. What is
        found in an image does not depend on the images beside it.
        """
        found: list[dict[str, np.ndarray]] = [{} for _ in images]
        for size in self.image_sizes:
            places = [place for place, image in enumerate(images) if self._size_for(image) == size]
            entries = {entry.batch: entry for entry in self.entries if (entry.height, entry.width) == size}
            for batch, count in split(len(places), sorted(entries)):
                chosen, places = places[:count], places[count:]
                self._detect(entries[batch], images, chosen, found)
        return found

    def _detect(
        self, entry: Entry, images: Sequence[np.ndarray], places: Sequence[int], found: list[dict[str, np.ndarray]]
    ) -> None:
        """Runs one batch. Where the images are so unlike that together they would fill too much memory, one by one."""
        together = [images[place] for place in places]
        if len(together) > 1 and _pixels_of(together, entry.batch) > MOST_PIXELS:
            for place in places:
                self._detect(entry, images, [place], found)
            return
        pixels, sizes = self._packed(together, entry.batch)
        outputs = self._engine(entry)(pixels=pixels, sizes=sizes)
        for row, place in enumerate(places):
            found[place] = {name: values[row] for name, values in outputs.items()}

    def _packed(self, images: Sequence[np.ndarray], batch: int) -> tuple[np.ndarray, np.ndarray]:
        """As `packed`, in memory that is kept for the next images."""
        wanted = 3 * _pixels_of(images, batch)
        if self._space.size < wanted:
            self._space = aligned((wanted,))
        return packed(images, batch, self._space[:wanted])

    def _size_for(self, image: np.ndarray) -> tuple[int, int]:
        """The size that keeps most of an image's scale; of those that keep as much, the smallest."""
        height, width = image.shape[:2]

        def keeps(size: tuple[int, int]) -> tuple[float, int]:
            return min(size[0] / height, size[1] / width), -size[0] * size[1]

        return max(self.image_sizes, key=keeps)

    def run(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """What is found in arrays as the manifest's `inputs` describe them; there may be fewer rows than its batch.

        Of a detector exported without `data`, `image` (n, 3, H, W) float32, normalised; of one that takes proposals,
        also `proposals` (n, R, 4) float32 in pixels and `proposal_scores` (n, R) float32, 0 where there is none. Of
        one with `data`, `pixels` (n, h, w, 3) uint8, and the height and width of each in `sizes` (n, 2) int64.

        Returns `boxes` (n, K, 4) float32 in pixels as x1, y1, x2, y2, `scores` (n, K) float32, of a detector that tells
        classes apart `classes` (n, K) int64, and of one that finds masks `masks` (n, K, h, w) float32, the probability
        of the object in h x w cells of its box; sorted by score. Absent ones have score 0 and class -1.

        Raises:
            DiagnosticError: wrong-artifact-input.
        """
        rows = {len(array) if array.ndim else 0 for array in inputs.values()}
        fitting = [entry for entry in self.entries if _fits(entry, inputs)] if len(rows) == 1 else []
        if not fitting:
            takes = " or ".join(dict.fromkeys(_listed(entry.inputs) for entry in self.entries))
            given = ", ".join(f"{name} {array.dtype} {_sides(array.shape)}" for name, array in inputs.items())
            raise DiagnosticError(WRONG_INPUT.at(None, f"{self.name} takes {takes}, and not {given or 'nothing'}"))
        (count,) = rows
        entry = min(fitting, key=lambda entry: entry.batch)
        whole = {}
        for described in entry.inputs:
            array = inputs[described["name"]]
            # Sizes of images that are not there are those of one pixel.
            more = np.full((entry.batch - count, *array.shape[1:]), described["name"] == "sizes", array.dtype)
            whole[described["name"]] = np.concatenate([array, more]) if len(more) else array
        return {name: value[:count] for name, value in self._engine(entry)(**whole).items()}

    def warm_up(self) -> None:
        """Makes every engine and runs it once, so that no image waits for that."""
        for entry in self.entries:
            self._engine(entry)(**_anything(entry))

    def first_network(self) -> Callable[[], object]:
        """What runs the part before any box is chosen, alone, for measurements: of the first variant, under TVM."""
        entry = self.entries[0]
        engine = self._engine(entry)
        assert isinstance(engine, TvmEngine)
        image = np.random.default_rng(0).standard_normal((entry.batch, 3, entry.height, entry.width), np.float32)
        return lambda: engine.call("part_0", image)

    def _engine(self, entry: Entry) -> Engine:
        if entry not in self._engines:
            try:
                self._engines[entry] = self._made(entry)
            except KeyError as error:
                summary = f"{self.name}: {entry.file} takes weights that are not there ({error})"
                raise DiagnosticError(ARTIFACT_DAMAGED.at(None, summary)) from None
            if len(self._engines) == len(self.entries):
                # Every engine has what it needs in memory of its own.
                self._members = {}
                self.__dict__.pop("_tensors", None)
        return self._engines[entry]

    def _made(self, entry: Entry) -> Engine:
        content = self._members[entry.file]
        outputs = [output["name"] for output in entry.outputs]
        if self.engine == "tvm":
            function = "detect" if self.takes_pixels else "main"
            target = self.manifest["target"]
            return TvmEngine(content, self._tensors, entry.functions, entry.prepared, outputs, target, entry=function)
        if self.engine == "openvino":
            return OpenVinoEngine(content, self._members[WEIGHTS], outputs, self.manifest["precision"], self._threads)
        return OnnxEngine(content, self._members[WEIGHTS], self._threads)

    @cached_property
    def _tensors(self) -> Tensors:
        """The weights, for the engines of all variants."""
        from safetensors.numpy import load

        return on_device(load(self._members[WEIGHTS]), self.manifest["target"])

    @classmethod
    def load(cls, path: str | Path, engine: str | None = None, threads: int | None = None) -> Artifact:
        """Reads an artifact and checks every byte of it.

        `engine` is what is to run it: "tvm" for one of machine code; "onnxruntime", the default, or "openvino" for an
        ONNX model, or "fastest" of those that are installed (the function of this name). An artifact in bfloat16 is
        run by OpenVINO where it is installed: ONNX Runtime has no kernels of it on a CPU. `threads` is how many
        it may use, None as many as it likes; TVM's runtime reads TVM_NUM_THREADS when it is loaded.

        Raises:
            DiagnosticError: not-an-artifact, artifact-damaged, artifact-version, artifact-for-another-machine, or
                no-engine.
        """
        path = Path(path)
        manifest, members = read(path)
        _require_described(path, manifest, members)
        able = ENGINES[manifest["target"]]
        if engine not in (None, "fastest", *able):
            summary = f"{path}: {engine} does not run it, but {' and '.join(able)}"
            raise DiagnosticError(NO_ENGINE.at(None, summary))
        if engine not in (None, "fastest") and not installed(engine):
            summary = f"{path}: {engine} is not installed"
            raise DiagnosticError(NO_ENGINE.at(None, summary, detail=f"pip install 'detc[{engine}]'"))
        if manifest["target"] != "onnx":
            _require_machine(path, manifest)
        present = [each for each in able if installed(each)]
        if manifest["precision"] == "bfloat16" and "openvino" in present:
            default = "openvino"
        elif engine == "fastest" and len(present) > 1:
            default = fastest([cls(manifest, members, each, threads) for each in present])
        else:
            default = able[0]
        artifact = cls(manifest, members, default if engine is None or engine == "fastest" else engine, threads)
        if len(artifact.entries) == 1:
            artifact._engine(artifact.entries[0])
        return artifact


def _require_described(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Raises DiagnosticError artifact-damaged where a manifest does not say what is needed to run the artifact."""
    try:
        entries = [Entry.of(each) for each in manifest["entries"]]
        fine = (
            manifest["target"] in ENGINES
            and manifest["precision"] in PRECISIONS
            and bool(entries)
            and all(isinstance(name, str) for name in [manifest["detector"], *manifest["classes"]])
            and {WEIGHTS, *(entry.file for entry in entries)} <= members.keys()
            and all(min(entry.batch, entry.height, entry.width) >= 1 for entry in entries)
            and all(each["name"] and each["dtype"] and each["shape"] for e in entries for each in e.inputs + e.outputs)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DiagnosticError(ARTIFACT_DAMAGED.at(None, f"{path}: its manifest cannot be read ({error!r})")) from None
    if not fine:
        raise DiagnosticError(ARTIFACT_DAMAGED.at(None, f"{path}: its manifest does not describe what is in it"))


def split(count: int, batches: Sequence[int]) -> list[tuple[int, int]]:
    """How so many images are split over batches, which rise: the batch, and how many images go into it.

    The largest batches that are filled come first; only where fewer are left than the smallest batch takes is one
    filled up with images that are not there.
    """
    found = []
    while count:
        batch = max((batch for batch in batches if batch <= count), default=batches[0])
        found.append((batch, min(batch, count)))
        count -= found[-1][1]
    return found


def packed(
    images: Sequence[np.ndarray], batch: int | None = None, space: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`pixels` and `sizes` of a batch of images (h, w, 3) uint8, which an artifact takes; missing ones are one black
    pixel each. The pixels are in `space`, bytes of which there are as many as it takes, where it is given."""
    count = batch or len(images)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    shape = (count, height, width, 3)
    pixels = aligned(shape) if space is None else space.reshape(shape)
    sizes = np.ones((count, 2), np.int64)
    for row, image in enumerate(images):
        pixels[row, : image.shape[0], : image.shape[1]] = image
        sizes[row] = image.shape[:2]
    pixels[len(images) :, 0, 0] = 0
    return pixels, sizes


def _pixels_of(images: Sequence[np.ndarray], batch: int) -> int:
    """How many pixels a batch of images lies in."""
    return batch * max(image.shape[0] for image in images) * max(image.shape[1] for image in images)


def fastest(artifacts: Sequence[Artifact]) -> str:
    """The engine that runs an artifact fastest on this machine: the same artifact under each is measured on its first
    variant, by turns, of which the least counts. It is remembered in the user's cache folder, for this artifact,
    machine, number of threads and version of each engine."""
    first = artifacts[0]
    key = {
        "files": first.manifest["files"],
        "engines": {each.engine: each.described for each in artifacts},
        "machine": [processor(), cores(), os.environ.get("OMP_NUM_THREADS")],
    }

    def measure() -> dict[str, float]:
        runs = [(each.engine, each._engine(each.entries[0]), _anything(each.entries[0])) for each in artifacts]
        seconds = {name: float("inf") for name, _, _ in runs}
        for turn in range(_WARM + _MEASURED):
            for name, engine, inputs in runs:
                start = time.perf_counter()
                engine(**inputs)
                if turn >= _WARM:
                    seconds[name] = min(seconds[name], time.perf_counter() - start)
        return seconds

    seconds = remembered("engines", key, measure)
    return min((each.engine for each in artifacts), key=lambda name: seconds.get(name, float("inf")))


def _anything(entry: Entry) -> dict[str, np.ndarray]:
    """Inputs of an entry: noise of its own size, no proposals."""
    rng = np.random.default_rng(0)
    if entry.inputs[0]["name"] == "pixels":
        images = [rng.integers(0, 256, (entry.height, entry.width, 3), np.uint8) for _ in range(entry.batch)]
        pixels, sizes = packed(images)
        return {"pixels": pixels, "sizes": sizes}
    return {each["name"]: np.zeros(each["shape"], each["dtype"]) for each in entry.inputs}


def _fits(entry: Entry, inputs: Mapping[str, np.ndarray]) -> bool:
    """Whether an entry takes these arrays, or as many more rows of them."""
    if inputs.keys() != {described["name"] for described in entry.inputs}:
        return False
    for described in entry.inputs:
        array = inputs[described["name"]]
        n, *rest = described["shape"]
        same = len(rest) == array.ndim - 1 and all(
            side == wanted or (isinstance(wanted, str) and side > 0)
            for side, wanted in zip(array.shape[1:], rest, strict=True)
        )
        if not same or array.dtype != described["dtype"] or not 1 <= len(array) <= n:
            return False
    if "sizes" in inputs:
        within = inputs["sizes"] <= np.asarray(inputs["pixels"].shape[1:3])
        return bool((within & (inputs["sizes"] >= 1)).all())
    return True


def _listed(described: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(f"{each['name']} {each['dtype']} {_sides(each['shape'])}" for each in described)


def _sides(shape: Iterable[int | str]) -> str:
    return "x".join(map(str, shape)) or "of no axes"


def installed(engine: str) -> bool:
    """Whether the package of an engine's name is there."""
    return importlib.util.find_spec(engine) is not None


def write(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Writes an artifact whole or not at all. The manifest gets its `format` and the members' sizes and hashes here.

    Raises:
        DiagnosticError: cannot-write.
    """
    files = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()}
    text = json.dumps({"format": FORMAT, **manifest, "files": files}, indent=1)

    def fill(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_entry(_MANIFEST), text)
            for name, data in members.items():
                archive.writestr(_entry(name), data)

    write_whole(path, fill)


def _entry(name: str) -> zipfile.ZipInfo:
    """An archive member with a date of its own: equal contents make equal files."""
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest, and every member it names, checked. Nothing is unpacked to a path that the archive chooses.

    Raises:
        DiagnosticError: not-an-artifact, artifact-damaged or artifact-version.
    """

    def wrong(kind: Kind, why: str) -> DiagnosticError:
        return DiagnosticError(kind.at(None, f"{path}: {why}"))

    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if _MANIFEST not in entries:
                raise wrong(NOT_AN_ARTIFACT, "there is no manifest in it")
            manifest = json.loads(archive.read(_MANIFEST))
            if not isinstance(manifest, dict) or "format" not in manifest:
                raise wrong(NOT_AN_ARTIFACT, "its manifest is not one of detc's")
            if manifest["format"] != FORMAT:
                whose = "another major version of detc" if isinstance(manifest["format"], int) else "something else"
                why = f"made by {whose}: it has format {manifest['format']}, and this detc reads {FORMAT}"
                raise wrong(ARTIFACT_VERSION, why)
            members = {}
            for name, described in manifest["files"].items():
                entry = entries.get(name)
                if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != described["size"]:
                    raise wrong(ARTIFACT_DAMAGED, f"{name} is missing, or not as large as it should be")
                members[name] = archive.read(name)
                if hashlib.sha256(members[name]).hexdigest() != described["sha256"]:
                    raise wrong(ARTIFACT_DAMAGED, f"the content of {name} has changed")
    except zipfile.BadZipFile as error:
        if path.read_bytes()[:4] == b"PK\x03\x04":
            raise wrong(ARTIFACT_DAMAGED, f"it is cut short or altered ({error})") from None
        raise wrong(NOT_AN_ARTIFACT, "it is no archive") from None
    except OSError as error:
        raise wrong(NOT_AN_ARTIFACT, error.strerror or str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, EOFError, RecursionError, RuntimeError) as error:
        raise wrong(ARTIFACT_DAMAGED, f"its manifest cannot be read ({error!r})") from None
    return manifest, members


def _require_machine(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raises DiagnosticError where the machine code was made for another machine or another TVM."""
    here = version("apache-tvm")
    if manifest["versions"]["tvm"] != here:
        summary = f"{path}: it was compiled with TVM {manifest['versions']['tvm']}, and {here} is installed"
        raise DiagnosticError(ARTIFACT_VERSION.at(None, summary))
    missing = missing_features(manifest["features"]) if manifest["target"] == "llvm" else []
    if manifest["machine"] != platform.machine() or missing:
        what = f"{manifest['machine']} with {', '.join(missing)}" if missing else manifest["machine"]
        summary = f"{path}: it is compiled for {manifest['arch']} ({what}), which this processor is not"
        raise DiagnosticError(ARTIFACT_ELSEWHERE.at(None, summary))


def missing_features(features: Iterable[str]) -> list[str]:
    """Those of these instruction sets, named as LLVM names them, that this processor lacks."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return []
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    present = {flag.replace("_", "") for flag in line.partition(":")[2].split()}
    return sorted(feature for feature in features if feature.replace("-", "") not in present)
