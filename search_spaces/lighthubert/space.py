"""The LightHuBERT space: choices, slices, ops, and weights of other HuBERTs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hw_profiles.errors import UsageError
from hw_profiles.op import Op
from search_spaces.choices import Choice, ChoiceSet, Condition, Value
from search_spaces.elastic import Elastic, Supernet, sort_heads, sort_units
from search_spaces.lighthubert.network import Hubert, Layer, leading_units
from search_spaces.lighthubert.reference import renamed
from search_spaces.lighthubert.sizes import PRESETS, Sizes, hidden_units
from search_spaces.space import Architecture, Block, LayerOp, SearchSpace, register_space
from search_spaces.transformer import attention_ops, mlp_ops, norm_op

_GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("attention.qkv",),
    "out": ("attention.proj",),
    "fc1": ("fc1",),
    "fc2": ("fc2",),
}
#: Layers whose inputs are the inner width of attention and the hidden units.
_INNER = ("attention.proj", "fc2")
#: What no architecture slices.
_FIXED = ("features.convs.", "features.norm.")


class LightHubertSpace(SearchSpace):
    """Embedding width and depth of the network; heads and feed-forward ratio per layer."""

    references = ("hf", "lighthubert")
    ordered = frozenset({"lighthubert"})

    def __init__(self, preset: str, sizes: Sizes) -> None:
        choices = [Choice("embed", sizes.embed), Choice("depth", sizes.depth)]
        layers = []
        for i in range(max(sizes.depth)):
            depths = frozenset(d for d in sizes.depth if i in sizes.layers(d))
            exists = None if len(depths) == len(sizes.depth) else Condition("depth", depths)
            choices += [
                Choice(f"layers.{i}.heads", sizes.heads, exists),
                Choice(f"layers.{i}.ffn", sizes.ratios, exists),
            ]
            reads = ("embed", f"layers.{i}.heads", f"layers.{i}.ffn")
            layers.append(Block(f"layers.{i}", "layer", reads, exists, _GROUPS))
        features = {"projection": ("projection",)}
        super().__init__(
            "lighthubert",
            preset,
            ChoiceSet(tuple(choices)),
            (
                Block("features", "features", ("embed",), None, features),
                *layers,
                Block("head", "head", ("embed",), None, {}),
            ),
            (sizes.samples,),
            sizes.n_classes,
            default_data="vowels" if preset == "vowels" else "",
            input_kind="waveform",
            default_recipe="sandwich:epochs=8,random_subnets=6"
            if preset == "vowels"
            else "two-stage-distillation",
        )
        self.sizes = sizes

    def build(self, arch: Architecture) -> nn.Module:
        self.choices.encode(arch)
        return Hubert(self.sizes, arch)

    def supernet(self, seed: int = 0) -> Supernet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Hubert(self.sizes, self.largest(), elastic=True)
        return Supernet(self, network)

    def slices(self, arch: Architecture) -> dict[str, tuple[Any, ...]]:
        embed, kept = int(arch["embed"]), self.sizes.layers(int(arch["depth"]))
        widths: dict[str, tuple[Any, ...]] = {
            "features.projection": (self.sizes.channels[-1], embed),
            "features.masked": (embed,),
            "features.position": (embed,),
            "features.position_norm": (embed,),
            "layers": kept,
            "head": (embed, self.n_classes),
        }
        for i in kept:
            hidden = hidden_units(embed, arch[f"layers.{i}.ffn"])
            widths |= {
                f"layers.{i}.attention": (embed, int(arch[f"layers.{i}.heads"])),
                f"layers.{i}.attention_norm": (embed,),
                f"layers.{i}.fc1": (embed, hidden),
                f"layers.{i}.fc2": (hidden, embed),
                f"layers.{i}.norm": (embed,),
            }
        return widths

    def ops(self, kind: str, batch: int, *values: Value) -> list[LayerOp]:
        embed, frames = int(values[0]), self.sizes.lengths[-1]
        rows = batch * frames
        x = rows * embed
        if kind == "features":
            return self._features(batch, embed)
        if kind == "head":
            n = self.n_classes
            return [  # a mean over frames reads what a copy reads
                LayerOp(Op("copy", (rows, embed)), live=x + batch * embed),
                LayerOp(Op("linear", (batch, embed, n)), live=batch * (embed + n), extra=n),
            ]
        heads, head_width = int(values[1]), self.sizes.head_width
        norm = norm_op(rows, embed)
        return [
            *attention_ops(batch, frames, embed, heads, head_width, out="out"),
            norm,
            *mlp_ops(rows, embed, hidden_units(embed, values[2])),
            norm,
        ]

    def _features(self, batch: int, embed: int) -> list[LayerOp]:
        """Convolutions run on channels first, norms on channels last: copies turn one to other."""
        s, found = self.sizes, []
        for i, (length, frames) in enumerate(pairwise(s.lengths)):
            inputs, (outputs, kernel, stride) = s.channels[i], s.convs[i]
            before, shape = batch * length * inputs, (batch * frames, outputs)
            size = math.prod(shape)
            if i:  # a waveform's one channel need not be turned
                found.append(LayerOp(Op("copy", (batch * length, inputs)), live=2 * before))
            conv = Op("conv1d", (batch, inputs, length, outputs, kernel, stride, 0, 1))
            found += [
                LayerOp(conv, live=before + size),
                LayerOp(Op("copy", shape), live=2 * size),
                LayerOp(Op("layer_norm", shape), live=2 * size),
                LayerOp(Op("gelu", shape), live=2 * size),
            ]
        rows, last = batch * s.lengths[-1], s.channels[-1]
        x, turn = rows * embed, Op("copy", (rows, embed))
        kernel, groups = s.position
        place = (batch, embed, s.lengths[-1], embed, kernel, 1, kernel // 2, groups)
        return [
            *found,
            LayerOp(Op("layer_norm", (rows, last)), live=2 * rows * last),
            # the vector for masked frames is the projection's to account for: it runs nowhere
            LayerOp(
                Op("linear", (rows, last, embed)),
                "projection",
                live=rows * last + x,
                extra=2 * embed,
            ),
            LayerOp(turn, live=2 * x),
            LayerOp(Op("conv1d", place), live=3 * x + batch * embed, extra=embed),
            LayerOp(Op("gelu", (rows, embed)), live=3 * x),
            LayerOp(turn, live=3 * x),
            LayerOp(Op("add", (rows, embed)), live=3 * x),
            LayerOp(Op("layer_norm", (rows, embed)), live=2 * x),
        ]

    def describe(self, arch: Architecture) -> str:
        """Heads of each layer as a hexadecimal digit; ratios likewise, where `3+` is 3.5."""
        kept = self.sizes.layers(int(arch["depth"]))
        heads = "".join(f"{arch[f'layers.{i}.heads']:X}" for i in kept)
        ratios = [float(arch[f"layers.{i}.ffn"]) for i in kept]
        ffn = "".join(f"{int(r)}{'+' if r % 1 else ''}" for r in ratios)
        return f"e{arch['embed']} d{arch['depth']} h{heads} f{ffn}"

    def sort(self, network: nn.Module, trained: int = 0) -> tuple[str, ...]:
        """Put heads and hidden units of most weight where most subnets use them.

        Importance is the sum of absolute weights into and out of a head or unit, biases included.
        The embedding's features stay: the groups of the position convolution hold them in place.
        """
        if trained:  # heads and units have no sets that are kept apart
            return ()
        s = self.sizes
        embed = max(s.embed)
        places = torch.arange(hidden_units(embed, max(s.ratios)))
        # how many (width, ratio) use each place
        uses = torch.zeros(len(places))
        for width in s.embed:
            for ratio in s.ratios:
                uses[leading_units(places, 0, embed, width, hidden_units(width, ratio))] += 1
        places = uses.argsort(descending=True, stable=True)
        done = []
        for i in s.layers(max(s.depth)):
            layer = network.get_submodule(f"layers.{i}")
            assert isinstance(layer, Layer)
            sort_heads(layer.attention)
            sort_units([layer.fc1], layer.fc2, places)
            done += [f"layers.{i}.heads", f"layers.{i}.ffn"]
        return tuple(done)

    def from_reference(self, kind: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if kind not in self.references:
            return super().from_reference(kind, state)
        mapped = renamed(state, kind)
        width = mapped["features.projection.weight"].shape[0]
        if kind == "hf" or width <= max(self.sizes.embed):
            return mapped
        return self._cut(mapped, width)

    def reference_settings(self, kind: str) -> dict[str, object]:
        if kind != "hf":
            return super().reference_settings(kind)
        return {
            "num_attention_heads": max(self.sizes.heads),
            "hidden_act": "gelu",
            "feat_extract_activation": "gelu",
            "do_stable_layer_norm": False,
            "conv_stride": [stride for _, _, stride in self.sizes.convs],
        }

    def _cut(self, state: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
        """What our largest network needs of a supernet that is held in wider tensors."""
        inner, hidden = (state[f"layers.0.{name}.weight"].shape[1] for name in _INNER)
        wide = replace(
            self.sizes,
            embed=(width,),
            heads=(inner // self.sizes.head_width,),
            ratios=(hidden / width,),
        )
        with torch.device("meta"):
            network = Hubert(wide, LightHubertSpace(self.preset, wide).largest(), elastic=True)
        expected = {name: value.shape for name, value in network.state_dict().items()}
        fits = {k: v for k, v in state.items() if expected.get(k) == v.shape}
        network.load_state_dict(fits, strict=False, assign=True)
        Supernet(self, network).activate(self.largest())
        cut = {name: value for name, value in fits.items() if name.startswith(_FIXED)}
        cut |= {
            f"{name}.{key}": value.detach()
            for name, module in network.named_modules()
            if isinstance(module, Elastic)
            for key, value in module.active_state().items()
        }
        weight = cut["features.position.weight"]
        cut["features.position.gain"] = weight.norm(dim=(0, 1), keepdim=True)
        return {name: value.contiguous() for name, value in cut.items() if not value.is_meta}


@register_space("lighthubert", tuple(PRESETS), "HuBERT speech encoder, LightHuBERT's supernets")
def lighthubert(
    preset: str, n_classes: int | None = None, in_channels: int | None = None
) -> LightHubertSpace:
    """The space at a preset, fitted to the data's classes.

    Raises:
        UsageError: if the data has several channels.
    """
    if in_channels not in (None, 1):
        raise UsageError(
            f"lighthubert takes waveforms of one channel, not {in_channels}.", "Mix them down."
        )
    sizes = PRESETS[preset]
    return LightHubertSpace(preset, replace(sizes, n_classes=n_classes or sizes.n_classes))
