"""Diagnostics about training, evaluating and predicting. Codes E07xx."""

from __future__ import annotations

from detc.dsl.diagnostics import Kind

NO_SETTINGS = Kind(
    "E0701",
    "no-settings",
    """
The detector does not say what it is trained on, or how.

Wrong:

    detector mine : SingleStage { backbone = ResNet(18)  neck = FPN()  head = RetinaHead() }

Right:

    detector mine : SingleStage {
        backbone = ResNet(18)  neck = FPN()  head = RetinaHead()
        data     = voc(["cat", "dog"], root = "pets")
        schedule = schedule_1x
    }
""",
)

NO_SPLIT = Kind(
    "E0702",
    "no-split",
    """
The part of the data that was asked for is not in the spec.

Wrong: `--split test` where `data.test` is empty.
Right: `--split val`, or `data.test = [Voc("test")]` in the spec.
""",
)

PRETRAINED_MISSING = Kind(
    "E0703",
    "pretrained-missing",
    """
The spec's published run starts from pretrained weights, and none were given. detc downloads nothing. Training from
scratch by mistake costs days and most of the accuracy, so it has to be said.

Wrong:

    detc train specs/retinanet.det:retinanet_r50_fpn_1x

Right:

    detc train specs/retinanet.det:retinanet_r50_fpn_1x --pretrained resnet50-0676ba61.pth

or, if meant:

    detc train specs/retinanet.det:retinanet_r50_fpn_1x --from-scratch
""",
)

NON_FINITE_LOSS = Kind(
    "E0704",
    "non-finite-loss",
    """
A term of the loss became infinite or no number. Every weight would have followed, so the run stopped before the step.
The weights as they were are kept beside the run's others, and the images of the batch are named.

The usual causes: a learning rate too high for the batch, too short a warm-up, float16 where its range is too small.

Wrong: `schedule.optimizer.lr = 1.0`
Right: `schedule.optimizer.lr = 0.01`, and `schedule.clip = 35.0` where single batches are the trouble.
""",
)

RUN_EXISTS = Kind(
    "E0705",
    "run-exists",
    """
The folder that a run was to be written to already holds one, or other files. detc overwrites no run.

Wrong, a second time:

    detc train mine.det --output runs/mine

Right:

    detc train mine.det --output runs/mine --resume

or another folder.
""",
)

CANNOT_RESUME = Kind(
    "E0706",
    "cannot-resume",
    """
There is no run to resume, or the run was started from another spec or with other options, so that continuing it would
give a result which neither would have given alone.

Wrong: `--resume --batch 4` on a run that was started with 8.
Right: `--resume` alone. Only --epochs and --workers may differ.
""",
)

CLASS_LISTS_DIFFER = Kind(
    "E0707",
    "class-lists-differ",
    """
Two class lists that must be the same, in the same order, are not: those of the detector and of the data, or those of
the weights and of the spec. A figure or a picture with them would name the wrong classes.

Wrong: weights trained on ["cat", "dog"], evaluated with ["dog", "cat"].
Right: the same list.
""",
)

NO_IMAGES = Kind(
    "E0708",
    "no-images",
    """
What was given as images to predict on is neither an image, nor a folder with images, nor a pattern that matches any.

Wrong: detc predict mine.det photographs/*.gif --weights mine.safetensors
Right: detc predict mine.det photographs --weights mine.safetensors
""",
)

CANNOT_WRITE = Kind(
    "E0709",
    "cannot-write",
    """
A result could not be written: the disk is full, the folder is not writable, or a file stands where a folder should be.
Files are written under a temporary name and renamed, so nothing that was there before is lost.

Wrong: --output /usr/results
Right: --output results
""",
)

BAD_OPTION = Kind(
    "E0710",
    "bad-option",
    """
An option of the command line has a value that cannot be used.

Wrong: detc train mine.det --epochs 0
Right: detc train mine.det --epochs 12
""",
)

