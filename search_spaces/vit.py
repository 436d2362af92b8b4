"""Vision transformer space, MatFormer-nested in its feed-forward layers.

Papers: ViT, arXiv:2010.11929 (network); MatFormer, arXiv:2310.07707 (nested feed-forward: the
first 1/8, 1/4, 1/2 or all of the hidden units, chosen per layer); AutoFormer, arXiv:2107.00651
(sizes of the 224-pixel presets, fixed head width, prefix weight sharing).

The network is pre-norm: x + attention(norm(x)), x + mlp(norm(x)), class token to the head. Plain
network and supernet are the same code; the supernet is the largest network made of elastic layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw_profiles.errors import UsageError
from hw_profiles.op import Op
from search_spaces.choices import Choice, ChoiceSet, Condition, Value
from search_spaces.elastic import (
    ElasticConv2d,
    ElasticLayerNorm,
    ElasticLinear,
    ElasticSequential,
    ElasticTokens,
    Supernet,
    Tokens,
)
from search_spaces.space import Architecture, Block, LayerOp, SearchSpace, register_space

# --- sizes --------------------------------------------------------------------------------------

GRANULARITY: dict[str, float] = {"S": 1 / 8, "M": 1 / 4, "L": 1 / 2, "XL": 1.0}
MLP_RATIO = 4
EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Sizes:
    """A preset: the values of each choice, and what is fixed.

    `position_std` is the spread of the initial positions: 0.02 as published for 224 pixels; on
    8x8 images training starts far sooner from 1.
    """

    embed: tuple[int, ...]
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    head_width: int
    image: int
    patch: int
    in_channels: int
    n_classes: int
    position_std: float = 0.02

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        return (self.image // self.patch) ** 2


PRESETS: dict[str, Sizes] = {
    "digits": Sizes((16, 32, 48, 64), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4), 16, 8, 2, 1, 10, 1.0),
    # AutoFormer's three spaces; its per-layer MLP ratio gives way to the nested granularity.
    "tiny": Sizes((192, 216, 240), (12, 13, 14), (3, 4), 64, 224, 16, 3, 1000),
    "small": Sizes((320, 384, 448), (12, 13, 14), (5, 6, 7), 64, 224, 16, 3, 1000),
    "base": Sizes((528, 576, 624), (14, 15, 16), (8, 9, 10), 64, 224, 16, 3, 1000),
}


def hidden_units(embed: int, granularity: str) -> int:
    """Feed-forward hidden units at an embedding width and a granularity."""
    return int(MLP_RATIO * embed * GRANULARITY[granularity])


# --- the network --------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head self-attention of fixed head width; q, k, v in one linear layer as (3, H, D)."""

    def __init__(self, embed: int, heads: int, head_width: int, elastic: bool) -> None:
        super().__init__()
        self.head_width = head_width
        inner = heads * head_width
        self.qkv = ElasticLinear(embed, 3 * inner, 3) if elastic else nn.Linear(embed, 3 * inner)
        self.proj = ElasticLinear(inner, embed) if elastic else nn.Linear(inner, embed)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, embed) -> the same."""
        q, k, v = (
            part.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Feed-forward layer; a smaller granularity is a prefix of the hidden units."""

    def __init__(self, embed: int, hidden: int, elastic: bool) -> None:
        super().__init__()
        linear = ElasticLinear if elastic else nn.Linear
        self.fc1 = linear(embed, hidden)
        self.fc2 = linear(hidden, embed)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, embed) -> the same."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, embed: int, heads: int, head_width: int, hidden: int, elastic: bool) -> None:
        super().__init__()
        norm = ElasticLayerNorm if elastic else nn.LayerNorm
        self.norm1 = norm(embed, eps=EPS)
        self.attention = Attention(embed, heads, head_width, elastic)
        self.norm2 = norm(embed, eps=EPS)
        self.mlp = Mlp(embed, hidden, elastic)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, embed) -> the same."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """The network of one architecture, plain, or of the largest with elastic layers.

    Shapes: images (batch, channels, image, image) -> logits (batch, classes).
    """

    def __init__(self, sizes: Sizes, arch: Architecture, elastic: bool = False) -> None:
        super().__init__()
        embed, depth = int(arch["embed"]), int(arch["depth"])
        self.patch_embed = (
            ElasticConv2d(sizes.in_channels, embed, sizes.patch, sizes.patch)
            if elastic
            else nn.Conv2d(sizes.in_channels, embed, sizes.patch, sizes.patch)
        )
        self.tokens = (ElasticTokens if elastic else Tokens)(
            sizes.n_patches, embed, sizes.position_std
        )
        self.layers = (ElasticSequential if elastic else nn.Sequential)(
            *(
                Layer(
                    embed,
                    int(arch[f"layers.{i}.heads"]),
                    sizes.head_width,
                    hidden_units(embed, str(arch[f"layers.{i}.ffn"])),
                    elastic,
                )
                for i in range(depth)
            )
        )
        self.norm = (ElasticLayerNorm if elastic else nn.LayerNorm)(embed, eps=EPS)
        self.head = (ElasticLinear if elastic else nn.Linear)(embed, sizes.n_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(self.patch_embed(images).flatten(2).transpose(1, 2))
        x = self.layers(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(module.bias)


# --- the space ----------------------------------------------------------------------------------


class VitSpace(SearchSpace):
    """Embedding width and depth of the network; heads and feed-forward granularity per layer."""

    def __init__(self, preset: str, sizes: Sizes) -> None:
        choices = [Choice("embed", sizes.embed), Choice("depth", sizes.depth)]
        layers = []
        for i in range(max(sizes.depth)):
            exists = None
            if i >= min(sizes.depth):
                exists = Condition("depth", frozenset(d for d in sizes.depth if d > i))
            choices += [
                Choice(f"layers.{i}.heads", sizes.heads, exists),
                Choice(f"layers.{i}.ffn", tuple(GRANULARITY), exists),
            ]
            reads = ("embed", f"layers.{i}.heads", f"layers.{i}.ffn")
            layers.append(Block(f"layers.{i}", "layer", reads, exists, _GROUPS))
        blocks = (
            Block("stem", "stem", ("embed",), None, {}),
            *layers,
            Block("head", "head", ("embed",), None, {}),
        )
        shape = (sizes.in_channels, sizes.image, sizes.image)
        super().__init__(
            "vit",
            preset,
            ChoiceSet(tuple(choices)),
            blocks,
            shape,
            sizes.n_classes,
            default_data="digits-hard" if preset == "digits" else "",
        )
        self.sizes = sizes

    def build(self, arch: Architecture) -> nn.Module:
        self.choices.encode(arch)
        return VisionTransformer(self.sizes, arch)

    def supernet(self, seed: int = 0) -> Supernet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = VisionTransformer(self.sizes, self.largest(), elastic=True)
        return Supernet(self, network)

    def slices(self, arch: Architecture) -> dict[str, tuple[int, ...]]:
        embed, depth = int(arch["embed"]), int(arch["depth"])
        widths: dict[str, tuple[int, ...]] = {
            "patch_embed": (embed,),
            "tokens": (embed,),
            "layers": (depth,),
            "norm": (embed,),
            "head": (embed, self.n_classes),
        }
        for i in range(depth):
            inner = int(arch[f"layers.{i}.heads"]) * self.sizes.head_width
            hidden = hidden_units(embed, str(arch[f"layers.{i}.ffn"]))
            widths |= {
                f"layers.{i}.norm1": (embed,),
                f"layers.{i}.attention.qkv": (embed, 3 * inner),
                f"layers.{i}.attention.proj": (inner, embed),
                f"layers.{i}.norm2": (embed,),
                f"layers.{i}.mlp.fc1": (embed, hidden),
                f"layers.{i}.mlp.fc2": (hidden, embed),
            }
        return widths

    def ops(self, kind: str, batch: int, *values: Value) -> list[LayerOp]:
        s = self.sizes
        embed, tokens = int(values[0]), s.n_patches + 1
        rows = batch * tokens
        x = rows * embed
        if kind == "stem":
            pixels = batch * s.in_channels * s.image**2
            shape = (batch, s.in_channels, s.image, s.image, embed, s.patch, s.patch)
            return [
                LayerOp(Op("conv2d", shape), live=pixels + x),
                LayerOp(Op("copy", (rows, embed)), live=2 * x, weights=(tokens + 1) * embed),
            ]
        if kind == "head":
            return [
                LayerOp(Op("layer_norm", (batch, embed)), live=x + batch * embed),
                LayerOp(Op("linear", (batch, embed, s.n_classes)), live=x + batch * s.n_classes),
            ]
        heads = int(values[1])
        inner, hidden = heads * s.head_width, hidden_units(embed, str(values[2]))
        attention = (batch, heads, tokens, tokens, s.head_width)
        return [  # the residual x is held all the way
            LayerOp(Op("layer_norm", (rows, embed)), live=2 * x),
            LayerOp(Op("linear", (rows, embed, 3 * inner)), "qkv", 2 * x + 3 * rows * inner),
            LayerOp(
                Op("attention", attention),
                live=x + 4 * rows * inner + 2 * batch * heads * tokens**2,
            ),
            LayerOp(Op("linear", (rows, inner, embed)), "proj", 2 * x + rows * inner),
            LayerOp(Op("add", (rows, embed)), live=3 * x),
            LayerOp(Op("layer_norm", (rows, embed)), live=2 * x),
            LayerOp(Op("linear", (rows, embed, hidden)), "fc1", 2 * x + rows * hidden),
            LayerOp(Op("gelu", (rows, hidden)), live=x + 2 * rows * hidden),
            LayerOp(Op("linear", (rows, hidden, embed)), "fc2", 2 * x + rows * hidden),
            LayerOp(Op("add", (rows, embed)), live=3 * x),
        ]

    def describe(self, arch: Architecture) -> str:
        depth = int(arch["depth"])
        heads = "".join(f"{arch[f'layers.{i}.heads']}" for i in range(depth))
        if max(self.sizes.heads) > 9:
            heads = ".".join(f"{arch[f'layers.{i}.heads']}" for i in range(depth))
        ffn = "-".join(str(arch[f"layers.{i}.ffn"]) for i in range(depth))
        return f"e{arch['embed']} d{depth} h{heads} f{ffn}"


_GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("attention.qkv",),
    "proj": ("attention.proj",),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
}


@register_space("vit", tuple(PRESETS), "vision transformer, MatFormer-nested feed-forward layers")
def vit(preset: str, n_classes: int | None = None, in_channels: int | None = None) -> VitSpace:
    """The space at a preset, fitted to the data's classes and channels."""
    sizes = PRESETS[preset]
    return VitSpace(
        preset,
        replace(
            sizes,
            n_classes=n_classes or sizes.n_classes,
            in_channels=in_channels or sizes.in_channels,
        ),
    )


