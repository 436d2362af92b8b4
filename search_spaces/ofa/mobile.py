"""Once-for-all on mobile networks: MobileNetV3 and ProxylessNAS.

Papers: once-for-all, arXiv:1908.09791 (space, weight sharing, sorting); MobileNetV3,
arXiv:1905.02244; ProxylessNAS, arXiv:1812.00332. A stage runs its first blocks (depth); a block
expands its input, convolves each channel, and projects (inverted bottleneck, arXiv:1801.04381).
Elastic are each stage's depth, each block's kernel and expansion, and the resolution.
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
    ACTIVATIONS,
    ConvNorm,
    SqueezeExcite,
    hidden_channels,
    initialise,
    linear,
    mean_pool,
    squeezed,
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


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width; the first has the stride."""

    width: int
    stride: int
    activation: str
    se: bool = False
    depths: tuple[int, ...] = (2, 3, 4)
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 4, 6)


@dataclass(frozen=True, slots=True)
class MobileSizes:
    """A preset: the values of each choice, and what is fixed.

    `last` is the width of the convolution before pooling, `mix` that of the layer after it (0 if
    there is none). `image` is the side of the data's images. With `own_norms` the supernet's batch
    norms have weights and biases for each resolution; published supernets share them.
    """

    stem: int
    stem_activation: str
    first: int
    first_activation: str
    stages: tuple[Stage, ...]
    last: int
    mix: int
    head_activation: str
    resolutions: tuple[int, ...]
    eps: float
    dropout: float
    image: int
    in_channels: int
    n_classes: int
    own_norms: bool = False

    @property
    def norm_sets(self) -> int:
        """Sets of weights and biases of a batch norm."""
        return len(self.resolutions) if self.own_norms else 1

    def in_width(self, stage: int, index: int) -> int:
        """Input channels of a block."""
        if index > 0:
            return self.stages[stage].width
        return self.stages[stage - 1].width if stage > 0 else self.first

    def stride(self, stage: int, index: int) -> int:
        """Stride of a block."""
        return self.stages[stage].stride if index == 0 else 1

    def side(self, resolution: int, stage: int, index: int) -> int:
        """Side of a block's input; of the head's, where the stage is one too many."""
        side = strided(resolution, 2)
        for before in self.stages[:stage]:
            side = strided(side, before.stride)
        return strided(side, self.stages[stage].stride) if index > 0 else side


# --- the network --------------------------------------------------------------------------------


