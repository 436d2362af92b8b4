"""Once-for-all on ResNet50D.

Papers: once-for-all, arXiv:1908.09791; ResNet-D, arXiv:1812.01187 (three convolutions in the stem,
means before a strided shortcut). Elastic are the stem's middle layer, each stage's depth, the
widths of stem and stages, each block's expansion of its OUTPUT width, and the resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hw_profiles.op import Op
from search_spaces.choices import Choice, ChoiceSet, Condition, Value
from search_spaces.elastic import Toolbox
from search_spaces.ofa.layers import (
    ConvNorm,
    hidden_channels,
    initialise,
    linear,
    mean_pool,
    round_channels,
    strided,
)
from search_spaces.ofa.space import (
    OfaSpace,
    importance,
    ranked,
    reorder_inputs,
    reorder_outputs,
)
from search_spaces.space import Architecture, Block, LayerOp

# --- sizes --------------------------------------------------------------------------------------

EPS = 1e-5


@dataclass(frozen=True, slots=True)
class ResNetSizes:
    """A preset: widths at multiplier 1, and the values of each choice.

    At the published multipliers the stem's middle has 24, 24 and 32 channels: two of its three
    values are the same network, yet the published count tells them apart, and so do we.
    """

    stem: int
    stages: tuple[int, ...]
    base_depths: tuple[int, ...]
    extra_depths: tuple[int, ...]
    widths: tuple[float, ...]
    expands: tuple[float, ...]
    resolutions: tuple[int, ...]
    image: int
    in_channels: int
    n_classes: int

    def depths(self, stage: int) -> tuple[int, ...]:
        """Numbers of blocks that a stage may have."""
        return tuple(self.base_depths[stage] + extra for extra in self.extra_depths)

    def stem_width(self, multiplier: float) -> int:
        """Channels that leave the stem."""
        return round_channels(self.stem * multiplier)

    def middle_width(self, multiplier: float) -> int:
        """Channels within the stem."""
        return round_channels(self.stem_width(multiplier) // 2)

    def width(self, stage: int, multiplier: float) -> int:
        """Channels of a stage."""
        return round_channels(self.stages[stage] * multiplier)

    @staticmethod
    def stride(stage: int, index: int) -> int:
        """Stride of a block."""
        return 2 if stage > 0 and index == 0 else 1

    @staticmethod
    def side(resolution: int, stage: int, index: int) -> int:
        """Side of a block's input; stem and pooling quarter the image."""
        side = resolution
        for _ in range(2 + max(stage - 1, 0) + (stage > 0 and index > 0)):
            side = strided(side, 2)
        return side


@dataclass(frozen=True, slots=True)
class Widths:
    """Channels of an architecture's parts."""

    middle: int
    stem: int
    stages: tuple[int, ...]

    @classmethod
    def of(cls, sizes: ResNetSizes, arch: Architecture) -> Widths:
        """Read from the choices."""
        return cls(
            sizes.middle_width(float(arch["stem.middle"])),
            sizes.stem_width(float(arch["stem.width"])),
            tuple(
                sizes.width(i, float(arch[f"stages.{i}.width"])) for i in range(len(sizes.stages))
            ),
        )

    def before(self, stage: int, index: int) -> int:
        """Input channels of a block."""
        if index > 0:
            return self.stages[stage]
        return self.stages[stage - 1] if stage > 0 else self.stem


