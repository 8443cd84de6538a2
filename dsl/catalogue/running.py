"""Diagnostics about training, evaluating and predicting. Codes E07xx."""

from __future__ import annotations

from detc.dsl.diagnostics import Example, Kind

NO_SETTINGS = Kind(
    "E0701",
    "no-settings",
    "the detector does not say what it is trained on, or how",
    """
The detector does not say what it is trained on, or how.
""",
    wrong=Example(
        "det",
        """
detector mine : SingleStage {
    backbone = ResNet(18)
    neck     = FPN()
    head     = RetinaHead()
    classes  = ["square", "disc"]
}
""",
    ),
    right=Example(
        "det",
        """
detector mine : SingleStage {
    backbone = ResNet(18)
    neck     = FPN()
    head     = RetinaHead()
    data     = voc(["square", "disc"], root = "shapes")
    schedule = schedule_1x
}
""",
    ),
)

NO_SPLIT = Kind(
    "E0702",
    "no-split",
    "the part of the data that was asked for is not in the spec",
    """
The part of the data that was asked for is not in the spec. A part has sources in the spec's data: `data.test =
[Voc("test")]`.
""",
    wrong=Example(
        "shell", "detc eval mine.det --weights best.safetensors --split test", "where data.test is an empty list"
    ),
    right=Example("shell", "detc eval mine.det --weights best.safetensors --split val"),
)

PRETRAINED_MISSING = Kind(
    "E0703",
    "pretrained-missing",
    "the weights that training starts from were not given",
    """
The spec's published run starts from pretrained weights, and none were given. detc downloads nothing. Training from
scratch by mistake costs days and most of the accuracy, so it has to be said: with `--from-scratch`.
""",
    wrong=Example("shell", "detc train mine.det", 'where the spec says `pretrained = "resnet18.pth"`'),
    right=Example("shell", "detc train mine.det --pretrained resnet18.pth"),
)

NON_FINITE_LOSS = Kind(
    "E0704",
    "non-finite-loss",
    "a term of the loss became infinite or no number",
    """
A term of the loss became infinite or no number. Every weight would have followed, so the run stopped before the step.
The weights as they were are kept beside the run's others, and the images of the batch are named.

The usual causes: a learning rate too high for the batch, too short a warm-up, float16 where its range is too small.
Where single batches are the trouble, `schedule.clip = 35.0` limits the gradient.
""",
    wrong=Example("det", "detector mine = retinanet_r50_fpn_1x with { schedule.optimizer.lr = 10.0 }"),
    right=Example("det", "detector mine = retinanet_r50_fpn_1x with { schedule.optimizer.lr = 0.01 }"),
)

RUN_EXISTS = Kind(
    "E0705",
    "run-exists",
    "the folder already holds a run",
    """
The folder that a run was to be written to already holds one, or other files. detc overwrites no run. Continue it, or
name another folder.
""",
    wrong=Example("shell", "detc train mine.det --from-scratch --output runs/mine", "a second time"),
    right=Example("shell", "detc train mine.det --output runs/mine --resume"),
)

CANNOT_RESUME = Kind(
    "E0706",
    "cannot-resume",
    "there is no run to continue, or it was another",
    """
There is no run to resume, or the run was started from another spec or with other options, so that continuing it would
give a result which neither would have given alone. Only --epochs and --workers may differ.
""",
    wrong=Example("shell", "detc train mine.det --resume --batch 4", "a run that was started with 8"),
    right=Example("shell", "detc train mine.det --resume"),
)

CLASS_LISTS_DIFFER = Kind(
    "E0707",
    "class-lists-differ",
    "two class lists that must be the same are not",
    """
Two class lists that must be the same, in the same order, are not: those of the detector and of the data, or those of
the weights and of the spec. A figure or a picture with them would name the wrong classes.
""",
    wrong=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    classes = ["disc", "square"]
    data    = voc(["square", "disc"], root = "shapes")
}
""",
    ),
    right=Example(
        "det",
        """
detector mine = retinanet_r50_fpn_1x with {
    data = voc(["square", "disc"], root = "shapes")
}
""",
    ),
)

NO_IMAGES = Kind(
    "E0708",
    "no-images",
    "there is no image to predict on",
    """
What was given as images to predict on is neither an image, nor a folder with images, nor a pattern that matches any.
""",
    wrong=Example("shell", "detc predict mine.det photographs/*.gif --weights best.safetensors --output found"),
    right=Example("shell", "detc predict mine.det photographs --weights best.safetensors --output found"),
)

CANNOT_WRITE = Kind(
    "E0709",
    "cannot-write",
    "a result could not be written",
    """
A result could not be written: the disk is full, the folder is not writable, or a file stands where a folder should be.
Files are written under a temporary name and renamed, so nothing that was there before is lost.
""",
    wrong=Example("shell", "detc graph specs/fpg.det --output mine.det/fpg.svg", "mine.det is a file"),
    right=Example("shell", "detc graph specs/fpg.det --output drawings/fpg.svg"),
)

BAD_OPTION = Kind(
    "E0710",
    "bad-option",
    "an option has a value that cannot be used",
    """
