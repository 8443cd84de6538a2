"""Batches: the same numbers however they came here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import voc_data, voc_folder

from detc.compiler.values import Record
from detc.runtime.data.batch import Batch, packed_pixels
from detc.runtime.data.loading import EpochBatches, training_loader
from detc.runtime.data.preprocess import pad_batch
from detc.runtime.data.reading import read_split
from detc.runtime.data.settings import data_settings
from detc.runtime.data.transforms import Normalize

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    every = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    return [rng.integers(0, 256, (30, 50, 3), np.uint8), rng.integers(0, 256, (70, 20, 3), np.uint8), every]


def normalised(image: np.ndarray, normalize: Normalize, height: int, width: int) -> np.ndarray:
    """In single precision: the difference, then its product with the reciprocal of the deviation."""
    out = np.zeros((3, height, width), np.float32)
    for channel in range(3):
        plane = image[..., 2 - channel if normalize.order == "rgb" else channel].astype(np.float32)
        plane = (plane - np.float32(normalize.mean[channel])) * np.float32(1 / normalize.std[channel])
        out[channel, : image.shape[0], : image.shape[1]] = plane
    return out


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_training_and_prediction_normalise_to_the_same_bits(order):
    normalize = Normalize(MEAN, STD, order)
    wanted = np.stack([normalised(image, normalize, 96, 256) for image in images()])
    assert np.array_equal(pad_batch(images(), normalize, 32, (64, 64)), wanted)
    pixels = packed_pixels(images(), normalize, 32, (64, 64))
    assert pixels.dtype == torch.uint8
    pixels[0, :, 30:] = 255  # what lies beyond an image is never looked at
    sizes = tuple((image.shape[1], image.shape[0]) for image in images())
    batch = Batch(pixels, sizes, normalize, {"truth_boxes": torch.zeros(3, 1, 4)}, ("a", "b", "c"))
    assert np.array_equal(batch.inputs["image"].numpy(), wanted)
    moved = batch.to(torch.device("cpu"))
    assert np.array_equal(moved.inputs["image"].numpy(), wanted)
    assert set(moved.inputs) == {"image", "truth_boxes"}
    assert moved.files == ("a", "b", "c")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_normalises_to_the_same_bits():
    normalize = Normalize(MEAN, STD)
    sizes = tuple((image.shape[1], image.shape[0]) for image in images())
    batch = Batch(packed_pixels(images(), normalize, 32, (64, 64)), sizes, normalize, {}, ("a", "b", "c"))
    there = batch.pin_memory().to(torch.device("cuda")).inputs["image"]
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), batch.inputs["image"])


def test_workers_hand_over_the_same_pixels_and_keep_none(tmp_path):
    voc_folder(tmp_path / "data", {"train": 8, "val": 1, "test": 1})
    settings = data_settings(voc_data(augment=(Record("RandomFlip", {}),)))
    dataset, _ = read_split(settings, "train", tmp_path / "data", strict=True)

    def load(workers: int) -> list[Batch]:
        draws = EpochBatches([True] * 8, 2, 3)
        return list(training_loader(dataset.images, settings, draws, 32, workers, 1))

    together = load(1)  # all four are held at once, so that memory used twice would show
    for one, other in zip(load(0), together, strict=True):
        assert one.files == other.files
        assert torch.equal(one.inputs["image"], other.inputs["image"])
        assert other.pixels.is_shared()