# --- the network --------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """Reduce, convolve, restore; the shortcut of a stage's first block is means and a 1x1."""

    def __init__(
        self,
        tools: Toolbox,
        in_channels: int,
        hidden: int,
        out_channels: int,
        stride: int,
        first: bool,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = ConvNorm(tools, in_channels, hidden, activation="relu")
        self.conv2 = ConvNorm(tools, hidden, hidden, 3, stride, "relu")
        self.conv3 = ConvNorm(tools, hidden, out_channels)
        self.shortcut = ConvNorm(tools, in_channels, out_channels) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) -> (batch, out, height / stride, width / stride)."""
        y = self.conv3(self.conv2(self.conv1(x)))
        if self.shortcut is not None:
            x = self.shortcut(halved(x) if self.stride == 2 else x)
        return F.relu(x + y)

    def sort(self, kept: list[int]) -> None:
        """Most important hidden channels first, of both hidden layers."""
        for layer, following in ((self.conv2, self.conv3), (self.conv1, self.conv2)):
            order = ranked(importance(following.conv), kept)
            reorder_inputs(following.conv, order)
            reorder_outputs(layer, order)


def halved(x: Tensor) -> Tensor:
    """Means over 2x2 windows; those beyond an odd edge see what is there."""
    height, width = x.shape[-2:]
    # a repeated edge leaves those means as they are, and every runtime agrees on them
    return F.avg_pool2d(F.pad(x, (0, width % 2, 0, height % 2), mode="replicate"), 2)


class ResNet(nn.Module):
    """The network of one architecture, plain, or of the largest with elastic layers.

    Shapes: images (batch, channels, resolution, resolution) -> logits (batch, classes).
    """

    def __init__(self, sizes: ResNetSizes, arch: Architecture, elastic: bool = False) -> None:
        super().__init__()
        tools, w = Toolbox(elastic), Widths.of(sizes, arch)
        stem = {
            0: ConvNorm(tools, sizes.in_channels, w.middle, 3, 2, "relu"),
            1: ConvNorm(tools, w.middle, w.middle, 3, 1, "relu", residual=True),
            2: ConvNorm(tools, w.middle, w.stem, 3, 1, "relu"),
        }
        self.stem = tools.stack({i: stem[i] for i in stem_layers(arch)})
        stages = []
        for i, width in enumerate(w.stages):
            blocks = {}
            for j in range(int(arch[f"stages.{i}.depth"])):
                hidden = hidden_channels(width, float(arch[f"stages.{i}.{j}.expand"]))
                before, stride = w.before(i, j), sizes.stride(i, j)
                blocks[j] = Bottleneck(tools, before, hidden, width, stride, first=j == 0)
            stages.append(tools.stack(blocks))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Sequential()
        self.head.add_module("classifier", tools.linear(w.stages[-1], sizes.n_classes))
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(images), 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def stem_layers(arch: Architecture) -> tuple[int, ...]:
    """Which of the stem's three layers run."""
    return (0, 1, 2) if arch["stem.depth"] == 3 else (0, 2)


# --- the space ----------------------------------------------------------------------------------