class MBConv(nn.Module):
    """Expand, convolve each channel, squeeze and excite, project; `hidden` None does not expand."""

    def __init__(
        self,
        tools: Toolbox,
        in_channels: int,
        hidden: int | None,
        out_channels: int,
        kernel: int,
        kernels: tuple[int, ...],
        stride: int,
        activation: str,
        se: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = (
            ConvNorm(tools, in_channels, hidden, activation=activation, eps=eps)
            if hidden is not None
            else None
        )
        hidden = hidden or in_channels
        self.depthwise = ConvNorm(tools, hidden, hidden, kernel, stride, activation, eps, kernels)
        self.se = SqueezeExcite(tools, hidden) if se else None
        self.project = ConvNorm(tools, hidden, out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) -> (batch, out, height / stride, width / stride)."""
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        y = y if self.se is None else self.se(y)
        out: Tensor = self.project(y)
        return x + out if self.residual else out

    def sort(self, kept: list[int]) -> None:
        """Most important hidden channels first, then most important units of the gate."""
        order = ranked(importance(self.project.conv), kept)
        reorder_inputs(self.project.conv, order)
        reorder_outputs(self.depthwise, order)
        if self.expand is not None:
            reorder_outputs(self.expand, order)
        if self.se is not None:
            reorder_outputs(self.se.expand, order)
            reorder_inputs(self.se.reduce, order)
            units = ranked(importance(self.se.expand), [squeezed(size) for size in kept])
            reorder_inputs(self.se.expand, units)
            reorder_outputs(self.se.reduce, units)


class Head(nn.Module):
    """A last convolution, means over the image, a mixing layer if any, the classifier."""

    def __init__(self, tools: Toolbox, sizes: MobileSizes) -> None:
        super().__init__()
        s = sizes
        self.activation, self.dropout = s.head_activation, s.dropout
        width = s.stages[-1].width
        self.expand = ConvNorm(tools, width, s.last, activation=s.head_activation, eps=s.eps)
        self.mix = tools.linear(s.last, s.mix, bias=False) if s.mix else None
        self.classifier = tools.linear(s.mix or s.last, s.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) -> (batch, classes)."""
        x = self.expand(x).mean((2, 3))
        if self.mix is not None:
            x = ACTIVATIONS[self.activation](self.mix(x))
        logits: Tensor = self.classifier(F.dropout(x, self.dropout, self.training))
        return logits


class MobileNetwork(nn.Module):
    """The network of one architecture, plain, or of the largest with elastic layers.

    Shapes: images (batch, channels, resolution, resolution) -> logits (batch, classes).
    """

    def __init__(self, sizes: MobileSizes, arch: Architecture, elastic: bool = False) -> None:
        super().__init__()
        s = sizes
        tools = Toolbox(elastic, s.norm_sets)
        self.stem = ConvNorm(tools, s.in_channels, s.stem, 3, 2, s.stem_activation, s.eps)
        self.first = MBConv(
            tools, s.stem, None, s.first, 3, (3,), 1, s.first_activation, False, s.eps
        )
        stages = []
        for i, stage in enumerate(s.stages):
            blocks = {}
            for j in range(depth_of(stage, i, arch)):
                kernel, expand = block_values(stage, i, j, arch)
                width = s.in_width(i, j)
                blocks[j] = MBConv(
                    tools,
                    width,
                    hidden_channels(width, expand),
                    stage.width,
                    kernel,
                    stage.kernels,
                    s.stride(i, j),
                    stage.activation,
                    stage.se,
                    s.eps,
                )
            stages.append(tools.stack(blocks))
        self.stages = nn.ModuleList(stages)
        self.head = Head(tools, s)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(self.stem(images))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x)
        return logits


def depth_of(stage: Stage, index: int, arch: Architecture) -> int:
    """Blocks of a stage; one of a single depth has no such choice."""
    return int(arch.get(f"stages.{index}.depth", stage.depths[-1]))


def block_values(stage: Stage, i: int, j: int, arch: Architecture) -> tuple[int, int]:
    """Kernel and expansion of a block; what has a single value is no choice."""
    return (
        int(arch.get(f"stages.{i}.{j}.kernel", stage.kernels[-1])),
        int(arch.get(f"stages.{i}.{j}.expand", stage.expands[-1])),
    )


# --- the space ----------------------------------------------------------------------------------


