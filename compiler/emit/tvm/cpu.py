"""Convolutions and loops for `--target llvm`, scheduled by rule: no tuning, the same code every time.

TVM's own CPU lowering of a convolution has no schedule at all and runs at about 1 GFLOP/s on one thread. Here a
convolution reads an NHWC input and weights packed by tiles of output channels, and computes a tile of `columns`
neighbouring pixels by `channels` output channels in registers, over the whole reduction; the bias, residual sum and
activation that follow are applied to the tile before it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx, topi
from tvm.s_tir import Schedule

from detc.compiler.emit.letterbox import Letterbox
from detc.compiler.emit.tvm import letterbox, pairs, regions, suppress, tiles, winograd
from detc.compiler.emit.tvm.finish import finishing
from detc.compiler.emit.tvm.module import OPAQUE, Builder, Epilogue, Kernel, finished, real, sorted_top

# The blocks that the schedules below look for.
_CONV, _DENSE = "packed_conv", "packed_dense"

# Of a convolution: pixels of a task at least, and tasks.
_PIXELS, _TASKS = 192, 8
# Of a matrix product: inputs that are added up at once, and rows, and tiles of features, that one task takes.
_CHUNK, _ROWS, _TILES = 512, 256, 4


@dataclass(frozen=True)
class Registers:
    """The vector registers of a processor: how many there are, and how many float32 each holds."""

    lanes: int
    count: int

    @staticmethod
    def of(target: tvm.target.Target) -> Registers:
        """Those of an llvm target."""
        features = tvm.target.codegen.llvm_get_cpu_features(target)
        if "avx512f" in features:
            return Registers(16, 32)
        if "avx2" in features:
            return Registers(8, 16)
        return Registers(4, 32 if "neon" in features else 16)

    def channels(self, out: int, groups: int) -> int:
        """Output channels of a tile for a convolution with `out` of them: what wastes least, a whole number of vectors
        where there is one group, else a divisor of a group's channels."""
        most = 4 if self.count == 32 else 2
        tiles = [self.lanes * vectors for vectors in range(1, most + 1)]
        if groups > 1:
            divisors: list[int] = [tile for tile in (*range(1, self.lanes), *tiles) if out // groups % tile == 0]
            return divisors[-1]

        def useful(tile: int) -> tuple[float, int]:
            return out / (-(-out // tile) * tile), tile

        return max(tiles, key=useful)

    def columns(self, channels: int, width: int) -> int:
        """Columns of a tile: as many as registers hold beside one column of weights, and as little as possible wasted
        on columns beyond `width`."""
        vectors = max(1, channels // self.lanes)
        most = min((self.count - vectors - 1) // vectors, 12)

        def useful(columns: int) -> tuple[float, int]:
            """A narrow tile leaves the multipliers waiting for one another and for the weights."""
            busy = 0.4 + 0.6 * columns / most
            return width / (-(-width // columns) * columns) * busy, columns

        return max(range(1, most + 1), key=useful)


@dataclass(frozen=True)
class Cpu:
    """The backend of `--target llvm`."""

    registers: Registers
    features: frozenset[str] = frozenset()
    name = "llvm"
    bfloat16 = "uint16"

    def conv(self, b: Builder, x: relax.Var, kernel: Kernel, shape: tuple[int, ...], epilogue: Epilogue) -> relax.Var:
        inputs = kernel.weight.shape[1]
        whole_pairs = str(x.ty.dtype) == "uint16" and kernel.groups == 1
        if tiles.FEATURE in self.features and whole_pairs and inputs % tiles.DEPTH == 0:
            return self._tiles(b, x, kernel, shape, epilogue)
        plan = self._plan(x, kernel)
        if plan is not None:
            return self._winograd(b, x, kernel, shape, epilogue, plan)
        if pairs.FEATURE in self.features and whole_pairs and inputs % 2 == 0:
            return self._pairs(b, x, kernel, shape, epilogue)
        tile = self.registers.channels(shape[1], kernel.groups)
        packed = b.prepared(f"{kernel.name}.by{tile}", kernel.name, kernel.weight, lambda w: pack(w, tile))
        columns = self.registers.columns(tile, shape[3])
        sizes = (kernel.stride, kernel.padding, kernel.dilation, kernel.groups)
        result = b.compute(conv, b.cast(x, "float32"), packed, *sizes, columns, shape[1], op_pattern=4)
        return finished(b, result, epilogue)

    def _plan(self, x: relax.Var, kernel: Kernel) -> winograd.Plan | None:
        out, inputs, *sides = kernel.weight.shape
        if sides != [3, 3] or kernel.stride != (1, 1) or kernel.dilation != (1, 1) or kernel.groups != 1:
            return None
        n, height, width, _ = (int(d) for d in x.ty.shape)
        registers = self.registers
        return winograd.plan(n, height, width, inputs, out, kernel.padding, registers.lanes, registers.count)

    def _winograd(
        self,
        b: Builder,
        x: relax.Var,
        kernel: Kernel,
        shape: tuple[int, ...],
        epilogue: Epilogue,
        plan: winograd.Plan,
    ) -> relax.Var:
        name = f"{kernel.name}.F{plan.scheme.m}by{plan.channels}"
        packed = b.prepared(name, kernel.name, kernel.weight, lambda w: winograd.pack(w, plan))

        def emitted(x: te.Tensor, packed: te.Tensor, *others: te.Tensor) -> te.Tensor:
            finish = finishing(epilogue, shape)
            lanes = self.registers.lanes
            return winograd.conv(x, packed, others, finish, kernel.padding, shape[1], plan, lanes, epilogue.dtype)

        return b.compute(emitted, x, packed, *epilogue.added, **OPAQUE)

    def _pairs(self, b: Builder, x: relax.Var, kernel: Kernel, shape: tuple[int, ...], epilogue: Epilogue) -> relax.Var:
        channels = self.registers.channels(shape[1], 1)
        name = f"{kernel.name}.pairs{channels}"
        packed = b.prepared(name, kernel.name, kernel.weight, lambda w: pairs.pack(w, channels))
        n, out, height, width = shape
        blocks = -(-out // channels)
        strips = pairs.Strips.of(n * height, width, self.registers.columns(channels, width), blocks)

        def emitted(x: te.Tensor, packed: te.Tensor, *others: te.Tensor) -> te.Tensor:
            finish = finishing(epilogue, shape)
            size = (n, height, width, out)
            return pairs.conv(x, packed, others, finish, size, kernel.stride, kernel.dilation, strips, epilogue.dtype)

        return b.compute(emitted, _padded(b, x, kernel), packed, *epilogue.added, **OPAQUE)

    def _tiles(self, b: Builder, x: relax.Var, kernel: Kernel, shape: tuple[int, ...], epilogue: Epilogue) -> relax.Var:
        packed = b.prepared(f"{kernel.name}.tiles", kernel.name, kernel.weight, tiles.pack)
        n, out, height, width = shape
        sides = kernel.weight.shape[2], kernel.weight.shape[3]
        geometry = tiles.Geometry((n, height, width, out), sides, kernel.stride, kernel.dilation)

        def emitted(x: te.Tensor, packed: te.Tensor, *others: te.Tensor) -> te.Tensor:
            return tiles.conv(x, packed, others, finishing(epilogue, shape), geometry, epilogue.dtype)

        return b.compute(emitted, _padded(b, x, kernel), packed, *epilogue.added, **OPAQUE)

    def dense(self, b: Builder, x: relax.Var, name: str, weight: np.ndarray, epilogue: Epilogue) -> relax.Var:
        tile = self.registers.channels(len(weight), 1)
        packed = b.prepared(f"{name}.by{tile}", name, weight, lambda w: pack_rows(w, tile))
        return finished(b, b.compute(dense, b.cast(x, "float32"), packed, len(weight), op_pattern=4), epilogue)

    def cut(
        self,
        b: Builder,
        features: Sequence[relax.Var],
        boxes: relax.Var,
        level: relax.Var,
        size: int,
        samples: int,
        strides: Sequence[float],
    ) -> relax.Var:
        return b.compute(regions.on_cpu, features, boxes, level, size, samples, strides, self.registers.lanes, **OPAQUE)

    def fit(self, b: Builder, pixels: relax.Var, sizes: relax.Var, settings: Letterbox) -> relax.Var:
        size = (b.static.height, b.static.width)
        return b.compute(letterbox.on_cpu, pixels, sizes, *size, *astuple(settings), **OPAQUE)

    def top(self, b: Builder, x: relax.Var, count: int) -> tuple[relax.Var, relax.Var]:
        return sorted_top(b, x, count)

    def suppress(
        self, b: Builder, boxes: relax.Var, scores: relax.Var, classes: relax.Var, iou: float, keep: int
    ) -> Sequence[relax.Var]:
        return b.several(3, suppress.on_cpu, boxes, scores, classes, iou, keep, **OPAQUE)


def pack(weight: te.Tensor, tile: int) -> te.Tensor:
    """Weights (O, I, KH, KW) as (O / tile, KH, KW, I, tile), in the order in which the inner loop reads them. Where the
    tiles do not divide O, zeros fill the last."""
    out, inputs, height, width = (int(d) for d in weight.shape)
    shape = (-(-out // tile), height, width, inputs, tile)
    return te.compute(shape, lambda t, r, s, c, o: _present(weight, out, t * tile + o, c, r, s), name="pack")


def pack_rows(weight: te.Tensor, tile: int) -> te.Tensor:
    """Weights (F, D) as (F / tile, D, tile), likewise."""
    out, inputs = (int(d) for d in weight.shape)
    shape = (-(-out // tile), inputs, tile)
    return te.compute(shape, lambda t, d, f: _present(weight, out, t * tile + f, d), name="pack_rows")


def _present(weight: te.Tensor, out: int, o: Any, *rest: Any) -> Any:
    return tirx.if_then_else(o < out, real(weight, o, *rest), tirx.const(0.0, "float32"))


def _padded(b: Builder, x: relax.Var, kernel: Kernel) -> relax.Var:
    """x (N, H, W, C) with zeros around it, as a convolution has them."""
    edges = [0, *kernel.padding, 0]
    return b.compute(topi.nn.pad, x, edges, edges) if any(edges) else x


def conv(
    x: te.Tensor,
    packed: te.Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    columns: int,
    channels: int,
) -> te.Tensor:
    """The convolution of x (N, H, W, C), without bias, as (N, OH, OW, channels).

    Columns and channels are computed up to a whole number of tiles, and cut off again by a stage that the schedule
    inlines.
    """
    n, height, width, _ = (int(d) for d in x.shape)
    tiles, kh, kw, per_group, tile = (int(d) for d in packed.shape)
    out = tiles * tile
    oh = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    computed = -(-ow // columns) * columns
    # Every pixel that a computed cell reads is there; the columns beyond the image are zeros.
    right = max(0, (computed - 1) * stride[1] + dilation[1] * (kw - 1) + 1 - width - padding[1])
    if any(padding) or right:
        x = topi.nn.pad(x, [0, padding[0], padding[1], 0], [0, padding[0], right, 0], name="pad")
    r, s, c = (te.reduce_axis((0, extent), name) for extent, name in ((kh, "r"), (kw, "s"), (per_group, "c")))
    tiles_per_group = tiles // groups

    def cell(i: Any, y: Any, v: Any, o: Any) -> Any:
        first = o // tile // tiles_per_group * per_group if groups > 1 else 0
        pixel = x[i, y * stride[0] + r * dilation[0], v * stride[1] + s * dilation[1], first + c]
        return te.sum(pixel * packed[o // tile, r, s, c, o % tile], axis=[r, s, c])

    full = te.compute((n, oh, computed, out), cell, name=_CONV)
    return te.compute((n, oh, ow, channels), lambda i, y, v, o: full[i, y, v, o], name="cut")


def dense(x: te.Tensor, packed: te.Tensor, features: int) -> te.Tensor:
    """The product of x (M, D) with weights (F / tile, D, tile), as (M, features).

    The reduction is in chunks, whose weights stay in the cache while many rows are multiplied with them.
    """
    rows, inputs = (int(d) for d in x.shape)
    tiles, _, tile = (int(d) for d in packed.shape)
    chunk = _divisor(inputs, _CHUNK)
    if chunk < _CHUNK // 8:
        chunk = inputs
    k = te.reduce_axis((0, chunk), "k")
    partial = te.compute(
        (inputs // chunk, rows, tiles * tile),
        lambda s, m, f: te.sum(x[m, s * chunk + k] * packed[f // tile, s * chunk + k, f % tile], axis=k),
        name=_DENSE,
    )
    step = te.reduce_axis((0, inputs // chunk), "step")
    full = te.compute((rows, tiles * tile), lambda m, f: te.sum(partial[step, m, f], axis=step), name="chunks")
    return te.compute((rows, features), lambda m, f: full[m, f], name="cut")


def _divisor(number: int, most: int) -> int:
    """The largest divisor that is not above `most`."""
    return next(d for d in range(min(most, number), 0, -1) if number % d == 0)


def schedule(function: tirx.PrimFunc, registers: Registers) -> tirx.PrimFunc:
    """A fused function made fast: by the rule above if it holds a convolution, else with parallel, vectorised loops."""
    if function.body.block.name_hint != "root":
        return function  # one call of a library, such as a sort
    plan = Schedule(function)
    blocks = plan.get_child_blocks(plan.get_sblock("root"))
    names = [plan.get(block).name_hint for block in blocks]
    if _CONV in names:
        _schedule_conv(plan, blocks, names, registers)
    elif _DENSE in names:
        _schedule_dense(plan, blocks, names, registers)
    else:
        for block in blocks:
            _schedule_loops(plan, block, registers)
    return plan.mod["main"]


def _schedule_conv(plan: Schedule, blocks: Sequence[Any], names: Sequence[str], registers: Registers) -> None:
    main = blocks[names.index(_CONV)]
    *middle, last = [block for block, name in zip(blocks, names, strict=True) if name not in (_CONV, "pad")]
    for block in middle:
        plan.compute_inline(block)
    n, height, width, _ = (int(plan.get(loop).extent) for loop in plan.get_loops(last))
    computed, out = (int(plan.get(loop).extent) for loop in plan.get_loops(main)[2:4])
    reads = plan.get(main).reads
    tile = int(reads[1].source.shape[-1])
    columns = registers.columns(tile, width)
    assert computed == -(-width // columns) * columns, "packed for another processor"
    images, rows = _task(n, height, width, out // tile)

    n, y, v, o = plan.get_loops(last)
    n_outer, n_inner = plan.split(n, [None, images])
    y_outer, y_inner = plan.split(y, [None, rows])
    v_outer, v_inner = plan.split(v, [None, columns])
    o_outer, o_inner = plan.split(o, [None, tile])
    plan.reorder(n_outer, y_outer, o_outer, n_inner, y_inner, v_outer, v_inner, o_inner)
    plan.parallel(plan.fuse(n_outer, y_outer, o_outer))
    plan.unroll(v_inner)
    plan.compute_at(main, v_outer, preserve_unit_loops=True)
    r, s, c = plan.get_loops(main)[-3:]
    *_, column, channel = plan.get_loops(main)[:-3]
    plan.reorder(r, s, c, column, channel)
    _vectorize(plan, channel, tile, registers)
    plan.unroll(column)
    plan.set_scope(main, 0, "local")
    start = plan.decompose_reduction(main, r)
    for loop in plan.get_loops(start)[4:-1]:
        plan.unroll(loop)
    _vectorize(plan, plan.get_loops(last)[-1], tile, registers)
    if "pad" in names:
        _schedule_loops(plan, blocks[names.index("pad")], registers)


def _task(n: int, height: int, width: int, tiles: int) -> tuple[int, int]:
    """Images and rows of a task: pixels enough to be worth a tile's weights, which every task reads anew, and tasks
    enough for all cores."""

    def tasks(images: int, rows: int) -> int:
        return n // images * (height // rows) * tiles

    def smallest(choices: list[int], enough: Callable[[int], bool]) -> int:
        return next((choice for choice in choices if enough(choice)), choices[-1])

    rows = smallest(
        [r for r in _divisors(height) if r == 1 or tasks(1, r) >= _TASKS],
        lambda r: r >= 4 and r * width >= _PIXELS,
    )
    images = smallest(
        [i for i in _divisors(n) if i == 1 or (rows == height and tasks(i, rows) >= _TASKS)],
        lambda i: i * rows * width >= _PIXELS,
    )
    return images, rows


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _schedule_dense(plan: Schedule, blocks: Sequence[Any], names: Sequence[str], registers: Registers) -> None:
    """Blocks of rows by tiles of features in parallel; in each, for a chunk of the reduction at a time, every tile of a
    few rows in registers."""
    partial, full = (blocks[names.index(name)] for name in (_DENSE, "chunks"))
    tile = int(plan.get(partial).reads[1].source.shape[-1])
    rows, features, _ = (int(plan.get(loop).extent) for loop in plan.get_loops(full))
    columns = _divisor(rows, registers.columns(tile, rows))
    m, f, step = plan.get_loops(full)
    m_block, m_outer, m_inner = plan.split(m, [None, _divisor(rows // columns, _ROWS // columns), columns])
    f_block, f_outer, f_inner = plan.split(f, [None, _divisor(features // tile, _TILES), tile])
    plan.reorder(m_block, f_block, step, f_outer, m_outer, m_inner, f_inner)
    plan.parallel(plan.fuse(m_block, f_block))
    plan.unroll(m_inner)
    plan.compute_at(partial, m_outer, preserve_unit_loops=True)
    *_, row, feature, k = plan.get_loops(partial)
    plan.reorder(k, row, feature)
    _vectorize(plan, feature, tile, registers)
    plan.unroll(row)
    plan.set_scope(partial, 0, "local")
    start = plan.decompose_reduction(partial, k)
    plan.unroll(plan.get_loops(start)[-2])
    _vectorize(plan, plan.get_loops(start)[-1], tile, registers)
    _vectorize(plan, plan.get_loops(full)[-1], tile, registers)
    plan.decompose_reduction(full, plan.get_loops(full)[1])
    for block in blocks[names.index("cut") : -1]:
        plan.compute_inline(block)
    _schedule_loops(plan, blocks[-1], registers)


def _vectorize(plan: Schedule, loop: Any, extent: int, registers: Registers) -> None:
    """Vector instructions over a loop, as many after one another as it takes."""
    lanes = registers.lanes if extent % registers.lanes == 0 else extent
    outer, inner = plan.split(loop, [None, lanes])
    plan.unroll(outer)
    plan.vectorize(inner)


def _schedule_loops(plan: Schedule, block: Any, registers: Registers) -> None:
    """Parallel outer loops; where the innermost is spatial and wide enough, vectors over it."""
    spatial = [
        loop
        for loop, var in zip(plan.get_loops(block), plan.get(block).iter_vars, strict=True)
        if var.iter_type == tirx.IterVar.DataPar
    ]
    loops = plan.get_loops(block)
    if not spatial:
        return
    if len(spatial) < len(loops):
        plan.parallel(plan.fuse(*spatial[:-1]) if len(spatial) > 1 else spatial[0])
        if len(spatial) > 1 and int(plan.get(spatial[-1]).extent) % registers.lanes == 0:
            outer, inner = plan.split(spatial[-1], [None, registers.lanes])
            plan.reorder(outer, *loops[len(spatial) :], inner)
            plan.vectorize(inner)
        return
    if len(loops) == 1 or int(plan.get(loops[-1]).extent) % registers.lanes != 0:
        plan.parallel(plan.fuse(*loops))
        return
    plan.parallel(plan.fuse(*loops[:-1]))
    outer, inner = plan.split(loops[-1], [None, registers.lanes])
    plan.vectorize(inner)
