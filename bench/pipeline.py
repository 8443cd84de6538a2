"""Images a second of the training pipeline, against the same work in Albumentations and by hand as frameworks do it.

    OMP_NUM_THREADS=1 python bench/pipeline.py [--images FOLDER] [--workers N]

The work: decode a JPEG file, scale it to 640 with its ratio kept, mirror it with probability 1/2, normalise, pad to
640 x 640, put eight into a batch as float32 (8, 3, 640, 640), boxes going along. Before anything is timed, all three
must give the same batch. Each round then times one after the other over the same images, all with torch's DataLoader
and one core a process; the median of the rounds counts. Albumentations comes with `pip install detc[albumentations]`.

Without --images, the images are drawn: discs and bars on gradients with a camera's noise, as JPEG of quality 90.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from detc.runtime.data.dataset import AnnotatedImage
from detc.runtime.data.loading import EpochBatches, training_loader
from detc.runtime.data.settings import Data, Voc
from detc.runtime.data.transforms import Normalize, RandomFlip, Resize

SIDE, BATCH = 640, 8
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of JPEG files, in place of drawn ones")
    parser.add_argument("--count", type=int, default=192, help="at most so many images")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        if options.images:
            sets = {str(options.images): sorted(options.images.rglob("*.jpg"))[: options.count]}
        else:
            sizes = ((640, 480), (1280, 960))
            sets = {
                f"drawn, {width} x {height}": drawn(Path(folder), width, height, options.count)
                for width, height in sizes
            }
        print(f"{options.workers} workers, {options.rounds} rounds")
        print("images a second, median (least to most), and how many times as many detc has")
        for name, paths in sets.items():
            compare(name, annotated(paths), options.rounds, options.workers)


def drawn(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """So many JPEG files of one size."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        ramps = np.linspace(0, 1, width)[None, :, None] * rng.uniform(0, 90, 3)
        image = ramps + np.linspace(0, 1, height)[:, None, None] * rng.uniform(0, 90, 3) + rng.uniform(0, 60)
        image = image.clip(0, 255).astype(np.uint8)
        for _ in range(12):
            centre = rng.integers((0, 0), (width, height)).tolist()
            colour = rng.integers(0, 255, 3).tolist()
            cv2.circle(image, centre, int(rng.integers(width // 40, width // 8)), colour, cv2.FILLED, cv2.LINE_AA)
            end = rng.integers((0, 0), (width, height)).tolist()
            cv2.line(image, centre, end, colour, int(rng.integers(2, 12)), cv2.LINE_AA)
        noisy = (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
        path = folder / f"{width}_{number}.jpg"
        cv2.imwrite(str(path), cv2.GaussianBlur(noisy, (3, 3), 0), [cv2.IMWRITE_JPEG_QUALITY, 90])
        paths.append(path)
    return paths


def annotated(paths: Sequence[Path]) -> list[AnnotatedImage]:
    """The images with ten boxes each."""
    rng = np.random.default_rng(0)
    images = []
    for number, path in enumerate(paths):
        with Image.open(path) as file:
            size = file.size
        corners = rng.uniform(0, 0.7, (10, 2)) * size
        boxes = np.concatenate([corners, corners + rng.uniform(0.05, 0.3, (10, 2)) * size], 1)
        labels, areas, ignored = np.arange(10), np.ones(10), np.zeros(10, bool)
        images.append(AnnotatedImage(number, path, size, boxes, labels, areas, ignored))
    return images


# ---- the three


def detc_loader(images: Sequence[AnnotatedImage], flip: float, workers: int) -> Any:
    source = (Voc("train"),)
    resize = Resize((SIDE, SIDE))
    settings = Data(
        10, "", source, source, source, (resize, RandomFlip(flip)), resize, Normalize(MEAN, STD), (SIDE, SIDE), 32,
        BATCH, False
    )  # fmt: skip
    return training_loader(images, settings, EpochBatches([True] * len(images), BATCH, 0), 32, workers, 1)


class ByHand(Dataset):
    """OpenCV and numpy, step by step as mmcv's functions do it."""

    def __init__(self, images: Sequence[AnnotatedImage], flip: float) -> None:
        self.images, self.flip = images, flip
        self.mean, self.scale = np.float64([MEAN]), 1 / np.float64([STD])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image, boxes = cv2.imread(str(self.images[index].path)), self.images[index].boxes.astype(np.float32)
        height, width = image.shape[:2]
        scale = min(SIDE / width, SIDE / height)
        size = int(width * scale + 0.5), int(height * scale + 0.5)
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        boxes = boxes * np.float32([size[0] / width, size[1] / height] * 2)
        boxes = boxes.clip(0, np.float32([*size, *size]))
        if np.random.random() < self.flip:
            image = cv2.flip(image, 1)
            boxes = np.stack([size[0] - boxes[:, 2], boxes[:, 1], size[0] - boxes[:, 0], boxes[:, 3]], 1)
        image = image.astype(np.float32)
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)
        cv2.subtract(image, self.mean, image)
        cv2.multiply(image, self.scale, image)
        image = cv2.copyMakeBorder(image, 0, SIDE - size[1], 0, SIDE - size[0], cv2.BORDER_CONSTANT, value=0)
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return planes, torch.from_numpy(boxes), torch.from_numpy(self.images[index].labels)

    def __len__(self) -> int:
        return len(self.images)


class Albumentations(Dataset):
    """The same as a composition of Albumentations' transforms."""

    def __init__(self, images: Sequence[AnnotatedImage], flip: float) -> None:
        self.images = images
        self.transform = albumentations.Compose(
            [
                albumentations.LongestMaxSize(SIDE, interpolation=cv2.INTER_LINEAR),
                albumentations.HorizontalFlip(p=flip),
                albumentations.Normalize([m / 255 for m in MEAN], [s / 255 for s in STD]),
                albumentations.PadIfNeeded(SIDE, SIDE, position="top_left", border_mode=cv2.BORDER_CONSTANT, fill=0),
                ToTensorV2(),
            ],
            bbox_params=albumentations.BboxParams("pascal_voc", label_fields=["labels"], clip=True),
        )

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image = cv2.cvtColor(cv2.imread(str(self.images[index].path)), cv2.COLOR_BGR2RGB)
        out = self.transform(image=image, bboxes=self.images[index].boxes, labels=self.images[index].labels)
        boxes = torch.from_numpy(np.float32(out["bboxes"]))
        return out["image"], boxes, torch.from_numpy(np.asarray(out["labels"]))

    def __len__(self) -> int:
        return len(self.images)


def stacked(items: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """A batch of a rival: one tensor of images, boxes and labels as lists."""
    images, boxes, labels = zip(*items, strict=True)
    return torch.stack(images), list(boxes), list(labels)


def rival_loader(kind: Callable[..., Dataset], images: Sequence[AnnotatedImage], flip: float, workers: int) -> Any:
    draws = EpochBatches([True] * len(images), BATCH, 0)
    batches = [[draw[2] for draw in batch] for batch in draws]
    return DataLoader(
        kind(images, flip),
        batch_sampler=batches,
        collate_fn=stacked,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=one_thread,
    )


def one_thread(_: int) -> None:
    cv2.setNumThreads(0)


def pixels_of(batch: Any) -> torch.Tensor:
    """The normalised images of a batch of any of the three."""
    found: torch.Tensor = batch[0] if isinstance(batch, tuple) else batch.inputs["image"]
    return found


# ---- the comparison


def compare(name: str, images: Sequence[AnnotatedImage], rounds: int, workers: int) -> None:
    makers = {
        "detc": detc_loader,
        "Albumentations": partial(rival_loader, Albumentations),
        "by hand": partial(rival_loader, ByHand),
    }
    first = {key: pixels_of(next(iter(make(images, 1.0, 0)))) for key, make in makers.items()}
    for key, pixels in first.items():
        difference = (pixels - first["detc"]).abs().max().item()
        assert difference < 1e-4, f"{key} gives other images: {difference}"
    loaders = {key: make(images, 0.5, workers) for key, make in makers.items()}
    rates: dict[str, list[float]] = {key: [] for key in makers}
    for _ in range(rounds + 1):  # the first warms up
        for key, loader in loaders.items():
            start, count = time.perf_counter(), 0
            for batch in loader:
                count += len(pixels_of(batch))
            rates[key].append(count / (time.perf_counter() - start))
    median = {key: statistics.median(values[1:]) for key, values in rates.items()}
    size = sum(image.path.stat().st_size for image in images) // len(images) // 1024
    print(f"\n{name} ({len(images)} images, {size} KiB each)")
    for key, values in rates.items():
        ratio = median["detc"] / median[key]
        print(f"  {key:15s} {median[key]:7.0f} ({min(values[1:]):.0f} to {max(values[1:]):.0f})  {ratio:.2f}")


if __name__ == "__main__":
    main()
