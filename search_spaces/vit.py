"""Vision transformer space, MatFormer-nested in its feed-forward layers.

Papers: ViT, arXiv:2010.11929 (network); MatFormer, arXiv:2310.07707 (nested feed-forward: the
first 1/8, 1/4, 1/2 or all of the hidden units, chosen per layer); AutoFormer, arXiv:2107.00651
(sizes of the 224-pixel presets, fixed head width, prefix weight sharing); DeiT, arXiv:2012.12877
(largest networks of the presets named after it).

The network is pre-norm: x + attention(norm(x)), x + mlp(norm(x)), class token to the head. Plain
network and supernet are the same code; the supernet is the largest network made of elastic layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hw_profiles.errors import UsageError
from hw_profiles.op import Op
from search_spaces.choices import Choice, ChoiceSet, Condition, Value
from search_spaces.elastic import Supernet, Toolbox, resample_positions
from search_spaces.space import Architecture, Block, LayerOp, SearchSpace, register_space
from search_spaces.transformer import EPS, GROUPS, Layer, initialise, sort_layers

# --- sizes --------------------------------------------------------------------------------------

GRANULARITY: dict[str, float] = {"S": 1 / 8, "M": 1 / 4, "L": 1 / 2, "XL": 1.0}
MLP_RATIO = 4


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
    # Widths that double are told apart by their accuracy. A layer of one head learns worst beside
    # those of more: as in the published spaces, none has so few.
    "digits": Sizes((8, 16, 32, 64), (1, 2, 3, 4, 5, 6), (2, 3, 4), 16, 8, 2, 1, 10, 1.0),
    # AutoFormer's three spaces; its per-layer MLP ratio gives way to the nested granularity.
    "tiny": Sizes((192, 216, 240), (12, 13, 14), (3, 4), 64, 224, 16, 3, 1000),
    "small": Sizes((320, 384, 448), (12, 13, 14), (5, 6, 7), 64, 224, 16, 3, 1000),
    "base": Sizes((528, 576, 624), (14, 15, 16), (8, 9, 10), 64, 224, 16, 3, 1000),
    # The largest is a published network, to start from its weights: DeiT's, and timm's
    # vit_*_patch16_224.
    "deit-tiny": Sizes((128, 160, 192), (10, 11, 12), (2, 3), 64, 224, 16, 3, 1000),
    "deit-small": Sizes((256, 320, 384), (10, 11, 12), (4, 5, 6), 64, 224, 16, 3, 1000),
    "deit-base": Sizes((512, 640, 768), (10, 11, 12), (8, 10, 12), 64, 224, 16, 3, 1000),
}


def hidden_units(embed: int, granularity: str) -> int:
    """Feed-forward hidden units at an embedding width and a granularity."""
    return int(MLP_RATIO * embed * GRANULARITY[granularity])


# --- the network --------------------------------------------------------------------------------


class VisionTransformer(nn.Module):
    """The network of one architecture, plain, or of the largest with elastic layers.

    Shapes: images (batch, channels, image, image) -> logits (batch, classes).
    """

    def __init__(self, sizes: Sizes, arch: Architecture, elastic: bool = False) -> None:
        super().__init__()
        tools = Toolbox(elastic)
        embed, depth = int(arch["embed"]), int(arch["depth"])
        self.patch_embed = tools.conv2d(sizes.in_channels, embed, sizes.patch, sizes.patch)
        self.tokens = tools.tokens(sizes.n_patches, embed, sizes.position_std)
        self.layers = tools.stack(
            {
                i: Layer(
                    tools,
                    embed,
                    int(arch[f"layers.{i}.heads"]),
                    sizes.head_width,
                    hidden_units(embed, str(arch[f"layers.{i}.ffn"])),
                )
                for i in range(depth)
            }
        )
        self.norm = tools.layer_norm(embed, EPS)
        self.head = tools.linear(embed, sizes.n_classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(self.patch_embed(images).flatten(2).transpose(1, 2))
        x = self.layers(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


# --- the space ----------------------------------------------------------------------------------

#: Two random subnets a step and one update, as BigNAS has it (arXiv:2003.11142).
AS_PUBLISHED = "sandwich:batch_size=64,random_subnets=2,together=4"


class VitSpace(SearchSpace):
    """Embedding width and depth of the network; heads and feed-forward granularity per layer."""

    references = ("hf", "timm")

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
            layers.append(Block(f"layers.{i}", "layer", reads, exists, GROUPS))
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
            default_recipe=(
                "sandwich:epochs=6,apart=32,apart_until=0.6" if preset == "digits" else AS_PUBLISHED
            ),
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

    def slices(self, arch: Architecture) -> dict[str, tuple[Any, ...]]:
        embed, depth = int(arch["embed"]), int(arch["depth"])
        widths: dict[str, tuple[Any, ...]] = {
            "patch_embed": (self.in_channels, embed),
            "tokens": (embed,),
            "layers": tuple(range(depth)),
            "norm": (embed,),
            "head": (embed, self.n_classes),
        }
        for i in range(depth):
            hidden = hidden_units(embed, str(arch[f"layers.{i}.ffn"]))
            heads = int(arch[f"layers.{i}.heads"])
            widths |= Layer.slices(f"layers.{i}", embed, heads, hidden)
        return widths

    def sort(self, network: nn.Module, trained: int = 0) -> tuple[str, ...]:
        """Put heads and hidden units of most weight first, for a start from a plain network.

        The embedding's features stay: an order of them, one for all layers, helped some widths and
        harmed others.
        """
        return () if trained else sort_layers(network)  # no sets of them are kept apart

    def ops(self, kind: str, batch: int, *values: Value) -> list[LayerOp]:
        s = self.sizes
        embed, tokens = int(values[0]), s.n_patches + 1
        rows = batch * tokens
        x = rows * embed
        if kind == "stem":
            pixels = batch * s.in_channels * s.image**2
            shape = (batch, s.in_channels, s.image, s.image, embed, s.patch, s.patch, 0, 1)
            return [
                LayerOp(Op("conv2d", shape), live=pixels + x, extra=embed),
                LayerOp(Op("copy", (rows, embed)), live=2 * x, extra=(tokens + 1) * embed),
            ]
        if kind == "head":
            return [
                LayerOp(Op("layer_norm", (batch, embed)), live=x + batch * embed),
                LayerOp(
                    Op("linear", (batch, embed, s.n_classes)),
                    live=x + batch * s.n_classes,
                    extra=s.n_classes,
                ),
            ]
        hidden = hidden_units(embed, str(values[2]))
        return Layer.ops(batch, tokens, embed, int(values[1]), s.head_width, hidden)

    def describe(self, arch: Architecture) -> str:
        depth = int(arch["depth"])
        heads = "".join(f"{arch[f'layers.{i}.heads']}" for i in range(depth))
        if max(self.sizes.heads) > 9:
            heads = ".".join(f"{arch[f'layers.{i}.heads']}" for i in range(depth))
        ffn = "-".join(str(arch[f"layers.{i}.ffn"]) for i in range(depth))
        return f"e{arch['embed']} d{depth} h{heads} f{ffn}"

    def from_reference(self, kind: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if kind not in self.references:
            return super().from_reference(kind, state)
        return from_vit(kind, state, self.sizes.image // self.sizes.patch)

    def reference_settings(self, kind: str) -> dict[str, object]:
        if kind != "hf":
            return super().reference_settings(kind)
        return {"num_attention_heads": max(self.sizes.heads), "hidden_act": "gelu"}


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

# Their modules -> ours, # for a layer's number. The library `transformers` names a network's
# layers anew since version 5, and stores them under the old names: both are read.
_HF = {
    "embeddings.cls_token": "tokens.cls",
    "embeddings.position_embeddings": "tokens.position",
    "embeddings.patch_embeddings.projection": "patch_embed",
    "layers.#.layernorm_before": "layers.#.norm1",
    "layers.#.attention.q_proj": "layers.#.attention.q",
    "layers.#.attention.k_proj": "layers.#.attention.k",
    "layers.#.attention.v_proj": "layers.#.attention.v",
    "layers.#.attention.o_proj": "layers.#.attention.proj",
    "layers.#.layernorm_after": "layers.#.norm2",
    "layers.#.mlp.fc1": "layers.#.mlp.fc1",
    "layers.#.mlp.fc2": "layers.#.mlp.fc2",
    "encoder.layer.#.layernorm_before": "layers.#.norm1",
    "encoder.layer.#.attention.attention.query": "layers.#.attention.q",
    "encoder.layer.#.attention.attention.key": "layers.#.attention.k",
    "encoder.layer.#.attention.attention.value": "layers.#.attention.v",
    "encoder.layer.#.attention.output.dense": "layers.#.attention.proj",
    "encoder.layer.#.layernorm_after": "layers.#.norm2",
    "encoder.layer.#.intermediate.dense": "layers.#.mlp.fc1",
    "encoder.layer.#.output.dense": "layers.#.mlp.fc2",
    "layernorm": "norm",
    "classifier": "head",
    # heads of pre-training, whose outputs no classifier reads
    "embeddings.mask_token": "",
    "pooler.dense": "",
}
_TIMM = {
    "cls_token": "tokens.cls",
    "pos_embed": "tokens.position",
    "patch_embed.proj": "patch_embed",
    "blocks.#.norm1": "layers.#.norm1",
    "blocks.#.attn.qkv": "layers.#.attention.qkv",
    "blocks.#.attn.proj": "layers.#.attention.proj",
    "blocks.#.norm2": "layers.#.norm2",
    "blocks.#.mlp.fc1": "layers.#.mlp.fc1",
    "blocks.#.mlp.fc2": "layers.#.mlp.fc2",
    "norm": "norm",
    "head": "head",
}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_JOINED = re.compile(r"(layers\.\d+\.attention\.)q\.(weight|bias)")


def from_vit(kind: str, state: Mapping[str, Tensor], side: int) -> dict[str, Tensor]:
    """Weights of a plain vision transformer under this network's names.

    Separate query, key and value are joined to (3, H, D), the layout that timm has too. Learned
    positions of another grid are resampled.

    Args:
        kind: `hf` (ViTModel or ViTForImageClassification) or `timm` (vit_*_patch*).
        state: foreign name -> tensor.
        side: of our grid of patches.

    Raises:
        UsageError: if there is an entry that this network has not, such as a distillation token,
            registers or layer scales: it would compute something else; or if the positions are
            not those of a class token and a square grid.
    """
    table = _HF if kind == "hf" else _TIMM
    mapped = {}
    for theirs, tensor in state.items():
        name = _our_name(theirs.removeprefix("vit.") if kind == "hf" else theirs, table)
        if name is None:
            raise UsageError(
                f"a plain vision transformer with a class token has no {theirs}.",
                "Give weights without distillation, registers or layer scales.",
            )
        if name:
            mapped[name] = tensor
    if "patch_embed.weight" not in mapped:
        raise UsageError(
            f"these are no weights of a {kind} vision transformer (no patch embedding).",
            "Give the state of a whole network.",
        )
    for name in [name for name in mapped if _JOINED.fullmatch(name)]:
        parts = [_JOINED.sub(rf"\1{part}.\2", name) for part in "qkv"]
        if missing := [part for part in parts if part not in mapped]:
            raise UsageError(f"{missing[0]} is missing beside {name}.", "Fetch the file again.")
        joined = torch.cat([mapped.pop(part) for part in parts])
        mapped[_JOINED.sub(r"\1qkv.\2", name)] = joined
    if (position := mapped.get("tokens.position")) is not None:
        old = round((position.shape[1] - 1) ** 0.5)
        if old < 1 or old**2 != position.shape[1] - 1:
            raise UsageError(
                f"{position.shape[1]} positions are no class token's and a square grid's.",
                "Give weights with a class token, without registers, of square images.",
            )
        if old != side:
            mapped["tokens.position"] = resample_positions(position, side)
    return mapped


def _our_name(theirs: str, table: Mapping[str, str]) -> str | None:
    """Our name of an entry; "" if we need it not, None if it is unknown."""
    number = _NUMBER.search(theirs)
    general = _NUMBER.sub("#", theirs, count=1)
    module, _, entry = general.rpartition(".")
    if entry in ("weight", "bias") and module in table:
        ours = table[module] and f"{table[module]}.{entry}"
    elif general in table:
        ours = table[general]
    else:
        return None
    return ours.replace("#", number[0]) if number else ours
