"""E08xx: export, and the artifacts it writes."""

from __future__ import annotations

from detc.dsl.diagnostics import Example, Kind

OP_WITHOUT_LOWERING = Kind(
    "E0801",
    "op-without-lowering",
    "the target cannot take an operator",
    """The target cannot take one of the detector's operators, or not with these attributes.

The label is where the spec applies the operator. Choose another target, or another operator; a primitive of your own
needs a lowering for each target that it is to be exported to.""",
    wrong=Example(
        "shell",
        "detc --kernels my_kernels.py export mine.det --weights best.safetensors --target llvm",
        "where my_kernels.py has a kernel of your own",
    ),
    right=Example(
        "shell", "detc --kernels my_kernels.py predict mine.det photos/ --weights best.safetensors --output found"
    ),
)

NO_WEIGHTS = Kind(
    "E0802",
    "export-without-weights",
    "an export was asked for without weights",
    """An export holds the detector's weights, and none were given.

Give a checkpoint with --weights FILE. To try an export before there is anything to deploy, --random-weights takes the
initialisation that the spec declares.""",
    wrong=Example("shell", "detc export specs/fpg.det --target onnx"),
    right=Example("shell", "detc export specs/fpg.det --target onnx --weights fpg.pth"),
)

EXPORT_DISAGREES = Kind(
    "E0803",
    "export-disagrees",
    "the exported detector gives other values than the torch one",
    """The exported detector and the torch.fx module gave different values for the same image. An export that does so is
not written; `detc verify ARTIFACT` says it of one that was.

The report says by how much the networks' results differ and how many detections have a partner. The place in the spec
is where the first value that differs, in the graph's order, is computed: each part of the detector is given the right
values of those before it. If the weights hold NaN, that is the reason; otherwise it is a bug in detc, and worth
reporting with the spec. `detc export --without PASS` leaves out an optimisation that may be at fault.""",
    wrong=Example("text", "weights of a run that diverged, with values that are no numbers."),
    right=Example("text", "the weights `best.safetensors` of a run that ended well."),
)

NO_NVCC = Kind(
    "E0804",
    "nvcc-missing",
    "the CUDA compiler was not found",
    """`--target cuda` compiles kernels with nvcc, the CUDA compiler, which was not found.

It is looked for on PATH, then below $CUDA_HOME, then in /usr/local/cuda. It comes with the CUDA toolkit: the package
`cuda-nvcc-13-0` (apt, from NVIDIA's repository), `nvidia-cuda-toolkit` (Debian, Ubuntu) or `cuda-nvcc` (conda). A GPU
is not needed. Compiling on such a machine needs gcc too. `detc doctor` says what is found.""",
    wrong=Example(
        "shell", "detc export mine.det --weights best.safetensors --target cuda", "on a machine without the toolkit"
    ),
    right=Example(
        "shell",
        "apt-get install nvidia-cuda-toolkit gcc\n"
        "detc export mine.det --weights best.safetensors --target cuda --arch sm_90",
    ),
)

CUDA_BUILD_FAILED = Kind(
    "E0805",
    "cuda-build-failed",
    "the CUDA kernels could not be compiled",
    """The CUDA kernels could not be compiled into machine code for the architecture asked for.

The detail has the compiler's own words. An architecture that the installed nvcc does not know (`nvcc --list-gpu-code`
prints those it knows) is the usual reason.""",
    wrong=Example(
        "shell",
        "detc export mine.det --weights best.safetensors --target cuda --arch sm_120",
        "with the nvcc of CUDA 12.0",
    ),
    right=Example("shell", "detc export mine.det --weights best.safetensors --target cuda --arch sm_90"),
)

NO_LINKER = Kind(
    "E0806",
    "linker-missing",
    "the system's C compiler was not found or failed",
    """Kernels are linked into a shared library with the C compiler of the system, which was not found or failed.

Install the packages `gcc` and `g++` (and `binutils`, for CUDA on a machine without a GPU).""",
    wrong=Example(
        "shell", "detc export mine.det --weights best.safetensors --target llvm", "in a container without gcc"
    ),
    right=Example("shell", "apt-get install gcc g++\ndetc export mine.det --weights best.safetensors --target llvm"),
)

UNKNOWN_ARCH = Kind(
    "E0807",
    "unknown-arch",
    "the compiler does not know this processor",
    """`--arch` names a processor that the compiler does not know.

For llvm it is a name that LLVM has for a processor (`haswell`, `skylake-avx512`, `znver4`); without it, the processor
of this machine is taken. For cuda it is a compute capability: `sm_80`, `sm_90`.""",
    wrong=Example("shell", "detc export mine.det --weights best.safetensors --target llvm --arch i9"),
    right=Example("shell", "detc export mine.det --weights best.safetensors --target llvm --arch haswell"),
)

NOT_AN_ARTIFACT = Kind(
    "E0810",
    "not-an-artifact",
    "a file is not what an export writes",
    """The file is not something that `detc export` wrote: it is no archive, or has no manifest in it.""",
    wrong=Example(
        "shell", "detc predict photo.detc photos/ --output found", "which is a photograph under a wrong name"
    ),
    right=Example("shell", "detc predict mine-llvm.detc photos/ --output found"),
)

