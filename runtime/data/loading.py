"""Batches of training images for torch, the same whatever the number of workers."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.dataset import AnnotatedImage
from detc.runtime.data.images import Unreadable, read_image
from detc.runtime.data.preprocess import pad_batch
from detc.runtime.data.settings import Data
from detc.runtime.data.transforms import Sample

# A sample of an epoch: the epoch, the sample's place in it, and the image. Seeds come from the first two.
Draw = tuple[int, int, int]


@dataclass(frozen=True)
class Batch:
    """`image` (N, 3, H, W) float32 normalised; `truth_boxes` (N, G, 4) float32 in pixels; `truth_labels` (N, G) int64,
    -1 in rows without an object; `files` the names of the images."""

    image: torch.Tensor
    truth_boxes: torch.Tensor
    truth_labels: torch.Tensor
    files: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        boxes, labels = self.truth_boxes.to(device), self.truth_labels.to(device)
        return Batch(self.image.to(device, non_blocking=True), boxes, labels, self.files)

    def pin_memory(self) -> Batch:
        return Batch(self.image.pin_memory(), self.truth_boxes, self.truth_labels, self.files)


class TrainingImages(TorchDataset[tuple[Sample, str] | Unreadable]):
    """Augmented training images, taken by `Draw`: the draw and the run's seed decide everything random."""

    def __init__(self, images: Sequence[AnnotatedImage], settings: Data, seed: int) -> None:
        self.images = images
        self.settings = settings
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Sample, str] | Unreadable:
        epoch, place, index = draw
        image = self.images[index]
        rng = np.random.default_rng([self.seed, 1, epoch, place])
        try:
            sample = Sample(read_image(image.path, image.size), *image.trained())
        except DiagnosticError as error:
            return Unreadable(tuple(error))
        for transform in self.settings.augment:
            sample = transform(sample, rng)
        return sample, image.path.name


class EpochBatches(Sampler[list[Draw]]):
    """The batches of each epoch: every image once, or `length` images in passes one after the other.

    Images that lie and images that stand are put into batches of their own as far as they go, which saves padding. All
    batches have the full size but the last. `skip` batches of the first epoch that is iterated are left out: resuming.
    """

    def __init__(
        self, wide: Sequence[bool], batch: int, seed: int, length: int | None = None, epoch: int = 0, skip: int = 0
    ) -> None:
        self.wide = np.asarray(wide, bool)
        self.batch = batch
        self.seed = seed
        self.length = length or len(self.wide)
        self.epoch = epoch
        self.skip = skip

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is iterated next; nothing of it is skipped if it is not the one that was set."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __len__(self) -> int:
        return math.ceil(self.length / self.batch)

    def __iter__(self) -> Iterator[list[Draw]]:
        yield from self._batches()[self.skip :]

    def _batches(self) -> list[list[Draw]]:
        rng = np.random.default_rng([self.seed, 0, self.epoch])
        passes = -(-self.length // len(self.wide))
        order = np.concatenate([rng.permutation(len(self.wide)) for _ in range(passes)])[: self.length]
        draws = [(self.epoch, place, int(index)) for place, index in enumerate(order)]
        groups = [[d for d in draws if self.wide[d[2]]], [d for d in draws if not self.wide[d[2]]]]
        full = [g[i : i + self.batch] for g in groups for i in range(0, len(g) - self.batch + 1, self.batch)]
        rest = [draw for g in groups for draw in g[len(g) // self.batch * self.batch :]]
        full.extend(rest[i : i + self.batch] for i in range(0, len(rest), self.batch))
        last = full.pop() if len(full[-1]) < self.batch else None
        mixed = [full[i] for i in rng.permutation(len(full))]
        return mixed if last is None else [*mixed, last]


@dataclass(frozen=True)
class Collate:
    """Puts samples into a batch, padded to the canvas, the batch's largest, and a multiple of `multiple` pixels."""

    settings: Data
    multiple: int

    def __call__(self, items: Sequence[tuple[Sample, str] | Unreadable]) -> Batch | Unreadable:
        problems = [diagnostic for item in items if isinstance(item, Unreadable) for diagnostic in item.diagnostics]
        if problems:
            return Unreadable(tuple(problems))
        samples = [item for item in items if not isinstance(item, Unreadable)]
        images = [sample.image for sample, _ in samples]
        batch = pad_batch(images, self.settings.normalize, self.multiple, self.settings.canvas or (1, 1))
        most = max(1, *(len(sample.boxes) for sample, _ in samples))
        boxes = torch.zeros(len(samples), most, 4)
        labels = torch.full((len(samples), most), -1, dtype=torch.int64)
        for row, (sample, _) in enumerate(samples):
            boxes[row, : len(sample.boxes)] = torch.from_numpy(sample.boxes)
            labels[row, : len(sample.boxes)] = torch.from_numpy(sample.labels)
        return Batch(torch.from_numpy(batch), boxes, labels, tuple(name for _, name in samples))


def training_loader(
    images: Sequence[AnnotatedImage], settings: Data, batches: EpochBatches, multiple: int, workers: int
) -> DataLoader[Batch | Unreadable]:
    """The loader of training batches. The images must be those that `batches` was made for."""
    return DataLoader(
        TrainingImages(images, settings, batches.seed),  # type: ignore[arg-type]  # it is collated to Batch
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