BAD_PLUGIN = Kind(
    "E0790",
    "bad-plugin",
    """A file named for its kernels (--kernels, or [tool.detc] in pyproject.toml) cannot be used.

Wrong, since a primitive `relu` exists already:

    def relu(x): ...

Right, with `op soft_relu(x: feature) -> (y: feature) {}` in the spec:

    def soft_relu(x): ...
""",
)

BAD_PICTURE = Kind(
    "E0720",
    "bad-picture",
    """
What a Python program gave as a picture is none that a detector can take: an array that is not (height, width, 3) of
uint8, a picture of more than eight bits a channel or of too many pixels, or another object. detc guesses no scale of
values and no order of axes.

Wrong: predictor(image.astype("float32") / 255)
Right: predictor(image)
""",
)

VIEWS_NOT_MERGED = Kind(
    "E0721",
    "views-not-merged",
    """
Test-time augmentation was asked for, of a detector whose views cannot be merged.

What is found in the views of an image goes through one more non-maximum suppression, with the threshold of the one that
the detector's boxes come from. A predict view that ends in something else does not say what that is.

Wrong: `detc eval mine.det --tta`, where the head returns boxes that no `nms` chose.
Right: `detc eval mine.det --no-tta`, or a head whose predict view ends in `nms`.
""",
)

CLASSES_UNNAMED = Kind(
    "E0724",
    "classes-unnamed",
    """
A file of weights does not name the classes it was trained on, so nothing says that they are those of the detector, in
the same order. There are as many. Figures and pictures are right if they are the same.

The weights that `detc train` writes name them, and so do MMDetection's checkpoints. A bare state dict does not.

Wrong: `torch.save(model.state_dict(), "weights.pth")`
Right: `torch.save({"state_dict": model.state_dict(), "meta": {"CLASSES": ["cat", "dog"]}}, "weights.pth")`
""",
    severity="warning",
)

VIDEO_UNREADABLE = Kind(
    "E0722",
    "video-unreadable",
    """
A video cannot be read, or not to its end: it is missing, damaged, no MP4, QuickTime, AVI, Matroska or WebM file, in a
coding that OpenCV does not know, without a frame, or of frames that change their size. What was found in the frames
before the fault is kept.

An MP4 file whose end is missing cannot be opened at all, since its index is there.

Wrong: a recording that broke off.
Right: `ffmpeg -i broken.mkv -c copy mended.mkv`, or the whole file.
""",
)

VIDEO_ENDS_EARLY = Kind(
    "E0723",
    "video-ends-early",
    """
A video has fewer frames than it says: it was cut off, or its sound is longer than its pictures. What was found in its
frames is kept.

Wrong: a download that broke off.
Right: the whole file.
""",
    severity="warning",
)

OUT_OF_MEMORY = Kind(
    "E0711",
    "out-of-memory",
    """
A training step needs more memory than the device has.

Memory grows with the images of a step and their size, and where many objects are annotated with their number.
`detc summary SPEC --view train --size HxW --batch N` says how much a step keeps.

Wrong: detc train mine.det --batch 64
Right: detc train mine.det --batch 8
""",
)

PROCESS_LOST = Kind(
    "E0712",
    "process-lost",
    """
One of the processes of a run on several devices has ended, and without it the others cannot go on. Where it could, it
said itself why. One that was killed (SIGKILL) has usually taken more memory than there is.

The run's folder has its last save: `--resume` with the same number of processes goes on from there.

Wrong: detc train mine.det --devices 8 --workers 32, on a machine with 64 GiB
Right: detc train mine.det --devices 8 --workers 4
""",
)

RIVAL_FAILED = Kind(
    "E0730",
    "rival-failed",
    """
An engine that was to be measured does not run the detector; what it said follows. The others were not measured either,
so that no comparison lacks one in silence.

Wrong, where the engine does not take the model: detc bench mine.det --vs tvm,openvino
Right: detc bench mine.det --vs tvm,onnxruntime
""",
)