ARTIFACT_DAMAGED = Kind(
    "E0811",
    "artifact-damaged",
    "an artifact is cut short or changed",
    """The artifact is cut short, or a member's content is not what the manifest says. Copy it again, or export it
again.""",
    wrong=Example("text", "a file whose upload broke off, or that was edited."),
    right=Example("text", "the file as `detc export` wrote it."),
)

ARTIFACT_VERSION = Kind(
    "E0812",
    "artifact-version",
    "an artifact is in a format that this detc does not read",
    """The artifact was written in a format that this detc does not read. Export the spec in its manifest again.""",
    wrong=Example("text", "an artifact of a later detc."),
    right=Example("text", "one that was exported again with this detc."),
)

ARTIFACT_ELSEWHERE = Kind(
    "E0813",
    "artifact-for-another-machine",
    "an artifact is for another machine",
    """The artifact holds machine code that this machine cannot run: another processor, or a GPU that is not here.

Export again with the --target and --arch of the machine that is to run it.""",
    wrong=Example(
        "shell", "detc export mine.det --weights best.safetensors --target llvm", "for a machine that is older"
    ),
    right=Example("shell", "detc export mine.det --weights best.safetensors --target llvm --arch haswell"),
)

WRONG_INPUT = Kind(
    "E0814",
    "wrong-artifact-input",
    "an artifact is given another input than it was compiled for",
    """`Artifact.run` takes arrays as the manifest's `inputs` describe them: pixels as bytes with the size of each
image, or, of a detector that was exported without `data`, images of one size, float32, already normalised.

Calling the artifact itself takes pictures of any size, one or many.""",
    wrong=Example(
        "python", 'artifact = detc.Artifact.load("mine-llvm.detc")\nartifact.run(image=photo)', "with the photo"
    ),
    right=Example("python", 'artifact = detc.Artifact.load("mine-llvm.detc")\nartifact(photo)'),
)

NO_ENGINE = Kind(
    "E0815",
    "no-engine",
    "an artifact cannot be run by the engine asked for",
    """The engine that was asked for does not run this kind of artifact, or is not installed.

ONNX Runtime and OpenVINO run artifacts of the target onnx, TVM's runtime those of llvm and cuda.""",
    wrong=Example("shell", "detc predict mine-llvm.detc photos/ --engine caffe --output found"),
    right=Example("shell", "detc predict mine-llvm.detc photos/ --output found"),
)

OTHER_SPEC = Kind(
    "E0820",
    "artifact-of-another-spec",
    "an artifact is compared with a spec that it was not made of",
    """`detc verify ARTIFACT` compares an artifact with the detector of a spec, value by value. That it can do
only where the spec and the detc are those that it was made with: its graph has to be the same.

Without --spec, the spec's text that the artifact carries is taken; what that imports from files of its own, it does not
carry. Give --spec SPEC:NAME as it was exported, or export it again.""",
    wrong=Example(
        "shell", "detc verify mine-llvm.detc --spec mine.det --weights best.safetensors", "where mine.det has changed"
    ),
    right=Example(
        "shell",
        "detc export mine.det --weights best.safetensors --target llvm --output mine-llvm.detc\n"
        "detc verify mine-llvm.detc --spec mine.det --weights best.safetensors",
    ),
)

BAD_SIZE = Kind(
    "E0817",
    "bad-export-size",
    "nothing says for which size of images to export",
    """An export is compiled for one size of images. It is the largest that the spec's data resizes to; a detector
without `data` has none, so it has to be given: `--size HxW`, height and width in pixels.""",
    wrong=Example("shell", "detc export bare.det --random-weights --target onnx", "where the detector has no data"),
    right=Example("shell", "detc export bare.det --random-weights --target onnx --size 640x640"),
)

NO_GPU = Kind(
    "E0818",
    "gpu-missing",
    "something is to be measured on a GPU, and there is none",
    """`detc tune` measures kernels on an NVIDIA GPU, and torch finds none on this machine.

Exporting needs no GPU: where nothing was measured, the tiles of kernels are chosen by a rule. To measure, run the
command on a machine with the GPU that the detector is meant for, with a torch that has CUDA.""",
    wrong=Example("shell", "detc tune mine.det", "on a machine without a GPU"),
    right=Example("shell", "detc export mine.det --weights best.safetensors --target cuda", "which needs none"),
)

BAD_TABLE = Kind(
    "E0819",
    "bad-tuning-table",
    "a table of measured tiles cannot be read",
    """The file that `detc tune` is to add to is not one that it has written.

It is JSON: for each architecture the layers, and for each layer the tile that was fastest. Give `--table` another file,
or remove this one; what it held is measured again.""",
    wrong=Example("shell", "detc tune mine.det --table mine.det"),
    right=Example("shell", "detc tune mine.det --table tuned.json"),
)