An option of the command line has a value that cannot be used.
""",
    wrong=Example("shell", "detc train mine.det --epochs 0"),
    right=Example("shell", "detc train mine.det --epochs 12"),
)

BAD_PLUGIN = Kind(
    "E0790",
    "bad-plugin",
    "a file of kernels cannot be used",
    """A file named for its kernels (--kernels, or [tool.detc] in pyproject.toml) cannot be used: it is not there, fails
when it is run, or redefines a primitive of detc. The examples are for `op soft_relu(x: feature) -> (y: feature) {}`.
""",
    wrong=Example("python", "def relu(x):\n    return x.clamp(min=0)", "since a primitive relu exists already"),
    right=Example("python", "def soft_relu(x):\n    return (1 + x.exp()).log()"),
)

BAD_PICTURE = Kind(
    "E0720",
    "bad-picture",
    "a Python program gave something that is no picture",
    """
What a Python program gave as a picture is none that a detector can take: an array that is not (height, width, 3) of
uint8, a picture of more than eight bits a channel or of too many pixels, or another object. detc guesses no scale of
values and no order of axes.
""",
    wrong=Example("python", 'predictor([image.astype("float32") / 255])'),
    right=Example("python", "predictor([image])"),
)

VIEWS_NOT_MERGED = Kind(
    "E0721",
    "views-not-merged",
    "the views of test-time augmentation cannot be merged",
    """
Test-time augmentation was asked for, of a detector whose views cannot be merged.

What is found in the views of an image goes through one more non-maximum suppression, with the threshold of the one that
the detector's boxes come from. A predict view that ends in something else does not say what that is.
""",
    wrong=Example(
        "shell", "detc eval mine.det --weights best.safetensors --tta", "where the head returns boxes without nms"
    ),
    right=Example("shell", "detc eval mine.det --weights best.safetensors --no-tta"),
)

CLASSES_UNNAMED = Kind(
    "E0724",
    "classes-unnamed",
    "a file of weights does not name its classes",
    """
A file of weights does not name the classes it was trained on, so nothing says that they are those of the detector, in
the same order. There are as many. Figures and pictures are right if they are the same.

The weights that `detc train` writes name them, and so do MMDetection's checkpoints. A bare state dict does not.
""",
    wrong=Example("python", 'torch.save(model.state_dict(), "weights.pth")'),
    right=Example(
        "python",
        'torch.save({"state_dict": model.state_dict(), "meta": {"CLASSES": ["cat", "dog"]}}, "weights.pth")',
    ),
    severity="warning",
)

VIDEO_UNREADABLE = Kind(
    "E0722",
    "video-unreadable",
    "a video cannot be read to its end",
    """
A video cannot be read, or not to its end: it is missing, damaged, no MP4, QuickTime, AVI, Matroska or WebM file, in a
coding that OpenCV does not know, without a frame, or of frames that change their size. What was found in the frames
before the fault is kept.

An MP4 file whose end is missing cannot be opened at all, since its index is there.
""",
    wrong=Example(
        "shell",
        "detc predict mine.det broken.mkv --weights best.safetensors --output found",
        "a recording that broke off",
    ),
    right=Example(
        "shell",
        "ffmpeg -i broken.mkv -c copy mended.mkv\n"
        "detc predict mine.det mended.mkv --weights best.safetensors --output found",
    ),
)

VIDEO_ENDS_EARLY = Kind(
    "E0723",
    "video-ends-early",
    "a video has fewer frames than it says",
    """
A video has fewer frames than it says: it was cut off, or its sound is longer than its pictures. What was found in its
frames is kept.
""",
    wrong=Example("text", "a download that broke off."),
    right=Example("text", "the whole file."),
    severity="warning",
)

OUT_OF_MEMORY = Kind(
    "E0711",
    "out-of-memory",
    "a training step needs more memory than the device has",
    """
A training step needs more memory than the device has.

Memory grows with the images of a step and their size, and where many objects are annotated with their number.
`detc summary SPEC --view train --size HxW --batch N` says how much a step keeps; `--remat` keeps less of it.
""",
    wrong=Example("shell", "detc train mine.det --batch 64"),
    right=Example("shell", "detc train mine.det --batch 8"),
)

PROCESS_LOST = Kind(
    "E0712",
    "process-lost",
    "a process of a run on several devices has ended",
    """
One of the processes of a run on several devices has ended, and without it the others cannot go on. Where it could, it
said itself why. One that was killed (SIGKILL) has usually taken more memory than there is.

The run's folder has its last save: `--resume` with the same number of processes goes on from there.
""",
    wrong=Example("shell", "detc train mine.det --devices 8 --workers 32", "on a machine with 64 GiB"),
    right=Example("shell", "detc train mine.det --devices 8 --workers 4"),
)

RIVAL_FAILED = Kind(
    "E0730",
    "rival-failed",
    "an engine that was to be measured does not run the detector",
    """
An engine that was to be measured does not run the detector; what it said follows. The others were not measured either,
so that no comparison lacks one in silence.
""",
    wrong=Example("shell", "detc bench mine.det --vs tvm,openvino", "where the engine does not take the model"),
    right=Example("shell", "detc bench mine.det --vs tvm,onnxruntime"),
)
