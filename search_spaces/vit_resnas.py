"""ViT-ResNAS space: a three-stage vision transformer with residual spatial reduction.

Paper: "Searching for Efficient Multi-Stage Vision Transformers", arXiv:2109.00642 (network,
space, multi-architectural sampling). Written from a description of it; no code was taken over.

A convolutional stem makes a grid of tokens; between stages a residual spatial reduction halves the
grid's sides and widens the tokens; the class token travels along by a linear map of its own.
Layers are pre-norm. The width of a head is fixed by its stage, so that the inner width of an
attention is chosen by its number of heads. Each stage has one width of a token; heads, hidden
units and existence are chosen per block, the existence of every second block only. Learned
positions are added after the stem and again after each reduction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw_profiles.op import Op
from search_spaces.choices import Choice, ChoiceSet, Condition, Value
from search_spaces.elastic import Supernet, Toolbox
from search_spaces.space import Architecture, Block, LayerOp, SearchSpace, register_space
from search_spaces.transformer import EPS, GROUPS, Layer, initialise, sort_layers

# --- sizes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StageSizes:
    """A stage: the values of each of its choices, its blocks (at most) and its heads' width."""

    embed: tuple[int, ...]
    heads: tuple[int, ...]
    hidden: tuple[int, ...]
    head_width: int
    blocks: int

    def skippable(self, block: int) -> bool:
        """Whether a block may be left out: the second, fourth and so on."""
        return block % 2 == 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """A preset: the stages, and what is fixed.

    `position_std` is the spread of the initial positions: 0.02 for 224 pixels; on 8x8 images
    training starts far sooner from 1.
    """

    stages: tuple[StageSizes, ...]
    image: int
    stem_stride: int
    stem_width: int
    patch: int
    in_channels: int
    n_classes: int
    position_std: float = 0.02

    def __post_init__(self) -> None:
        if self.image % (self.stem_stride * self.patch * 2 ** (len(self.stages) - 1)):
            raise ValueError(f"an image of {self.image} pixels is no whole number of last tokens")
        if any(a.embed[-1] > b.embed[0] for a, b in self.reductions):
            raise ValueError("a stage is never narrower than the one before")

    @property
    def reductions(self) -> list[tuple[StageSizes, StageSizes]]:
        """Neighbouring stages."""
        return list(zip(self.stages, self.stages[1:], strict=False))

    def side(self, stage: int) -> int:
        """Tokens along a side of a stage's grid."""
        return int(self.image // (self.stem_stride * self.patch) // 2**stage)


def _published(
    embed: tuple[int, ...], heads: tuple[tuple[int, ...], ...], hidden: int, step: int, blocks: int
) -> Sizes:
    """A published supernet: tokens and hidden units double from stage to stage."""
    stages = tuple(
        StageSizes(
            tuple(width * 2**s for width in embed),
            heads[s],
            tuple((hidden + step * i) * 2**s for i in range(7)),
            head_width,
            blocks,
        )
        for s, head_width in enumerate((32, 48, 64))
    )
    return Sizes(stages, 224, 2, 24, 7, 3, 1000)


PRESETS: dict[str, Sizes] = {
    # Narrow at its smallest, so that it falls behind: two numbers for each of 16 tokens, of a stem
    # of two channels. Heads have an eighth of the published widths.
    "digits": Sizes(
        (
            StageSizes((2, 6, 12, 24), (1, 2, 3), (4, 24, 48, 96), 4, 4),
            StageSizes((24, 32, 48), (1, 2, 4), (8, 36, 72, 144), 6, 4),
            StageSizes((48, 64, 80), (1, 2, 4), (12, 48, 96, 192), 8, 2),
        ),
        image=8, stem_stride=1, stem_width=2, patch=2, in_channels=1, n_classes=10,
        position_std=1.0,
    ),
    "tiny": _published(
        (160, 176, 192, 224, 256), ((3, 4, 5, 6), (6, 8, 10, 12), (6, 8, 10, 12)), 384, 64, 6
    ),
    "small": _published(
        (200, 220, 240, 280, 320), ((5, 6, 7, 8), (10, 12, 14, 16), (10, 12, 14, 16)), 480, 80, 7
    ),
}  # fmt: skip


# --- the network --------------------------------------------------------------------------------


class Stem(nn.Module):
    """Three convolutions, the last two with a residual around them, then a token a patch.

    Only the width of a token is elastic; the convolutions before are the same in every subnet, so
    their batch norms are good for all of them.
    """

    def __init__(self, tools: Toolbox, sizes: Sizes, embed: int) -> None:
        super().__init__()
        width = sizes.stem_width
        self.conv1 = nn.Conv2d(sizes.in_channels, width, 3, sizes.stem_stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.conv3 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(width) for _ in range(3))
        self.proj = tools.conv2d(width, embed, sizes.patch, sizes.patch)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, image, image) -> patches (batch, patches, embed)."""
        x = F.relu(self.norm1(self.conv1(images)))
        residual = F.relu(self.norm2(self.conv2(x)))
        residual = F.relu(self.norm3(self.conv3(residual)))
        patches: Tensor = self.proj(x + residual).flatten(2).transpose(1, 2)
        return patches


class Reduction(nn.Module):
    """Residual spatial reduction: a quarter of the patches, each of them wider.

    Patches and class token share one norm. The patches are convolved and given new positions, and
    the means of their 2x2 neighbours, not normalised, are added; the class token goes through a
    linear map, and itself is added. What is added is filled with zeros to the new width, which
    therefore must not be smaller.

    Args:
        tools: makes the layers.
        width: of a token before.
        wider: of a token after.
        side: of the grid after, in patches.
        position_std: of the initial positions.
    """

    def __init__(
        self, tools: Toolbox, width: int, wider: int, side: int, position_std: float
    ) -> None:
        super().__init__()
        self.side = side
        self.norm = tools.layer_norm(width, EPS)
        self.conv = tools.conv2d(width, wider, 3, stride=2, padding=1)
        self.cls = tools.linear(width, wider)
        self.position = tools.embedding(side**2, wider)
        nn.init.normal_(self.position.weight, std=position_std)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1 + patches, width) -> (batch, 1 + patches / 4, wider)."""
        normed = self.norm(x)
        patches: Tensor = self.conv(self._grid(normed)).flatten(2).transpose(1, 2)
        patches = patches + self.position(torch.arange(self.side**2, device=x.device))
        out = torch.cat([self.cls(normed[:, :1]), patches], dim=1)
        means = F.avg_pool2d(self._grid(x), 2).flatten(2).transpose(1, 2)
        residual = torch.cat([x[:, :1], means], dim=1)
        reduced: Tensor = out + F.pad(residual, (0, out.shape[-1] - x.shape[-1]))
        return reduced

    def _grid(self, x: Tensor) -> Tensor:
        grid: Tensor = x[:, 1:].transpose(1, 2).unflatten(2, (2 * self.side, 2 * self.side))
        return grid


