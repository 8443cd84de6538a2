"""E08xx: export, and the artifacts it writes."""

from detc.dsl.diagnostics import Kind

OP_WITHOUT_LOWERING = Kind(
    "E0801",
    "op-without-lowering",
    """The target cannot take one of the detector's operators, or not with these attributes.

The label is where the spec applies the operator. Choose another target, or another operator; a primitive of your own
needs a lowering for each target that it is to be exported to.""",
)

NO_WEIGHTS = Kind(
    "E0802",
    "export-without-weights",
    """An export holds the detector's weights, and none were given.

Give a checkpoint with --weights FILE. To try an export before there is anything to deploy, --random-weights takes the
initialisation that the spec declares.""",
)

EXPORT_DISAGREES = Kind(
    "E0803",
    "export-disagrees",
    """The exported detector and the torch.fx module gave different values for the same image, so nothing was written.

The report says which outputs differ and by how much. If the weights are random or hold NaN, that may be the reason;
otherwise it is a bug in detc, and worth reporting with the spec.""",
)

NO_NVCC = Kind(
    "E0804",
    "nvcc-missing",
    """`--target cuda` compiles kernels with nvcc, the CUDA compiler, which was not found.

It is looked for on PATH, then below $CUDA_HOME, then in /usr/local/cuda. It comes with the CUDA toolkit: the package
`cuda-nvcc-13-0` (apt, from NVIDIA's repository), `nvidia-cuda-toolkit` (Debian, Ubuntu) or `cuda-nvcc` (conda). A GPU
is not needed. Compiling on such a machine needs gcc too.""",
)

CUDA_BUILD_FAILED = Kind(
    "E0805",
    "cuda-build-failed",
    """The CUDA kernels could not be compiled into machine code for the architecture asked for.

The detail has the compiler's own words. An architecture that the installed nvcc does not know (`nvcc --list-gpu-code`
prints those it knows) is the usual reason.""",
)

NO_LINKER = Kind(
    "E0806",
    "linker-missing",
    """Kernels are linked into a shared library with the C compiler of the system, which was not found or failed.

Install the packages `gcc` and `g++` (and `binutils`, for CUDA on a machine without a GPU).""",
)

UNKNOWN_ARCH = Kind(
    "E0807",
    "unknown-arch",
    """`--arch` names a processor that the compiler does not know.

For llvm it is a name that LLVM has for a processor (`haswell`, `skylake-avx512`, `znver4`); without it, the processor
of this machine is taken. For cuda it is a compute capability: `sm_80`, `sm_90`.""",
)

NOT_AN_ARTIFACT = Kind(
    "E0810",
    "not-an-artifact",
    """The file is not something that `detc export` wrote: it is no archive, or has no manifest in it.""",
)

ARTIFACT_DAMAGED = Kind(
    "E0811",
    "artifact-damaged",
    """The artifact is cut short, or a member's content is not what the manifest says. Copy it again, or export it
    again.""",
)

ARTIFACT_VERSION = Kind(
    "E0812",
    "artifact-version",
    """The artifact was written in a format that this detc does not read. Export the spec in its manifest again.""",
)

ARTIFACT_ELSEWHERE = Kind(
    "E0813",
    "artifact-for-another-machine",
    """The artifact holds machine code that this machine cannot run: another processor, or a GPU that is not here.

Export again with the --target and --arch of the machine that is to run it.""",
)

WRONG_INPUT = Kind(
    "E0814",
    "wrong-artifact-input",
    """An artifact is compiled for one batch and one image size, float32, already normalised.

The manifest's `inputs` says which. Pad or resize the image as its `preprocessing` says.""",
)

BAD_SIZE = Kind(
    "E0817",
    "bad-export-size",
    """`--size` is the height and width of the images in pixels, as HxW: 800x1344. `--batch` is how many go in at
    once.""",
)
