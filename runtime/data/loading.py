"""Batches of training images for torch, the same whatever the number of workers."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.augment import Augmentation
from detc.runtime.data.batch import Batch, packed_pixels
from detc.runtime.data.dataset import AnnotatedImage, Dataset
from detc.runtime.data.images import Unreadable, read_image
from detc.runtime.data.layers import draw_masks
from detc.runtime.data.masks import MaskWindow, pack_masks
from detc.runtime.data.proposals import Proposals, pack_proposals
from detc.runtime.data.samples import Sample
from detc.runtime.data.settings import Data

# A sample of an epoch: the epoch, the sample's place in it, and the image. Seeds come from the first two.
Draw = tuple[int, int, int]


@dataclass(frozen=True)
class TrainingImage:
    """An augmented image, with the pixels of its objects' masks and its proposals where there are any, and its name."""

    sample: Sample
    masks: tuple[MaskWindow, ...] | None
    proposals: Proposals | None
    file: str


class TrainingImages(TorchDataset[TrainingImage | Unreadable]):
    """Augmented training images, taken by `Draw`: the draw and the run's seed decide everything random.

    `epochs` is how many the run has: the last ones may be augmented otherwise.
    """

    def __init__(self, images: Sequence[AnnotatedImage], settings: Data, seed: int, epochs: int) -> None:
        self.images = images
        self.seed = seed
        self.change = epochs - settings.last_epochs if settings.last_epochs else math.inf
        self.augment = Augmentation(settings.augment, self._read, len(images))
        self.last_augment = Augmentation(settings.last_augment, self._read, len(images))

    def __getitem__(self, draw: Draw) -> TrainingImage | Unreadable:
        epoch, place, index = draw
        image = self.images[index]
        rng = np.random.default_rng([self.seed, 1, epoch, place])
        try:
            sample = (self.last_augment if epoch >= self.change else self.augment)(index, rng)
        except DiagnosticError as error:
            return Unreadable(tuple(error))
        masks = sample.masks and draw_masks(sample.masks, sample.layers, sample.size)
        proposals = image.proposals and image.proposals.placed(sample.layers[0])
        return TrainingImage(sample, masks, proposals, image.path.name)

    def _read(self, number: int) -> Sample:
        image = self.images[number]
        return Sample.annotated(read_image(image.path, image.size), *image.trained())


def repetitions(images: Sequence[AnnotatedImage], threshold: float | None) -> np.ndarray:
    """How often a pass over the images takes each of them, from the classes that it shows, (I,) int64.

    With f the share of the images that show a class, an image is taken sqrt(threshold / f) times, rounded up, f being
    that of its rarest class, and never less than once. Gupta et al., CVPR 2019, section 4.1.
    """
    taken = np.ones(len(images), np.int64)
    if threshold is None:
        return taken
    shown = [np.unique(image.trained()[1]) for image in images]
    shares = np.bincount(np.concatenate(shown)) / len(images)
    for index, labels in enumerate(shown):
        if len(labels):
            taken[index] = max(1, math.ceil(math.sqrt(threshold / shares[labels].min())))
    return taken


