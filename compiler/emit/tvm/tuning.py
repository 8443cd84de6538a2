"""Which tile a convolution on tensor cores is computed in: a rule, and a table of what was measured.

The rule estimates clocks from what a multiprocessor does at once; its figures are those of the vendor's data sheets and
rough. Where `tuned.json` has a layer of an architecture, measured by `detc tune`, that decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("tuned.json")


def _whole(number: int, part: int) -> int:
    """How many parts hold a number."""
    return -(-number // part)


@dataclass(frozen=True)
class Convolution:
    """The sizes of a convolution of `images` maps (height, width, channels) to (rows, columns, outputs).

    `depth` is the input channels of a group. A matrix product of M rows is one of a single image, M high and 1 wide.
    """

    images: int
    height: int
    width: int
    channels: int
    rows: int
    columns: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def depth(self) -> int:
        return self.channels // self.groups

    @property
    def per_group(self) -> int:
        """Output channels of a group."""
        return self.outputs // self.groups

    @property
    def pixels(self) -> int:
        """Of all results together."""
        return self.images * self.rows * self.columns

    @property
    def packed(self) -> int:
        """Weights of one output channel, rounded up to 16 bytes."""
        return _whole(self.kernel[0] * self.kernel[1] * self.depth, 8) * 8

    @property
    def operations(self) -> int:
        """Multiplications and additions, each counted."""
        return 2 * self.pixels * self.outputs * self.kernel[0] * self.kernel[1] * self.depth

    def __str__(self) -> str:
        """As in the table: 1x80x80x256-256 k3x3 s1x1 p1x1 d1x1 g1."""
        pairs = zip("kspd", (self.kernel, self.stride, self.padding, self.dilation), strict=True)
        sizes = " ".join(f"{letter}{one}x{other}" for letter, (one, other) in pairs)
        return f"{self.images}x{self.height}x{self.width}x{self.channels}-{self.outputs} {sizes} g{self.groups}"


@dataclass(frozen=True)
class Tile:
    """What one block computes: `pixels` x `outputs` results, `depth` steps of the reduction at a time.

    Its `warps` stand in rows and columns over the tile. `stages` slices of both factors are in shared memory.
    """

    pixels: int
    outputs: int
    depth: int
    warps: tuple[int, int]
    stages: int

    @property
    def threads(self) -> int:
        return 32 * self.warps[0] * self.warps[1]

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return self.stages * (self.pixels + self.outputs) * self.depth * 2

    def __str__(self) -> str:
        return f"{self.pixels}x{self.outputs}x{self.depth}_{self.warps[0]}x{self.warps[1]}_{self.stages}"

    @classmethod
    def parse(cls, text: str) -> Tile:
        """The tile whose `str` this is. Raises ValueError."""
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)_(\d+)x(\d+)_(\d+)", text)
        if found is None:
            raise ValueError(f"{text!r} is no tile")
        pixels, outputs, depth, down, across, stages = map(int, found.groups())
        return cls(pixels, outputs, depth, (down, across), stages)


# Large ones reuse more of what they load, small ones waste less of small maps and fill more multiprocessors.
TILES = (
    Tile(256, 128, 32, (4, 2), 3),
    Tile(128, 256, 32, (2, 4), 3),
    Tile(128, 128, 32, (2, 2), 4),
    Tile(128, 128, 64, (2, 4), 3),
    Tile(128, 64, 32, (2, 2), 4),
    Tile(128, 64, 64, (4, 1), 3),
    Tile(64, 128, 32, (2, 2), 4),
    Tile(64, 64, 64, (2, 2), 3),
    Tile(64, 64, 32, (2, 2), 4),
    Tile(64, 32, 64, (4, 1), 4),
    Tile(32, 64, 64, (2, 2), 4),
    Tile(32, 32, 64, (2, 2), 4),
    # Of few output channels: 36 of box heads, 3 of proposal scores.
    Tile(128, 48, 64, (4, 1), 3),
    Tile(64, 16, 64, (4, 1), 4),
)
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Choice:
    """A tile, and how many blocks share the reduction of one, whose sums another kernel adds up."""

    tile: Tile
    splits: int = 1

    def __str__(self) -> str:
        return f"{self.tile} / {self.splits}"

    @classmethod
    def parse(cls, text: str) -> Choice:
        """The choice whose `str` this is. Raises ValueError."""
        tile, _, splits = text.partition(" / ")
        return cls(Tile.parse(tile), int(splits))


@dataclass(frozen=True)
class Device:
    """Multiprocessors; of each the bytes of shared memory, the 16-bit products of `mma.sync` a clock, and the bytes a
    clock that come from the second cache."""

    processors: int
    shared: int
    products: int
    bytes_per_clock: int = 48


_DEVICES = {
    80: Device(108, 163 << 10, 1024),
    86: Device(84, 99 << 10, 512),
    87: Device(16, 163 << 10, 512),
    89: Device(128, 99 << 10, 512),
    # Warp-level instructions reach about five eighths of what those of a whole group of warps do.
    90: Device(132, 227 << 10, 1300),
}


# The first that has bfloat16 products and asynchronous copies.
LEAST = min(_DEVICES)


def capability(arch: str) -> int:
    """The number in an architecture such as sm_90; 0 where there is none."""
    return int("".join(filter(str.isdigit, arch)) or 0)


def device(arch: str) -> Device:
    """The device of an architecture such as sm_90; of one that is not known, the most like it."""
    return _DEVICES[max((known for known in _DEVICES if known <= capability(arch)), default=LEAST)]


def candidates(layer: Convolution, arch: str) -> Iterator[Choice]:
    """The choices that are possible for a layer: they fit the shared memory, and splits have work to do."""
    on = device(arch)
    for tile in TILES:
        slices = _whole(layer.packed, tile.depth)
        if tile.shared <= on.shared:
            yield from (Choice(tile, splits) for splits in SPLITS if splits == 1 or slices >= 4 * splits)


def clocks(layer: Convolution, choice: Choice, arch: str, *, gathered: bool = False) -> float:
    """About how many clocks a choice takes. `gathered` inputs come one by one, not 16 bytes at a time."""
    on, tile = device(arch), choice.tile
    slices = _whole(_whole(layer.packed, tile.depth), choice.splits)
    tiles = _whole(layer.pixels, tile.pixels) * _whole(layer.per_group, tile.outputs) * layer.groups
    blocks = tiles * choice.splits
    registers = tile.threads * (tile.pixels * tile.outputs // tile.threads + 80)
    resident = max(1, min(on.shared // (tile.shared + 1024), 65536 // registers))
    together = min(resident, _whole(blocks, on.processors))
    waves = _whole(blocks, on.processors * together)
    products = tile.pixels * tile.outputs * tile.depth / on.products
    loads = (tile.pixels + tile.outputs) * tile.depth * 2 / on.bytes_per_clock
    if gathered:
        loads += tile.pixels * tile.depth * 16 / 128
    # One block alone waits for each slice's barrier, for its matrices to come, and for one product after another.
    alone = 80 + tile.depth / 16 * 40
    store = tile.pixels * tile.outputs * (4 if choice.splits > 1 else 2) / on.bytes_per_clock
    result = waves * (1500 + slices * max(together * products, together * loads, alone) + together * store)
    if choice.splits > 1:
        partial = 4 * layer.pixels * layer.outputs * (choice.splits + 1)
        result += 3000 + partial / (on.processors * on.bytes_per_clock / 2)
    return result


def by_rule(layer: Convolution, arch: str, *, gathered: bool = False) -> Choice:
    """The choice that the estimate prefers."""
    return min(candidates(layer, arch), key=lambda choice: clocks(layer, choice, arch, gathered=gathered))


def choose(layer: Convolution, arch: str, *, gathered: bool = False) -> Choice:
    """What was measured to be best for a layer, or, where nothing was, what the rule prefers."""
    measured = table().get(arch, {}).get(str(layer))
    return measured or by_rule(layer, arch, gathered=gathered)


@cache
def table() -> Mapping[str, Mapping[str, Choice]]:
    """What `detc tune` measured, of architectures and layers."""
    return read_table(TABLE)


def read_table(path: Path) -> dict[str, dict[str, Choice]]:
    """A table as `detc tune` writes it. Raises ValueError where it is none, OSError where it cannot be read."""
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict) or not all(isinstance(layers, dict) for layers in found.values()):
        raise ValueError("it is no table of architectures and layers")
    return {arch: {layer: Choice.parse(str(text)) for layer, text in layers.items()} for arch, layers in found.items()}
