"""MatFormer language-model space: a Llama-style decoder with nested feed-forward layers.

Papers: MatFormer, arXiv:2310.07707 (the first 1/8, 1/4, 1/2 or all of the hidden units, chosen
per layer; depth, attention, norms and embeddings are shared by all); Llama, arXiv:2302.13971
(network); gated feed-forward, arXiv:2002.05202; rotary positions, arXiv:2104.09864; grouped-query
attention, arXiv:2305.13245.

Sizes: `1b` is Llama 3.2 1B, which devvrit/matformer trains at 512 tokens. `180m` and `460m` keep
the width, layers, heads, single key-value head, 8-fold feed-forward, tied table of 50,304 tokens
and context of RAIVNLab/MatFormer-OLMo's training commands of those names. Their network differs:
theirs has ALiBi, layer norms, biases and an ungated GELU, so that parameters differ too.

The network is pre-norm: x + attention(norm(x)), x + mlp(norm(x)), norm, head; no biases, causal.
Plain network and supernet are the same code. Its gate is Llama's, silu(gate) * up, where
devvrit/matformer has silu(gate * up).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw_profiles.errors import UsageError
from hw_profiles.op import Op
from search_spaces.choices import Choice, ChoiceSet, Value
from search_spaces.elastic import Supernet, Toolbox, sort_units
from search_spaces.space import Architecture, Block, LayerOp, SearchSpace, register_space

# --- sizes --------------------------------------------------------------------------------------

#: granularity -> one over its share of the hidden units
GRANULARITY: dict[str, int] = {"S": 8, "M": 4, "L": 2, "XL": 1}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Llama 3's scaling of rotary frequencies, to contexts longer than it was trained on.

    Attributes:
        factor: by which slow rotations are slowed down.
        slow: rotations within the original context; what turns less often is slow.
        fast: what turns more often than this is left alone; in between is interpolated.
        original: context of the original training, in tokens.
    """

    factor: float = 32.0
    slow: float = 1.0
    fast: float = 4.0
    original: int = 8192