# --- reference weights --------------------------------------------------------------------------


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `transformers` ViTForImageClassification under this network's names.

    Separate query, key and value are joined to (3, H, D).

    Raises:
        UsageError: if an entry that the network needs is missing.
    """
    fixed = {
        "vit.embeddings.cls_token": "tokens.cls",
        "vit.embeddings.position_embeddings": "tokens.position",
    }
    prefixes = {
        "vit.embeddings.patch_embeddings.projection": "patch_embed",
        "vit.layernorm": "norm",
        "classifier": "head",
    }
    mapped = {ours: state[theirs] for theirs, ours in fixed.items() if theirs in state}
    depth = 1 + max(
        (int(k.split(".")[2]) for k in state if k.startswith("vit.layers.")), default=-1
    )
    try:
        for i in range(depth):
            old, new = f"vit.layers.{i}", f"layers.{i}"
            for kind in ("weight", "bias"):
                parts = [state[f"{old}.attention.{p}_proj.{kind}"] for p in ("q", "k", "v")]
                mapped[f"{new}.attention.qkv.{kind}"] = torch.cat(parts)
            prefixes |= {
                f"{old}.attention.o_proj": f"{new}.attention.proj",
                f"{old}.mlp.fc1": f"{new}.mlp.fc1",
                f"{old}.mlp.fc2": f"{new}.mlp.fc2",
                f"{old}.layernorm_before": f"{new}.norm1",
                f"{old}.layernorm_after": f"{new}.norm2",
            }
        for theirs, ours in prefixes.items():
            for kind in ("weight", "bias"):
                mapped[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"]
    except KeyError as error:
        raise UsageError(
            f"these are no weights of a transformers ViT ({error.args[0]} is missing).",
            "Give the state of ViTForImageClassification.",
        ) from None
    return mapped