class EpochBatches(Sampler[list[Draw]]):
    """The batches of each epoch: every image as often as `repetitions` says (once, if it is None), `repeat` times over.

    With `length`, an epoch is that many images, in passes one after the other.
    Images that lie and images that stand are put into batches of their own as far as they go, which saves padding. All
    batches have the full size but the last.

    With `processes` > 1, these are the batches of process `rank` of so many: parts of common ones of `batch` images for
    each, the same as one process with that many would have. The parts of the last differ by one image at most; one that
    has less than an image for each process is filled up with the epoch's first.
    """

    def __init__(
        self,
        wide: Sequence[bool],
        batch: int,
        seed: int,
        length: int | None = None,
        repetitions: np.ndarray | None = None,
        repeat: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.wide = np.asarray(wide, bool)
        self.rank, self.processes = rank, processes
        self.batch = batch * processes
        self.seed = seed
        self.epoch = 0
        self.skip = 0
        self.taken = np.repeat(np.arange(len(self.wide)), 1 if repetitions is None else repetitions)
        self.length = length or repeat * len(self.taken)

    def start_at(self, epoch: int, batches: int) -> None:
        """Begins with an epoch (from 0), after so many of its batches: resuming."""
        self.epoch, self.skip = epoch, batches

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is iterated next; nothing of it is skipped if it is not the one that was set."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __len__(self) -> int:
        return math.ceil(self.length / self.batch)

    def __iter__(self) -> Iterator[list[Draw]]:
        for common in self._batches()[self.skip :]:
            ends = [len(common) * number // self.processes for number in range(self.processes + 1)]
            yield common[ends[self.rank] : ends[self.rank + 1]]

    def _batches(self) -> list[list[Draw]]:
        rng = np.random.default_rng([self.seed, 0, self.epoch])
        passes = -(-self.length // len(self.taken))
        order = np.concatenate([rng.permutation(self.taken) for _ in range(passes)])[: self.length]
        draws = [(self.epoch, place, int(index)) for place, index in enumerate(order)]
        groups = [[d for d in draws if self.wide[d[2]]], [d for d in draws if not self.wide[d[2]]]]
        full = [g[i : i + self.batch] for g in groups for i in range(0, len(g) - self.batch + 1, self.batch)]
        rest = [draw for g in groups for draw in g[len(g) // self.batch * self.batch :]]
        full.extend(rest[i : i + self.batch] for i in range(0, len(rest), self.batch))
        last = full.pop() if len(full[-1]) < self.batch else None
        if last is not None:
            last += itertools.islice(itertools.cycle(draws), max(0, self.processes - len(last)))
        mixed = [full[i] for i in rng.permutation(len(full))]
        return mixed if last is None else [*mixed, last]


def trained_images(dataset: Dataset, settings: Data) -> list[AnnotatedImage]:
    """The images of a dataset that are trained on: those with an object, or all."""
    return [image for image in dataset.images if settings.keep_empty or len(image.trained()[0])]


def epoch_batches(
    images: Sequence[AnnotatedImage],
    settings: Data,
    seed: int,
    length: int | None,
    rank: int = 0,
    processes: int = 1,
) -> EpochBatches:
    """The batches of the epochs of a run on these images; `length` is that of the schedule, in images."""
    return EpochBatches(
        [image.size[0] >= image.size[1] for image in images],
        settings.batch,
        seed,
        length,
        repetitions(images, settings.oversample),
        settings.repeat,
        rank,
        processes,
    )


@dataclass(frozen=True)
class Collate:
    """Puts samples into a batch, padded to the canvas, the batch's largest, and a multiple of `multiple` pixels."""

    settings: Data
    multiple: int

    def __call__(self, items: Sequence[TrainingImage | Unreadable]) -> Batch | Unreadable:
        problems = [diagnostic for item in items if isinstance(item, Unreadable) for diagnostic in item.diagnostics]
        if problems:
            return Unreadable(tuple(problems))
        images = [item for item in items if not isinstance(item, Unreadable)]
        samples = [image.sample for image in images]
        pixels = [sample.image for sample in samples]
        most = max(1, *(len(sample.boxes) for sample in samples))
        boxes = np.zeros((len(samples), most, 4), np.float32)
        labels = np.full((len(samples), most), -1, np.int64)
        for row, sample in enumerate(samples):
            boxes[row, : len(sample.boxes)] = sample.boxes
            labels[row, : len(sample.boxes)] = sample.labels
        truth = {"truth_boxes": boxes, "truth_labels": labels}
        masks = [image.masks for image in images if image.masks is not None]
        if masks:
            truth["truth_masks"], truth["truth_windows"] = pack_masks(masks, most)
        proposals = [image.proposals for image in images if image.proposals is not None]
        if proposals:
            truth["proposals"], truth["proposal_scores"] = pack_proposals(proposals)
        normalize = self.settings.normalize
        return Batch(
            packed_pixels(pixels, normalize, self.multiple, self.settings.canvas or (1, 1)),
            tuple(sample.size for sample in samples),
            normalize,
            {name: torch.from_numpy(array) for name, array in truth.items()},
            tuple(image.file for image in images),
        )


def training_loader(
    images: Sequence[AnnotatedImage], settings: Data, batches: EpochBatches, multiple: int, workers: int, epochs: int
) -> DataLoader[Batch | Unreadable]:
    """The loader of training batches of a run of so many epochs. The images must be those `batches` was made for."""
    return DataLoader(
        TrainingImages(images, settings, batches.seed, epochs),  # type: ignore[arg-type]  # it is collated to Batch
        batch_sampler=batches,
        collate_fn=Collate(settings, multiple),
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=quiet_worker,
        pin_memory=torch.cuda.is_available(),
    )


def quiet_worker(_: int) -> None:
    """Leaves Ctrl-C to the main process, and the cores to the training."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