@dataclass(frozen=True, slots=True)
class Sizes:
    """A preset; only the share of the `hidden` units is chosen.

    Raises:
        UsageError: if a size is no positive integer (a ratio times a width easily is not), or
            the shares of the hidden units, the heads or the rotary pairs do not come out even.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    length: int
    tied: bool = True
    theta: float = 10_000.0
    stretch: Stretch | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for field in fields(self)[:8]:
            size = getattr(self, field.name)
            if not isinstance(size, int) or size < 1:
                raise UsageError(f"{field.name} of {size!r} is no size.", "Give whole numbers.")
        for what, size, divisor in (
            ("hidden", self.hidden, max(GRANULARITY.values())),
            ("heads", self.heads, self.kv_heads),
            ("head_width", self.head_width, 2),
        ):
            if size % divisor:
                raise UsageError(
                    f"{what} of {size} does not divide by {divisor}.", f"Give another {what}."
                )

    def units(self, granularity: str) -> int:
        """Feed-forward hidden units at a granularity."""
        return self.hidden // GRANULARITY[granularity]


PRESETS: dict[str, Sizes] = {
    # Layers so thin that granularities differ by more than chance moves one that is trained alone.
    "pydoc": Sizes(256, 48, 6, 3, 1, 16, 4 * 48, 128),
    "180m": Sizes(50_304, 512, 8, 16, 1, 32, 8 * 512, 2048),
    "460m": Sizes(50_304, 1024, 8, 16, 1, 64, 8 * 1024, 2048),
    "1b": Sizes(128_256, 2048, 16, 32, 8, 64, 8192, 512, theta=500_000.0, stretch=Stretch()),
}


# --- the network --------------------------------------------------------------------------------


def rotations(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, (length, head width / 2) each."""
    steps = torch.arange(0, sizes.head_width, 2, dtype=torch.float64) / sizes.head_width
    speed = sizes.theta**-steps  # radians from one token to the next
    if (s := sizes.stretch) is not None:
        turns = s.original * speed / (2 * math.pi)
        kept = ((turns - s.slow) / (s.fast - s.slow)).clamp(0, 1)
        speed = speed * (kept + (1 - kept) / s.factor)
    angles = torch.outer(torch.arange(sizes.length, dtype=torch.float64), speed)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each feature of the first half with its partner in the second.

    Args:
        x: (batch, heads, length, head width).
        cos: (length, head width / 2).
        sin: the same.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Causal self-attention; several query heads may share a key and a value."""

    def __init__(self, tools: Toolbox, sizes: Sizes) -> None:
        super().__init__()
        self.head_width = sizes.head_width
        self.shared = sizes.kv_heads != sizes.heads
        inner, kv = sizes.heads * sizes.head_width, sizes.kv_heads * sizes.head_width
        self.q = tools.linear(sizes.width, inner, bias=False)
        self.k = tools.linear(sizes.width, kv, bias=False)
        self.v = tools.linear(sizes.width, kv, bias=False)
        self.o = tools.linear(inner, sizes.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(batch, length, width) -> the same."""
        q, k, v = (
            linear(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for linear in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=self.shared
        )
        out: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Gated feed-forward layer; a smaller granularity is a prefix of the hidden units."""

    def __init__(self, tools: Toolbox, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = tools.linear(width, hidden, bias=False)
        self.up = tools.linear(width, hidden, bias=False)
        self.down = tools.linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) -> the same."""
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, tools: Toolbox, sizes: Sizes, hidden: int) -> None:
        super().__init__()
        self.norm1 = tools.rms_norm(sizes.width, sizes.eps)
        self.attention = Attention(tools, sizes)
        self.norm2 = tools.rms_norm(sizes.width, sizes.eps)
        self.mlp = Mlp(tools, sizes.width, hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(batch, length, width) -> the same."""
        x = x + self.attention(self.norm1(x), cos, sin)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class LanguageModel(nn.Module):
    """The network of one architecture, plain, or of the largest with elastic layers.

    A tied head has no module and no entry in the state: it reads the embedding's weight, so that
    the weight is stored, copied and counted once.

    Shapes: tokens (batch, length) int64 -> logits of each next token (batch, length, vocabulary).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, sizes: Sizes, arch: Architecture, elastic: bool = False) -> None:
        super().__init__()
        tools = Toolbox(elastic)
        self.embed = tools.embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(
            Layer(tools, sizes, sizes.units(str(arch[f"layers.{i}.ffn"])))
            for i in range(sizes.layers)
        )
        self.norm = tools.rms_norm(sizes.width, sizes.eps)
        self.head = None if sizes.tied else tools.linear(sizes.width, sizes.vocabulary, bias=False)
        cos, sin = rotations(sizes)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Each layer keeps the spread of its input, and all branches together add about as much
        as one of them would (GPT-2's scaling by depth). The head's logits begin near 1."""
        nn.init.normal_(self.embed.weight, std=self.embed.embedding_dim**-0.5)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                branch_end = name.endswith((".o", ".down"))
                branches = 2 * len(self.layers) if branch_end else 1
                nn.init.trunc_normal_(module.weight, std=(module.in_features * branches) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > len(self.cos):
            raise UsageError(
                f"{length} tokens are more than the context of {len(self.cos)}.",
                "Cut the text into windows.",
            )
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        x = self.norm(x)
        logits: Tensor = F.linear(x, self.embed.weight) if self.head is None else self.head(x)
        return logits


# --- the space ----------------------------------------------------------------------------------


class MatlmSpace(SearchSpace):
    """The feed-forward granularity of each layer; all else is fixed."""

    references = ("hf",)

    def __init__(self, preset: str, sizes: Sizes) -> None:
        names = [f"layers.{i}" for i in range(sizes.layers)]
        super().__init__(
            "matlm",
            preset,
            ChoiceSet(tuple(Choice(f"{name}.ffn", tuple(GRANULARITY)) for name in names)),
            (
                Block("embed", "embed", (), None, {}),
                *(Block(name, "layer", (f"{name}.ffn",), None, _GROUPS) for name in names),
                Block("head", "head", (), None, {}),
            ),
            (sizes.length,),
            sizes.vocabulary,
            default_data="pydoc" if preset == "pydoc" else "",
            input_kind="tokens",
            default_recipe=(
                "sandwich:epochs=3,random_subnets=6,apart=32" if preset == "pydoc" else "matformer"
            ),
        )
        self.sizes = sizes

    def build(self, arch: Architecture) -> nn.Module:
        self.choices.encode(arch)
        return LanguageModel(self.sizes, arch)

    def supernet(self, seed: int = 0) -> Supernet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = LanguageModel(self.sizes, self.largest(), elastic=True)
        return Supernet(self, network)

    def slices(self, arch: Architecture) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}
        for i in range(self.sizes.layers):
            units = self.sizes.units(str(arch[f"layers.{i}.ffn"]))
            found |= {
                f"layers.{i}.mlp.gate": (self.sizes.width, units),
                f"layers.{i}.mlp.up": (self.sizes.width, units),
                f"layers.{i}.mlp.down": (units, self.sizes.width),
            }
        return found

    def sort(self, network: nn.Module, trained: int = 0) -> tuple[str, ...]:
        """Put hidden units of most weight first, for a start from a plain network."""
        if trained:  # units have no sets that are kept apart
            return ()
        done = []
        for name, layer in network.named_modules():
            if isinstance(layer, Mlp):
                sort_units([layer.gate, layer.up], layer.down)
                done.append(f"{name} hidden units")
        return tuple(done)

    def ops(self, kind: str, batch: int, *values: Value) -> list[LayerOp]:
        s = self.sizes
        rows = batch * s.length
        x = rows * s.width
        if kind == "embed":
            return [LayerOp(Op("embedding", (rows, s.vocabulary, s.width)), live=rows + x)]
        if kind == "head":
            shape = (rows, s.width, s.vocabulary)
            return [
                LayerOp(Op("rms_norm", (rows, s.width)), live=2 * x),
                LayerOp(
                    Op("linear", shape),
                    live=x + rows * s.vocabulary,
                    extra=-s.width * s.vocabulary if s.tied else 0,  # the embedding's weight
                ),
            ]
        inner, kv = s.heads * s.head_width, s.kv_heads * s.head_width
        hidden = s.units(str(values[0]))
        q_live, kv_live, h = rows * inner, rows * kv, rows * hidden

        def linear(group: str, k: int, n: int, live: int) -> LayerOp:
            return LayerOp(Op("linear", (rows, k, n)), group, live)

        return [  # the residual x is held all the way
            LayerOp(Op("rms_norm", (rows, s.width)), live=2 * x),
            linear("qkv", s.width, inner, 2 * x + q_live),
            linear("qkv", s.width, kv, 2 * x + q_live + kv_live),
            linear("qkv", s.width, kv, 2 * x + q_live + 2 * kv_live),
            LayerOp(Op("rotary", (rows, inner)), live=x + 2 * q_live + 2 * kv_live),
            LayerOp(Op("rotary", (rows, kv)), live=x + q_live + 3 * kv_live),
            LayerOp(  # runtimes repeat shared keys and values for each head
                Op("attention", (batch, s.heads, s.length, s.length, s.head_width)),
                live=x + 4 * q_live + 2 * batch * s.heads * s.length**2,
            ),
            linear("o", inner, s.width, 2 * x + q_live),
            LayerOp(Op("add", (rows, s.width)), live=3 * x),
            LayerOp(Op("rms_norm", (rows, s.width)), live=2 * x),
            linear("gate_up", s.width, hidden, 2 * x + h),
            LayerOp(Op("silu", (rows, hidden)), live=2 * x + 2 * h),
            linear("gate_up", s.width, hidden, 2 * x + 2 * h),
            LayerOp(Op("mul", (rows, hidden)), live=x + 3 * h),
            linear("down", hidden, s.width, 2 * x + h),
            LayerOp(Op("add", (rows, s.width)), live=3 * x),
        ]

    def describe(self, arch: Architecture) -> str:
        return "f" + "-".join(str(arch[f"layers.{i}.ffn"]) for i in range(self.sizes.layers))

    def from_reference(self, kind: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if kind != "hf":
            return super().from_reference(kind, state)
        return from_llama(state, self.sizes.tied)

    def reference_settings(self, kind: str) -> dict[str, object]:
        if kind != "hf":
            return super().reference_settings(kind)
        s = self.sizes
        rope: dict[str, object] = {"rope_type": "llama3" if s.stretch else "default"}
        if s.stretch:
            rope["factor"] = s.stretch.factor
        return {
            "num_attention_heads": s.heads,
            "num_key_value_heads": s.kv_heads,
            "head_dim": s.head_width,
            "hidden_act": "silu",
            # Since version 5 of `transformers`, and before.
            "rope_parameters.rope_theta": s.theta,
            "rope_theta": s.theta,
            **{f"rope_parameters.{name}": value for name, value in rope.items()},
            **{f"rope_scaling.{name}": value for name, value in rope.items()},
        }


_GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("attention.q", "attention.k", "attention.v"),
    "o": ("attention.o",),
    "gate_up": ("mlp.gate", "mlp.up"),
    "down": ("mlp.down",),
}


@register_space("matlm", tuple(PRESETS), "decoder language model, MatFormer-nested feed-forward")
def matlm(preset: str, n_classes: int | None = None, in_channels: int | None = None) -> MatlmSpace:
    """The space at a preset, fitted to the data's vocabulary; tokens have no channels."""
    sizes = PRESETS[preset]
    return MatlmSpace(preset, replace(sizes, vocabulary=n_classes or sizes.vocabulary))


# --- reference weights --------------------------------------------------------------------------

_OUTER = {"model.embed_tokens": "embed", "model.norm": "norm", "lm_head": "head"}
_INNER = {
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
    **{f"self_attn.{p}_proj": f"attention.{p}" for p in "qkvo"},
    **{f"mlp.{p}_proj": f"mlp.{p}" for p in ("gate", "up", "down")},
}
_LLAMA_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def from_llama(state: Mapping[str, Tensor], tied: bool) -> dict[str, Tensor]:
    """Weights of `transformers` LlamaForCausalLM under this network's names.

    Args:
        state: with a head of its own, with none, or with the embedding again as head.
        tied: whether our head is the embedding. If it is not and the state has no head, the
            embedding is given for both; if it is, a head that differs stays in the result, where
            it finds no place.

    Raises:
        UsageError: if the embedding is missing, or there is an entry that this network has not,
            such as a bias: it would compute something else.
    """
    mapped: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        if theirs.endswith("rotary_emb.inv_freq"):  # older checkpoints store what follows
            continue
        module, _, entry = theirs.rpartition(".")
        ours = _OUTER.get(module)
        if ours is None and (found := _LLAMA_LAYER.fullmatch(module)):
            inner = _INNER.get(found[2])
            ours = f"layers.{found[1]}.{inner}" if inner else None
        if ours is None or entry != "weight":
            raise UsageError(
                f"a Llama network without biases has no {theirs}.",
                "Give the state of LlamaForCausalLM.",
            )
        mapped[f"{ours}.weight"] = tensor
    if "embed.weight" not in mapped:
        raise UsageError(
            "these are no weights of a transformers Llama (model.embed_tokens.weight is missing).",
            "Give the state of LlamaForCausalLM.",
        )
    if not tied:
        mapped.setdefault("head.weight", mapped["embed.weight"])
    elif "head.weight" in mapped and torch.equal(mapped["head.weight"], mapped["embed.weight"]):
        del mapped["head.weight"]
    return mapped
