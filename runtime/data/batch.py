"""A batch of training images, as workers hand it over and as a graph takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from detc.runtime.data.preprocess import padded_size
from detc.runtime.data.transforms import Normalize


@dataclass(frozen=True)
class Batch:
    """Images and what is known of their objects.

    `pixels` (N, 3, H, W) uint8 has the images at the upper left, with channels in the order of `normalize`; `sizes` are
    their widths and heights there, and beyond them nothing is said. `truth` is what a graph of training takes beside
    the image, by name, and `files` are the names of the images. Pixels cross between processes and to a GPU as bytes, a
    quarter of what they are once normalised, and become numbers where they are used.
    """

    pixels: torch.Tensor
    sizes: tuple[tuple[int, int], ...]
    normalize: Normalize
    truth: Mapping[str, torch.Tensor]
    files: tuple[str, ...]

    @cached_property
    def inputs(self) -> Mapping[str, torch.Tensor]:
        """What the graph of training takes, by name.

        Always `image` (N, 3, H, W) float32, normalised and zero beyond the images, `truth_boxes` (N, G, 4) float32 in
        pixels, and `truth_labels` (N, G) int64, -1 in rows without an object. Where the images were read with masks,
        `truth_masks` and `truth_windows` (`pack_masks`); where with proposals, `proposals` and `proposal_scores`
        (`pack_proposals`).
        """
        if self.pixels.device.type == "cpu":
            # numpy asks for huge pages, torch does not: of fresh memory, that is most of the time.
            image = torch.from_numpy(np.empty(tuple(self.pixels.shape), np.float32))
        else:
            image = torch.empty(self.pixels.shape, dtype=torch.float32, device=self.pixels.device)
        mean, scale = (
            torch.from_numpy(values).to(image.device)[:, None, None]
            for values in (self.normalize.means, self.normalize.scales)
        )
        for pixels, into, (width, height) in zip(self.pixels, image, self.sizes, strict=True):
            into[:, :height, :width].copy_(pixels[:, :height, :width]).sub_(mean).mul_(scale)
            into[:, height:] = 0
            into[:, :height, width:] = 0
        return {"image": image, **self.truth}

    def to(self, device: torch.device) -> Batch:
        truth = {name: tensor.to(device, non_blocking=True) for name, tensor in self.truth.items()}
        return replace(self, pixels=self.pixels.to(device, non_blocking=True), truth=truth)

    def pin_memory(self) -> Batch:
        truth = {name: tensor.pin_memory() for name, tensor in self.truth.items()}
        return replace(self, pixels=self.pixels.pin_memory(), truth=truth)


def packed_pixels(
    images: Sequence[np.ndarray], normalize: Normalize, multiple: int, least: tuple[int, int]
) -> torch.Tensor:
    """The `pixels` of a batch of images (h, w, 3) uint8 in blue, green, red; of the size that `padded_size` says."""
    width, height = padded_size(images, multiple, least)
    shape = (len(images), 3, height, width)
    if torch.utils.data.get_worker_info() is None:
        pixels = torch.empty(shape, dtype=torch.uint8)
    else:  # in memory that the other process sees, or torch copies it there
        storage = torch.UntypedStorage._new_shared(len(images) * 3 * height * width)
        pixels = torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)
    for image, into in zip(images, pixels.numpy(), strict=True):
        for plane, target in zip(normalize.planes(image), into, strict=True):
            target[: image.shape[0], : image.shape[1]] = plane
    return pixels