class Stage(nn.Module):
    """The reduction that leads to a stage, and the stage's blocks."""

    def __init__(self, tools: Toolbox, sizes: Sizes, index: int, arch: Architecture) -> None:
        super().__init__()
        stage, embed = sizes.stages[index], int(arch[f"stages.{index}.embed"])
        self.reduction: nn.Module = nn.Identity()
        if index > 0:
            before = int(arch[f"stages.{index - 1}.embed"])
            side = sizes.side(index)
            self.reduction = Reduction(tools, before, embed, side, sizes.position_std)
        self.blocks = tools.stack(
            {
                b: Layer(
                    tools,
                    embed,
                    int(arch[f"stages.{index}.blocks.{b}.heads"]),
                    stage.head_width,
                    int(arch[f"stages.{index}.blocks.{b}.hidden"]),
                )
                for b in kept_blocks(stage, index, arch)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of the stage before -> tokens of this one."""
        out: Tensor = self.blocks(self.reduction(x))
        return out


class ViTResNAS(nn.Module):
    """The network of one architecture, plain, or of the largest with elastic layers.

    Shapes: images (batch, channels, image, image) -> logits (batch, classes), of the class token.
    """

    def __init__(self, sizes: Sizes, arch: Architecture, elastic: bool = False) -> None:
        super().__init__()
        tools = Toolbox(elastic)
        n = len(sizes.stages)
        first, last = int(arch["stages.0.embed"]), int(arch[f"stages.{n - 1}.embed"])
        self.stem = Stem(tools, sizes, first)
        self.tokens = tools.tokens(sizes.side(0) ** 2, first, sizes.position_std)
        self.stages = nn.ModuleList(Stage(tools, sizes, s, arch) for s in range(n))
        self.norm = tools.layer_norm(last, EPS)
        self.head = tools.linear(last, sizes.n_classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(self.stem(images))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


# --- the space ----------------------------------------------------------------------------------


def kept_blocks(stage: StageSizes, index: int, arch: Architecture) -> tuple[int, ...]:
    """Indices of the blocks of a stage that an architecture keeps."""
    return tuple(
        b
        for b in range(stage.blocks)
        if not stage.skippable(b) or arch[f"stages.{index}.blocks.{b}.keep"] == 1
    )


class ViTResNASSpace(SearchSpace):
    """Width of each stage; heads, hidden units and (every second) existence of each block."""

    def __init__(self, preset: str, sizes: Sizes) -> None:
        choices: list[Choice] = []
        blocks = [Block("stem", "stem", ("stages.0.embed",), None, {})]
        for s, stage in enumerate(sizes.stages):
            embed = f"stages.{s}.embed"
            choices.append(Choice(embed, stage.embed))
            if s > 0:
                reads = (f"stages.{s - 1}.embed", embed)
                groups = {"cls": ("cls",)}
                blocks.append(Block(f"stages.{s}.reduction", f"reduction{s}", reads, None, groups))
            for b in range(stage.blocks):
                name, exists = f"stages.{s}.blocks.{b}", None
                if stage.skippable(b):
                    choices.append(Choice(f"{name}.keep", (0, 1)))
                    exists = Condition(f"{name}.keep", frozenset({1}))
                choices += [
                    Choice(f"{name}.heads", stage.heads, exists),
                    Choice(f"{name}.hidden", stage.hidden, exists),
                ]
                widths = (embed, f"{name}.heads", f"{name}.hidden")
                blocks.append(Block(name, f"layer{s}", widths, exists, GROUPS))
        blocks.append(Block("head", "head", (f"stages.{len(sizes.stages) - 1}.embed",), None, {}))
        super().__init__(
            "vit-resnas",
            preset,
            ChoiceSet(tuple(choices)),
            tuple(blocks),
            (sizes.in_channels, sizes.image, sizes.image),
            sizes.n_classes,
            default_data="digits-hard" if preset == "digits" else "",
            default_recipe="sandwich:epochs=6,random_subnets=6"
            if preset == "digits"
            else "multi-architecture",
        )
        self.sizes = sizes

    def build(self, arch: Architecture) -> nn.Module:
        self.choices.encode(arch)
        return ViTResNAS(self.sizes, arch)

    def supernet(self, seed: int = 0) -> Supernet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ViTResNAS(self.sizes, self.largest(), elastic=True)
        return Supernet(self, network)

    def slices(self, arch: Architecture) -> dict[str, tuple[Any, ...]]:
        widths = [int(arch[f"stages.{s}.embed"]) for s in range(len(self.sizes.stages))]
        found: dict[str, tuple[Any, ...]] = {
            "stem.proj": (self.sizes.stem_width, widths[0]),
            "tokens": (widths[0],),
            "norm": (widths[-1],),
            "head": (widths[-1], self.n_classes),
        }
        for s, (stage, embed) in enumerate(zip(self.sizes.stages, widths, strict=True)):
            if s > 0:
                found |= {
                    f"stages.{s}.reduction.norm": (widths[s - 1],),
                    f"stages.{s}.reduction.conv": (widths[s - 1], embed),
                    f"stages.{s}.reduction.cls": (widths[s - 1], embed),
                    f"stages.{s}.reduction.position": (embed,),
                }
            kept = kept_blocks(stage, s, arch)
            found[f"stages.{s}.blocks"] = kept
            for name in (f"stages.{s}.blocks.{b}" for b in kept):
                hidden = int(arch[f"{name}.hidden"])
                found |= Layer.slices(name, embed, int(arch[f"{name}.heads"]), hidden)
        return found

    def sort(self, network: nn.Module, trained: int = 0) -> tuple[str, ...]:
        return () if trained else sort_layers(network)  # no sets of them are kept apart

    def ops(self, kind: str, batch: int, *values: Value) -> list[LayerOp]:
        sizes = [int(value) for value in values]
        if kind == "stem":
            return self._stem_ops(batch, *sizes)
        if kind == "head":
            (embed,), held = sizes, batch * (self.sizes.side(len(self.sizes.stages) - 1) ** 2 + 1)
            n = self.n_classes
            return [
                LayerOp(Op("layer_norm", (batch, embed)), live=(held + batch) * embed),
                LayerOp(Op("linear", (batch, embed, n)), live=batch * (embed + n), extra=n),
            ]
        stage = int(kind.removeprefix("layer").removeprefix("reduction"))
        if kind.startswith("reduction"):
            return self._reduction_ops(batch, stage, *sizes)
        (embed, heads, hidden), tokens = sizes, self.sizes.side(stage) ** 2 + 1
        head_width = self.sizes.stages[stage].head_width
        return Layer.ops(batch, tokens, embed, heads, head_width, hidden)

    def _stem_ops(self, batch: int, embed: int) -> list[LayerOp]:
        s = self.sizes
        c, w, side = s.in_channels, s.stem_width, s.image // s.stem_stride
        pixels = batch * side**2
        x, patches = pixels * w, s.side(0) ** 2
        tokens = batch * (patches + 1) * embed
        first = (batch, c, s.image, s.image, w, 3, s.stem_stride, 1, 1)
        inner = LayerOp(
            Op("conv2d", (batch, w, side, side, w, 3, 1, 1, 1)), live=3 * x, extra=2 * w
        )
        proj = Op("conv2d", (batch, w, side, side, embed, s.patch, s.patch, 0, 1))
        return [  # a batch norm is its convolution's; x is held for the residual
            LayerOp(Op("conv2d", first), live=batch * c * s.image**2 + x, extra=2 * w),
            LayerOp(Op("relu", (pixels, w)), live=2 * x),
            inner,
            LayerOp(Op("relu", (pixels, w)), live=3 * x),
            inner,
            LayerOp(Op("relu", (pixels, w)), live=3 * x),
            LayerOp(Op("add", (pixels, w)), live=3 * x),
            LayerOp(proj, live=x + tokens, extra=embed),
            LayerOp(
                Op("copy", (batch * (patches + 1), embed)),
                live=2 * tokens,
                extra=(patches + 2) * embed,
            ),
        ]

    def _reduction_ops(self, batch: int, stage: int, width: int, wider: int) -> list[LayerOp]:
        side, smaller = self.sizes.side(stage - 1), self.sizes.side(stage)
        rows, fewer = batch * (side**2 + 1), batch * (smaller**2 + 1)
        x, y = rows * width, fewer * wider
        conv = (batch, width, side, side, wider, 3, 2, 1, 1)
        position = smaller**2 * wider
        return [  # x is held until its means are taken
            LayerOp(Op("layer_norm", (rows, width)), live=2 * x),
            LayerOp(Op("copy", (batch * side**2, width)), live=3 * x),
            LayerOp(Op("conv2d", conv), live=3 * x + y, extra=wider),
            LayerOp(Op("copy", (fewer - batch, wider)), live=2 * (x + y), extra=position),
            LayerOp(Op("linear", (batch, width, wider)), "cls", 2 * x + y, extra=wider),
            LayerOp(Op("copy", (fewer, wider)), live=x + 2 * y),
            LayerOp(Op("pool", (batch, width, side, side, 2, 2)), live=2 * x + 2 * y),
            LayerOp(Op("copy", (fewer, wider)), live=x + 3 * y),
            LayerOp(Op("add", (fewer, wider)), live=3 * y),
        ]

    def describe(self, arch: Architecture) -> str:
        """Token widths, then each block as the rank of its heads (1: fewest) and hidden units (a).

        A block that is left out is `-`; stages are parted by `/`.
        """
        stages = self.sizes.stages
        texts = []
        for s, stage in enumerate(stages):
            kept = kept_blocks(stage, s, arch)
            named = ["-"] * stage.blocks
            for b in kept:
                heads = stage.heads.index(cast(int, arch[f"stages.{s}.blocks.{b}.heads"]))
                hidden = stage.hidden.index(cast(int, arch[f"stages.{s}.blocks.{b}.hidden"]))
                named[b] = f"{heads + 1}{'abcdefghij'[hidden]}"
            texts.append("".join(named))
        widths = "/".join(str(arch[f"stages.{s}.embed"]) for s in range(len(stages)))
        return f"e{widths} {'/'.join(texts)}"


@register_space(
    "vit-resnas", tuple(PRESETS), "three-stage vision transformer with residual spatial reduction"
)
def vit_resnas(
    preset: str, n_classes: int | None = None, in_channels: int | None = None
) -> ViTResNASSpace:
    """The space at a preset, fitted to the data's classes and channels."""
    sizes = PRESETS[preset]
    return ViTResNASSpace(
        preset,
        replace(
            sizes,
            n_classes=n_classes or sizes.n_classes,
            in_channels=in_channels or sizes.in_channels,
        ),
    )
