"""LightHuBERT space: a HuBERT speech encoder of elastic width, depth, heads and feed-forward.

Papers: HuBERT, arXiv:2106.07447 (network); LightHuBERT, arXiv:2203.15610 (space and sharing).

Fixed convolutions turn a waveform into frames, which are projected to the embedding width (one for
the whole network), told their place by a grouped convolution, and pass post-norm transformer
layers: norm(x + attention(x)), norm(x + feed-forward(x)). The states of the last layer are what is
learned from a teacher; for labelled data their mean over the frames goes to a linear head.

Weights are shared as published, which is not always a plain prefix:

- The position convolution keeps its number of groups, so that its first channels are regrouped at
  another width, and its weight norm is that of the full tensor, taken before slicing. A plain
  network has the resulting weight, folded.
- Hidden units lie in rows of the largest width; a narrower network uses the start of each row.
- Of twelve layers, a network of ten leaves out the eighth and the last.

The published small supernet is a tensor of base's sizes (768 wide) of which at most 512 are used;
ours holds what its largest network needs, and reference weights are cut to that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw_profiles.errors import UsageError
from hw_profiles.op import Op
from search_spaces.choices import Choice, ChoiceSet, Condition, Value
from search_spaces.elastic import (
    Elastic,
    ElasticLinear,
    Supernet,
    Toolbox,
    sort_heads,
    sort_units,
    within,
)
from search_spaces.space import Architecture, Block, LayerOp, SearchSpace, register_space
from search_spaces.transformer import attention_ops, mlp_ops, norm_op

# --- sizes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sizes:
    """A preset: the values of each choice, and what is fixed.

    Attributes:
        ratios: hidden units of a feed-forward layer as a multiple of the embedding width.
        convs: (channels, kernel, stride) of each convolution of the extractor.
        position: (kernel, groups) of the position convolution.
        samples: of a waveform.
        kept: depth -> layers that run, where these are not the first ones.
        init_std: of the initial linear weights of the layers; 0.02 as published. Narrow layers
            need more.
    """

    embed: tuple[int, ...]
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[float, ...]
    head_width: int
    convs: tuple[tuple[int, int, int], ...]
    position: tuple[int, int]
    samples: int
    n_classes: int
    kept: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    init_std: float = 0.02

    @property
    def lengths(self) -> tuple[int, ...]:
        """Samples of a waveform, and frames after each convolution."""
        lengths = [self.samples]
        for _, kernel, stride in self.convs:
            lengths.append((lengths[-1] - kernel) // stride + 1)
        return tuple(lengths)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of a waveform, and after each convolution."""
        return (1, *(channels for channels, _, _ in self.convs))

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layers that run at a depth, as indices in the largest network."""
        return self.kept.get(depth, tuple(range(depth)))


_HUBERT = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)  # 50 frames a second at 16 kHz

PRESETS: dict[str, Sizes] = {
    # 0.2 s at 8 kHz, 20 frames; the published shape, scaled down. Only one convolution, without
    # overlap, for all subnets share it: with one of twice the length, or with two, narrow
    # subnets come too near to wide ones, and shallow ones to deep ones.
    "vowels": Sizes(
        (3, 6, 12, 24), (1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 4), 8,
        ((32, 80, 80),), (4, 3), 1600, 10, init_std=0.1,
    ),
    # 1 s at 16 kHz; the twelve classes of Speech Commands as SUPERB has them
    "base": Sizes(
        (512, 640, 768), (12,), (8, 10, 12), (3.5, 4), 64, _HUBERT, (128, 16), 16000, 12,
    ),
    "small": Sizes(
        (256, 384, 512), (10, 11, 12), (4, 6, 8), (3, 3.5, 4), 64, _HUBERT, (128, 16), 16000, 12,
        kept={10: (0, 1, 2, 3, 4, 5, 6, 8, 9, 10)},
    ),
}  # fmt: skip


def hidden_units(embed: int, ratio: Value) -> int:
    """Feed-forward hidden units at an embedding width and a ratio."""
    return int(float(ratio) * embed)


# --- what is elastic in its own way -------------------------------------------------------------


class ElasticPositionConv(Elastic, nn.Conv1d):
    """A weight-normed convolution with a fixed number of groups, run on the first channels.

    The weight is `gain * weight / |weight|`, where the norm is over channels, one for each place
    in the kernel. It is taken of the FULL weight, whichever channels are active. With the groups
    fixed, the groups of a narrower network have fewer channels: others than in the largest.

    Args:
        width: channels of the largest, in and out.
        kernel: size; padded by half of it, so that an even one gives a frame too many.
        groups: at every width.
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        nn.Conv1d.__init__(self, width, width, kernel, padding=kernel // 2, groups=groups)
        self.gain = nn.Parameter(self.weight.detach().norm(dim=(0, 1), keepdim=True))
        self.active_width = width

    def activate(self, width: int) -> None:
        """Run on this many channels, a multiple of the groups."""
        self.active_width = within(width, self.in_channels, "width")
        if width % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {width} channels")

    def active_state(self) -> dict[str, Tensor]:
        """The normed slices: weight (width, width / groups, kernel) and bias (width,)."""
        assert self.bias is not None
        width, each = self.active_width, self.active_width // self.groups
        scale = self.gain / self.weight.norm(dim=(0, 1), keepdim=True)
        return {"weight": self.weight[:width, :each] * scale, "bias": self.bias[:width]}

    def forward(self, x: Tensor) -> Tensor:
        """(batch, active width, frames) -> (batch, active width, frames or one more)."""
        state = self.active_state()
        return F.conv1d(x, state["weight"], state["bias"], padding=self.padding, groups=self.groups)


class ElasticHidden(ElasticLinear):
    """The linear layer before or after the hidden units, which lie in rows of the largest width.

    At an active width, the start of each row is used: units 0 to width of the first row, then of
    the second, until there are as many as asked for.

    Args:
        embed: width of the largest.
        hidden: units of the largest.
        before: whether the units are this layer's outputs; else they are its inputs.
    """

    def __init__(self, embed: int, hidden: int, before: bool) -> None:
        super().__init__(*((embed, hidden) if before else (hidden, embed)))
        self.before = before

    def active_state(self) -> dict[str, Tensor]:
        """The active slices: weight (out, in) and bias (out,)."""
        assert self.bias is not None
        (inputs,), (outputs,) = self.active_in, self.active_out
        if self.before:
            rows = (self.in_features, inputs, outputs)
            weight = _units(self.weight[:, :inputs], 0, *rows)
            return {"weight": weight, "bias": _units(self.bias, 0, *rows)}
        weight = _units(self.weight[:outputs], 1, self.out_features, outputs, inputs)
        return {"weight": weight, "bias": self.bias[:outputs]}


def _units(tensor: Tensor, dim: int, row: int, width: int, count: int) -> Tensor:
    """The first `count` of the units that start each row, `width` of them, along a dimension."""
    if width == row:
        return tensor.narrow(dim, 0, count)
    taken = range(0, count, width)
    parts = [tensor.narrow(dim, i * row, min(width, count - t)) for i, t in enumerate(taken)]
    return torch.cat(parts, dim)


# --- the network --------------------------------------------------------------------------------


class ConvLayer(nn.Module):
    """One convolution of the extractor, with a layer norm over its channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, bias=False)
        self.norm = nn.LayerNorm(outputs)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, inputs) -> (batch, frames, outputs)."""
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(self.norm(x))


class Features(nn.Module):
    """From a waveform to the frames that the layers take."""

    def __init__(self, tools: Toolbox, sizes: Sizes, embed: int) -> None:
        super().__init__()
        kernel, groups = sizes.position
        self.convs = nn.Sequential(
            *(
                ConvLayer(inputs, *conv)
                for inputs, conv in zip(sizes.channels, sizes.convs, strict=False)
            )
        )
        self.norm = nn.LayerNorm(sizes.channels[-1])
        self.projection = tools.linear(sizes.channels[-1], embed)
        self.masked = tools.embedding(1, embed)
        self.position: nn.Conv1d = (
            ElasticPositionConv(embed, kernel, groups)
            if tools.elastic
            else nn.Conv1d(embed, embed, kernel, padding=kernel // 2, groups=groups)
        )
        self.position_norm = tools.layer_norm(embed)
        nn.init.uniform_(self.masked.weight)
        nn.init.normal_(self.position.weight, std=2 / math.sqrt(kernel * embed))
        nn.init.zeros_(self.position.bias)  # type: ignore[arg-type]  # there is one
        if isinstance(self.position, ElasticPositionConv):
            with torch.no_grad():
                self.position.gain.copy_(self.position.weight.norm(dim=(0, 1), keepdim=True))

    def forward(self, waveforms: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, samples) -> (batch, frames, embed)."""
        x = self.projection(self.norm(self.convs(waveforms.unsqueeze(-1))))
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.masked(torch.zeros_like(mask).long()), x)
        position = self.position(x.transpose(1, 2))[..., : x.shape[1]]
        out: Tensor = self.position_norm(x + F.gelu(position).transpose(1, 2))
        return out


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(
        self, tools: Toolbox, embed: int, heads: int, head_width: int, hidden: int
    ) -> None:
        super().__init__()
        self.attention = tools.attention(embed, heads, head_width)
        self.attention_norm = tools.layer_norm(embed)
        if tools.elastic:
            self.fc1: nn.Linear = ElasticHidden(embed, hidden, before=True)
            self.fc2: nn.Linear = ElasticHidden(embed, hidden, before=False)
        else:
            self.fc1, self.fc2 = nn.Linear(embed, hidden), nn.Linear(hidden, embed)
        self.norm = tools.layer_norm(embed)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, embed) -> the same."""
        x = self.attention_norm(x + self.attention(x))
        out: Tensor = self.norm(x + self.fc2(F.gelu(self.fc1(x))))
        return out


class Hubert(nn.Module):
    """The network of one architecture, plain, or of the largest with elastic layers.

    Shapes: waveforms (batch, samples) -> logits (batch, classes).
    """

    def __init__(self, sizes: Sizes, arch: Architecture, elastic: bool = False) -> None:
        super().__init__()
        tools = Toolbox(elastic)
        embed = int(arch["embed"])
        self.features = Features(tools, sizes, embed)
        self.layers = tools.stack(
            {
                i: Layer(
                    tools,
                    embed,
                    int(arch[f"layers.{i}.heads"]),
                    sizes.head_width,
                    hidden_units(embed, arch[f"layers.{i}.ffn"]),
                )
                for i in sizes.layers(int(arch["depth"]))
            }
        )
        self.head = tools.linear(embed, sizes.n_classes)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=sizes.init_std)
                nn.init.zeros_(module.bias)

    def states(self, waveforms: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the last layer makes of each frame.

        Args:
            waveforms: (batch, samples).
            mask: bool (batch, frames): frames that a learned vector takes the place of, after the
                projection, as in masked prediction.

        Returns:
            (batch, frames, embed).
        """
        out: Tensor = self.layers(self.features(waveforms, mask))
        return out

    def forward(self, waveforms: Tensor) -> Tensor:
        logits: Tensor = self.head(self.states(waveforms).mean(1))
        return logits


# --- the space ----------------------------------------------------------------------------------


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
                uses[_units(places, 0, embed, width, hidden_units(width, ratio))] += 1
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
        mapped = _renamed(state, kind)
        width = mapped["features.projection.weight"].shape[0]
        if kind == "hf" or width <= max(self.sizes.embed):
            return mapped
        return self._cut(mapped, width)

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


_GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("attention.qkv",),
    "out": ("attention.proj",),
    "fc1": ("fc1",),
    "fc2": ("fc2",),
}


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


# --- reference weights --------------------------------------------------------------------------

# Where an entry is in each kind of weights.
_COLUMNS = {"hf": 0, "lighthubert": 1}
_CONVS = {"conv": ("conv", "0"), "norm": ("layer_norm", "2.1")}
_FEATURES = {
    "norm": ("feature_projection.layer_norm", "layer_norm"),
    "projection": ("feature_projection.projection", "post_extract_proj"),
    "position_norm": ("encoder.layer_norm", "encoder.layer_norm"),
}
_POSITION = ("encoder.pos_conv_embed.conv", "encoder.pos_conv.0")
_MASKED = ("masked_spec_embed", "mask_emb")
_ATTENTION = ("attention", "self_attn")
_LAYER = {
    "attention_norm": ("layer_norm", "self_attn_layer_norm"),
    "fc1": ("feed_forward.intermediate_dense", "fc1"),
    "fc2": ("feed_forward.output_dense", "fc2"),
    "norm": ("final_layer_norm", "final_layer_norm"),
}
_NORMED = (  # gain and direction of a weight norm, in older and newer versions of torch
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
_INNER = ("attention.proj", "fc2")
_FIXED = ("features.convs.", "features.norm.")


def _renamed(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Weights of another HuBERT under this network's names, in float32.

    Query, key and value are joined to (3, heads, head width); the position convolution's weight is
    given as normed, with its own norm as the gain, so that it fits a plain network and a supernet.
    Prediction heads and label tables are left out, and so are the norms of an extractor that has
    one group norm instead of a layer norm in each convolution.

    Args:
        state: of `transformers` HubertModel (`hf`; a `hubert.` before each name may be there) or
            of the published LightHuBERT supernets (`lighthubert`).
        kind: one of these.

    Raises:
        UsageError: if an entry that the network needs is missing, or it is a pre-norm network.
    """
    column = _COLUMNS[kind]
    theirs = {name.removeprefix("hubert."): value for name, value in state.items()}
    names: dict[str, str] = {f"features.{ours}": them[column] for ours, them in _FEATURES.items()}
    mapped: dict[str, Tensor] = {}
    convs, depth = _count(theirs, "feature_extractor.conv_layers"), _count(theirs, "encoder.layers")
    layer_normed = f"feature_extractor.conv_layers.1.{_CONVS['norm'][column]}.weight" in theirs
    hint = "Give the state of a post-norm transformers HubertModel, or of a LightHuBERT supernet."
    try:
        for i in range(convs):
            old, new = f"feature_extractor.conv_layers.{i}", f"features.convs.{i}"
            if f"{old}.{_CONVS['conv'][column]}.bias" in theirs:
                raise UsageError("convolutions with biases belong to a pre-norm HuBERT.", hint)
            mapped[f"{new}.conv.weight"] = theirs[f"{old}.{_CONVS['conv'][column]}.weight"]
            if layer_normed:
                names[f"{new}.norm"] = f"{old}.{_CONVS['norm'][column]}"
        for i in range(depth):
            old, new = f"encoder.layers.{i}", f"layers.{i}"
            attention = f"{old}.{_ATTENTION[column]}"
            for part in ("weight", "bias"):
                qkv = [theirs[f"{attention}.{p}_proj.{part}"] for p in ("q", "k", "v")]
                mapped[f"{new}.attention.qkv.{part}"] = torch.cat(qkv)
            names[f"{new}.attention.proj"] = f"{attention}.out_proj"
            names |= {f"{new}.{ours}": f"{old}.{them[column]}" for ours, them in _LAYER.items()}
        for ours, them in names.items():
            for part in ("weight", "bias"):
                mapped[f"{ours}.{part}"] = theirs[f"{them}.{part}"]
        position = _POSITION[column]
        newer = f"{position}.{_NORMED[1][0]}" in theirs
        gain, direction = (theirs[f"{position}.{part}"].float() for part in _NORMED[newer])
        weight = direction * (gain / direction.norm(dim=(0, 1), keepdim=True))
        mapped["features.position.weight"] = weight
        mapped["features.position.gain"] = weight.norm(dim=(0, 1), keepdim=True)
        mapped["features.position.bias"] = theirs[f"{position}.bias"]
    except KeyError as error:
        raise UsageError(
            f"these are no {kind} weights of a HuBERT ({error.args[0]} is missing).", hint
        ) from None
    if _MASKED[column] in theirs:
        mapped["features.masked.weight"] = theirs[_MASKED[column]].unsqueeze(0)
    return {name: value.float() for name, value in mapped.items()}


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Entries of a numbered list."""
    found = [name[len(prefix) + 1 :].split(".")[0] for name in state if name.startswith(prefix)]
    return 1 + max(map(int, found), default=-1)