class MobileSpace(OfaSpace):
    """Resolution of the network, depth of each stage, kernel and expansion of each block."""

    def __init__(self, preset: str, sizes: MobileSizes) -> None:
        choices = [Choice("resolution", sizes.resolutions)]
        blocks = [Block(name, name, ("resolution",), None, {}) for name in ("stem", "first")]
        self._kinds: dict[str, tuple[int, int, tuple[str, ...]]] = {}
        for i, stage in enumerate(sizes.stages):
            depth = f"stages.{i}.depth"
            if len(stage.depths) > 1:
                choices.append(Choice(depth, stage.depths))
            elastic = {"kernel": stage.kernels, "expand": stage.expands}
            elastic = {what: values for what, values in elastic.items() if len(values) > 1}
            groups = {"se": ("se.reduce", "se.expand")} if stage.se else {}
            for j in range(max(stage.depths)):
                exists = None
                if j >= min(stage.depths):
                    exists = Condition(depth, frozenset(d for d in stage.depths if d > j))
                name = f"stages.{i}.{j}"
                choices += [Choice(f"{name}.{w}", v, exists) for w, v in elastic.items()]
                kind = f"stage{i}.{'first' if j == 0 else 'rest'}"
                self._kinds[kind] = (i, min(j, 1), tuple(elastic))
                reads = ("resolution", *(f"{name}.{what}" for what in elastic))
                blocks.append(Block(name, kind, reads, exists, groups))
        ends = {"mix": ("mix",)} if sizes.mix else {}
        ends["classifier"] = ("classifier",)
        blocks.append(Block("head", "head", ("resolution",), None, ends))
        super().__init__(
            "ofa",
            preset,
            ChoiceSet(tuple(choices)),
            tuple(blocks),
            (sizes.in_channels, sizes.image, sizes.image),
            sizes.n_classes,
            default_data="digits-hard" if preset == "digits" else "",
            default_recipe=(
                "sandwich:epochs=6,apart=32" if preset == "digits" else "progressive-shrinking"
            ),
        )
        self.sizes = sizes

    def network(self, arch: Architecture, elastic: bool) -> nn.Module:
        return MobileNetwork(self.sizes, arch, elastic)

    def slices(self, arch: Architecture) -> dict[str, tuple[Any, ...]]:
        s = self.sizes
        found = ConvNorm.slices("stem", s.in_channels, s.stem)
        found |= ConvNorm.slices("first.depthwise", s.stem, s.stem)
        found |= ConvNorm.slices("first.project", s.stem, s.first)
        for i, stage in enumerate(s.stages):
            depth = depth_of(stage, i, arch)
            found[f"stages.{i}"] = tuple(range(depth))
            for j in range(depth):
                kernel, expand = block_values(stage, i, j, arch)
                name, width = f"stages.{i}.{j}", s.in_width(i, j)
                hidden = hidden_channels(width, expand)
                found |= ConvNorm.slices(f"{name}.expand", width, hidden)
                found |= ConvNorm.slices(f"{name}.depthwise", hidden, hidden, kernel)
                found |= ConvNorm.slices(f"{name}.project", hidden, stage.width)
                if stage.se:
                    found |= SqueezeExcite.slices(f"{name}.se", hidden)
        found |= ConvNorm.slices("head.expand", s.stages[-1].width, s.last)
        if s.own_norms:
            which = s.resolutions.index(int(arch["resolution"]))
            norms = [name for name in found if name.endswith(".norm")]
            found |= {name: (*found[name], which) for name in norms}
        return found

    def ops(self, kind: str, batch: int, *values: Value) -> list[LayerOp]:
        s, resolution = self.sizes, int(values[0])
        if kind == "stem":
            return ConvNorm.ops(batch, s.in_channels, resolution, s.stem, 3, 2, s.stem_activation)
        side = s.side(resolution, 0, 0)
        if kind == "first":
            return _mbconv_ops(batch, s.stem, side, None, s.first, 3, 1, s.first_activation, False)
        if kind == "head":
            return self._head_ops(batch, s.side(resolution, len(s.stages), 0))
        i, j, elastic = self._kinds[kind]
        stage = s.stages[i]
        chosen = dict(zip(elastic, values[1:], strict=True))
        width = s.in_width(i, j)
        return _mbconv_ops(
            batch,
            width,
            s.side(resolution, i, j),
            hidden_channels(width, int(chosen.get("expand", stage.expands[-1]))),
            stage.width,
            int(chosen.get("kernel", stage.kernels[-1])),
            s.stride(i, j),
            stage.activation,
            stage.se,
        )

    def _head_ops(self, batch: int, side: int) -> list[LayerOp]:
        s = self.sizes
        width, last = s.stages[-1].width, s.last
        found = ConvNorm.ops(batch, width, side, last, activation=s.head_activation)
        found.append(mean_pool(batch, last, side))
        if s.mix:
            found += [
                linear("mix", batch, last, s.mix, bias=False),
                LayerOp(Op("hardswish", (batch, s.mix)), live=2 * batch * s.mix),
            ]
        return [*found, linear("classifier", batch, s.mix or last, s.n_classes)]

    def describe(self, arch: Architecture) -> str:
        """Resolution; kernels, then expansions of each stage's blocks, one digit a block."""
        s = self.sizes
        chosen = [
            [block_values(stage, i, j, arch) for j in range(depth_of(stage, i, arch))]
            for i, stage in enumerate(s.stages)
        ]
        kernels, expands = (
            "-".join("".join(str(block[what]) for block in blocks) for blocks in chosen)
            for what in (0, 1)
        )
        return f"r{arch['resolution']} k{kernels} e{expands}"

    def sort(self, network: nn.Module, trained: int = 0) -> tuple[str, ...]:
        """Put the most important hidden channels of each block first.

        Args:
            network: the largest, plain or elastic; permuted in place.
            trained: how many of the smaller expansions are trained, from the larger on. No
                channel then leaves a set that one of them uses, so that their outputs stay too.
        """
        names = []
        for i, stage in enumerate(self.sizes.stages):
            for j in range(max(stage.depths)):
                block = network.get_submodule(f"stages.{i}.{j}")
                assert isinstance(block, MBConv)
                expands = stage.expands[::-1][1 : trained + 1]
                block.sort([hidden_channels(self.sizes.in_width(i, j), e) for e in expands])
                names.append(f"stages.{i}.{j}")
        return tuple(names)

    @property
    def block_names(self) -> list[str]:
        return ["first", *(b.name for b in self.blocks if b.name.startswith("stages."))]

    def reference_prefix(self, parts: list[str]) -> tuple[str, list[str]] | None:
        if parts[0] == "feature_mix_layer" and self.sizes.mix:  # after pooling: linear here
            return "head.mix", ["linear", *parts[2:]]
        if parts[0] in _ENDS:
            return _ENDS[parts[0]], parts[1:]
        block = self.block_name(parts[1]) if parts[0] == "blocks" else None
        if block is None or len(parts) < 5 or parts[3] not in _LAYERS:
            return None
        if parts[4] == "se":
            return block, parts[4:]
        return f"{block}.{_LAYERS[parts[3]]}", parts[4:]


