"""The main job from text to boxes, as `make demo` runs it: every step is a command that is printed first.

    python examples/demo/run.py [FOLDER]

FOLDER, demo-output if not given, gets all that is made.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.path.relpath(Path(__file__).parent))
SPEC = HERE / "shapes.det"
SPECS = Path(os.path.relpath(Path(__file__).parents[2] / "specs"))


def run(*words: str | Path) -> None:
    """Prints a command and runs it; a failure ends the demo."""
    print(f"\n$ {shlex.join(map(str, words))}", flush=True)
    program, *arguments = words
    found = shutil.which(str(program), path=str(Path(sys.executable).parent)) or str(program)
    done = subprocess.run([found, *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main(folder: Path) -> None:
    started = time.monotonic()
    pictures, training, artifact = folder / "shapes", folder / "run", folder / "shapes-llvm.detc"
    weights = training / "best.safetensors"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    run("detc", "check", SPECS)
    run("detc", "compile", SPECS / "fpg.det", "--emit", "fx", "--output", folder / "fpg.py")
    run("detc", "graph", SPECS / "fpg.det", "--output", folder / "fpg.svg")
    run("detc", "graph", SPECS / "fpg.det", "--output", folder / "fpg.html")
    run("detc", "summary", SPECS / "fpg.det")

    run("python", HERE / "shapes.py", pictures)
    run("detc", "train", SPEC, "--data", pictures, "--output", training)
    run("detc", "eval", SPEC, "--data", pictures, "--weights", weights, "--output", folder / "eval")

    run("detc", "export", SPEC, "--weights", weights, "--target", "onnx", "--output", folder / "shapes.onnx")
    run("detc", "export", SPEC, "--weights", weights, "--target", "llvm", "--output", artifact)
    some = sorted((pictures / "test").glob("*.jpg"))[:12]
    run("detc", "predict", artifact, *some, "--score", "0.4", "--output", folder / "predictions")

    metrics = json.loads((folder / "eval" / "metrics.json").read_text())["metrics"]
    print(f"\nDone in {time.monotonic() - started:.0f} s: AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}", end=" ")
    print("on 160 pictures that no step of training saw. To look at:")
    for path, what in (
        (folder / "fpg.svg", "the Feature Pyramid Grid of specs/fpg.det"),
        (folder / "fpg.html", "the same detector, to open and look around in"),
        (training / "curves.png", "losses and AP during training"),
        (folder / "predictions", "boxes that the compiled artifact found"),
    ):
        print(f"  {path}  {what}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output"))