class ResNetSpace(OfaSpace):
    """Resolution; depth and widths of the stem; depth, width and expansions of each stage."""

    def __init__(self, preset: str, sizes: ResNetSizes) -> None:
        middle, stem = "stem.middle", "stem.width"
        choices = [
            Choice("resolution", sizes.resolutions),
            Choice("stem.depth", (2, 3)),
            Choice(middle, sizes.widths),
            Choice(stem, sizes.widths),
        ]
        optional = Condition("stem.depth", frozenset({3}))
        blocks = [
            Block("stem.0", "stem0", ("resolution", middle), None, {}),
            Block("stem.1", "stem1", ("resolution", middle), optional, {}),
            Block("stem.2", "stem2", ("resolution", middle, stem), None, {}),
        ]
        before = stem
        for i in range(len(sizes.stages)):
            depths, width = sizes.depths(i), f"stages.{i}.width"
            choices += [Choice(f"stages.{i}.depth", depths), Choice(width, sizes.widths)]
            for j in range(max(depths)):
                exists = None
                if j >= min(depths):
                    exists = Condition(f"stages.{i}.depth", frozenset(d for d in depths if d > j))
                name = f"stages.{i}.{j}"
                choices.append(Choice(f"{name}.expand", sizes.expands, exists))
                kind = f"stage{i}.{'first' if j == 0 else 'rest'}"
                reads = ["resolution", f"{name}.expand", width, *([before] if j == 0 else [])]
                blocks.append(Block(name, kind, tuple(reads), exists, {}))
            before = width
        last = ("resolution", before)
        blocks.append(Block("head", "head", last, None, {"classifier": ("classifier",)}))
        super().__init__(
            "ofa",
            preset,
            ChoiceSet(tuple(choices)),
            tuple(blocks),
            (sizes.in_channels, sizes.image, sizes.image),
            sizes.n_classes,
            default_recipe="progressive-shrinking",
        )
        self.sizes = sizes

    def network(self, arch: Architecture, elastic: bool) -> nn.Module:
        return ResNet(self.sizes, arch, elastic)

    def slices(self, arch: Architecture) -> dict[str, tuple[Any, ...]]:
        w = Widths.of(self.sizes, arch)
        kept = stem_layers(arch)
        found: dict[str, tuple[Any, ...]] = {"stem": kept}
        found |= ConvNorm.slices("stem.0", self.sizes.in_channels, w.middle)
        found |= ConvNorm.slices("stem.1", w.middle, w.middle)
        found |= ConvNorm.slices("stem.2", w.middle, w.stem)
        for i, width in enumerate(w.stages):
            depth = int(arch[f"stages.{i}.depth"])
            found[f"stages.{i}"] = tuple(range(depth))
            for j in range(depth):
                name, before = f"stages.{i}.{j}", w.before(i, j)
                hidden = hidden_channels(width, float(arch[f"{name}.expand"]))
                found |= ConvNorm.slices(f"{name}.conv1", before, hidden)
                found |= ConvNorm.slices(f"{name}.conv2", hidden, hidden)
                found |= ConvNorm.slices(f"{name}.conv3", hidden, width)
                if j == 0:
                    found |= ConvNorm.slices(f"{name}.shortcut", before, width)
        found["head.classifier"] = (w.stages[-1], self.n_classes)
        return found

    def ops(self, kind: str, batch: int, *values: Value) -> list[LayerOp]:
        s, resolution = self.sizes, int(values[0])
        if kind == "head":
            width = s.width(len(s.stages) - 1, float(values[1]))
            side = s.side(resolution, len(s.stages) - 1, 1)
            pool = mean_pool(batch, width, side)
            return [pool, linear("classifier", batch, width, s.n_classes)]
        if kind.startswith("stem"):
            return self._stem_ops(kind, batch, resolution, *map(float, values[1:]))
        i, j = int(kind[5]), int(kind.endswith("rest"))
        width = s.width(i, float(values[2]))
        before = width
        if j == 0:
            multiplier = float(values[3])
            before = s.width(i - 1, multiplier) if i > 0 else s.stem_width(multiplier)
        hidden = hidden_channels(width, float(values[1]))
        return _bottleneck_ops(
            batch, before, s.side(resolution, i, j), hidden, width, s.stride(i, j), j == 0
        )

    def _stem_ops(
        self, kind: str, batch: int, resolution: int, middle: float, stem: float = 1.0
    ) -> list[LayerOp]:
        s = self.sizes
        channels, side = s.middle_width(middle), strided(resolution, 2)
        if kind == "stem0":
            return ConvNorm.ops(batch, s.in_channels, resolution, channels, 3, 2, "relu")
        if kind == "stem1":
            x = batch * channels * side**2
            conv, act = ConvNorm.ops(batch, channels, side, channels, 3, 1, "relu")
            add = Op("add", (batch * side**2, channels))
            return [conv, LayerOp(act.op, live=act.live + x), LayerOp(add, live=3 * x)]
        out = s.stem_width(stem)
        # maxima over 3x3 windows, padded by one
        pool = Op("pool", (batch, out, side + 2, side + 2, 3, 2))
        live = batch * out * side**2 + pool.writes
        return [
            *ConvNorm.ops(batch, channels, side, out, 3, 1, "relu"),
            LayerOp(pool, live=live),
        ]

    def describe(self, arch: Architecture) -> str:
        """Resolution, stem's depth, widths from stem to last stage, expansions: S, M or L."""
        s = self.sizes
        names = ["stem.middle", "stem.width", *(f"stages.{i}.width" for i in range(len(s.stages)))]
        widths = "".join(_letter(arch[name], s.widths) for name in names)
        expands = "-".join(
            "".join(
                _letter(arch[f"stages.{i}.{j}.expand"], s.expands)
                for j in range(int(arch[f"stages.{i}.depth"]))
            )
            for i in range(len(s.stages))
        )
        return f"r{arch['resolution']} s{arch['stem.depth']} w{widths} e{expands}"

    def sort(self, network: nn.Module, trained: int = 0) -> tuple[str, ...]:
        """Put the most important hidden channels of each block first; outer widths stay.

        Args:
            network: the largest, plain or elastic; permuted in place.
            trained: how many of the smaller expansions are trained, from the larger on. No
                channel then leaves a set that one of them uses, at any width, so that their
                outputs stay too.
        """
        s, names = self.sizes, []
        for i in range(len(s.stages)):
            largest = hidden_channels(s.width(i, max(s.widths)), max(s.expands))
            kept = {
                hidden_channels(s.width(i, multiplier), expand)
                for multiplier in s.widths
                for expand in s.expands[::-1][: trained + 1]
                if trained
            }
            for j in range(max(s.depths(i))):
                block = network.get_submodule(f"stages.{i}.{j}")
                assert isinstance(block, Bottleneck)
                block.sort(sorted(kept - {largest}))
                names.append(f"stages.{i}.{j}")
        return tuple(names)

    @property
    def block_names(self) -> list[str]:
        return [b.name for b in self.blocks if b.name.startswith("stages.")]

    def reference_prefix(self, parts: list[str]) -> tuple[str, list[str]] | None:
        if parts[0] == "classifier":
            return "head.classifier", parts[1:]
        if parts[0] == "input_stem" and parts[1] in ("0", "1", "2"):
            return f"stem.{parts[1]}", parts[2:]
        block = self.block_name(parts[1]) if parts[0] == "blocks" else None
        if block is None or parts[2] not in ("conv1", "conv2", "conv3", "downsample"):
            return None
        layer = "shortcut" if parts[2] == "downsample" else parts[2]
        return f"{block}.{layer}", parts[3:]