_ENDS = {
    "first_conv": "stem",
    "final_expand_layer": "head.expand",
    "feature_mix_layer": "head.expand",
    "classifier": "head.classifier",
}
_LAYERS = {"inverted_bottleneck": "expand", "depth_conv": "depthwise", "point_linear": "project"}


def _mbconv_ops(
    batch: int,
    in_channels: int,
    side: int,
    hidden: int | None,
    out_channels: int,
    kernel: int,
    stride: int,
    activation: str,
    se: bool,
) -> list[LayerOp]:
    """Ops of an `MBConv`; the input of a residual one is held all the way."""
    x = batch * in_channels * side**2
    residual = stride == 1 and in_channels == out_channels
    held = x if residual else 0
    found: list[LayerOp] = []
    if hidden is None:
        hidden = in_channels
    else:
        conv, act = ConvNorm.ops(batch, in_channels, side, hidden, activation=activation)
        found += [conv, LayerOp(act.op, live=act.live + held)]
    found += ConvNorm.ops(
        batch,
        hidden,
        side,
        hidden,
        kernel,
        stride,
        activation,
        depthwise=True,
        held=held if found else 0,  # else it reads the input itself
    )
    side = strided(side, stride)
    if se:
        found += SqueezeExcite.ops(batch, hidden, side, held)
    found += ConvNorm.ops(batch, hidden, side, out_channels, held=held)
    if residual:
        found.append(LayerOp(Op("add", (batch * side**2, out_channels)), live=3 * x))
    return found