def _letter(value: Value, values: tuple[float, ...]) -> str:
    return "SML"[values.index(float(value))]


def _bottleneck_ops(
    batch: int,
    in_channels: int,
    side: int,
    hidden: int,
    out_channels: int,
    stride: int,
    first: bool,
) -> list[LayerOp]:
    """Ops of a `Bottleneck`; its input is held for the shortcut."""
    x = batch * in_channels * side**2
    conv, act = ConvNorm.ops(batch, in_channels, side, hidden, activation="relu")
    found = [conv, LayerOp(act.op, live=act.live + x)]
    found += ConvNorm.ops(batch, hidden, side, hidden, 3, stride, "relu", held=x)
    small = strided(side, stride)
    found += ConvNorm.ops(batch, hidden, small, out_channels, held=x)
    y = batch * out_channels * small**2
    if stride == 2:
        pool = Op("pool", (batch, in_channels, 2 * small, 2 * small, 2, 2))
        found.append(LayerOp(pool, live=x + y + pool.writes))
    if first:
        found += ConvNorm.ops(batch, in_channels, small, out_channels, held=y)
    rows = batch * small**2
    return [
        *found,
        LayerOp(Op("add", (rows, out_channels)), live=3 * y),
        LayerOp(Op("relu", (rows, out_channels)), live=2 * y),
    ]
