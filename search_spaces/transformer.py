"""What transformers share: the pre-norm layer, and the ops of attention and feed-forward."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hw_profiles.op import Op
from search_spaces.elastic import Toolbox, sort_heads, sort_units
from search_spaces.space import LayerOp

EPS = 1e-6

#: Quantizable layer groups of a layer -> their modules; q, k and v are fused and share one.
GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("attention.qkv",),
    "proj": ("attention.proj",),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
}


def initialise(module: nn.Module) -> None:
    """Weights of a linear layer whose outputs spread as its inputs do, and no bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(module.bias)


class Mlp(nn.Module):
    """Feed-forward layer; fewer hidden units are a prefix of them."""

    def __init__(self, tools: Toolbox, embed: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = tools.linear(embed, hidden)
        self.fc2 = tools.linear(hidden, embed)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, embed) -> the same."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Layer(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)) (ViT, arXiv:2010.11929).

    Args:
        tools: plain or elastic.
        embed: width of a token.
        heads: of the attention.
        head_width: of one head.
        hidden: units of the feed-forward layer.
    """

    def __init__(
        self, tools: Toolbox, embed: int, heads: int, head_width: int, hidden: int
    ) -> None:
        super().__init__()
        self.norm1 = tools.layer_norm(embed, EPS)
        self.attention = tools.attention(embed, heads, head_width)
        self.norm2 = tools.layer_norm(embed, EPS)
        self.mlp = Mlp(tools, embed, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, embed) -> the same."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    @staticmethod
    def slices(name: str, embed: int, heads: int, hidden: int) -> dict[str, tuple[Any, ...]]:
        """What the layer of this name activates."""
        return {
            f"{name}.norm1": (embed,),
            f"{name}.attention": (embed, heads),
            f"{name}.norm2": (embed,),
            f"{name}.mlp.fc1": (embed, hidden),
            f"{name}.mlp.fc2": (hidden, embed),
        }

    @staticmethod
    def ops(
        batch: int, tokens: int, embed: int, heads: int, head_width: int, hidden: int
    ) -> list[LayerOp]:
        """The layer's ops on that many tokens of each example."""
        norm = norm_op(batch * tokens, embed)
        return [
            norm,
            *attention_ops(batch, tokens, embed, heads, head_width),
            norm,
            *mlp_ops(batch * tokens, embed, hidden),
        ]


def sort_layers(network: nn.Module) -> tuple[str, ...]:
    """Put heads and hidden units of most weight first in every layer; what was sorted."""
    done = []
    for name, layer in network.named_modules():
        if isinstance(layer, Layer):
            sort_heads(layer.attention)
            sort_units([layer.mlp.fc1], layer.mlp.fc2)
            done += [f"{name}.attention heads", f"{name}.mlp hidden units"]
    return tuple(done)


def norm_op(rows: int, embed: int) -> LayerOp:
    """A layer norm of that many tokens."""
    return LayerOp(Op("layer_norm", (rows, embed)), live=2 * rows * embed)


def attention_ops(
    batch: int, tokens: int, embed: int, heads: int, head_width: int, out: str = "proj"
) -> list[LayerOp]:
    """x + attention(x); the residual x is held all the way.

    Args:
        out: quantizable group of the map after the heads.
    """
    rows, inner = batch * tokens, heads * head_width
    return [
        _linear("qkv", rows, embed, 3 * inner, held=rows * embed),
        LayerOp(
            Op("attention", (batch, heads, tokens, tokens, head_width)),
            live=rows * embed + 4 * rows * inner + 2 * batch * heads * tokens**2,
        ),
        _linear(out, rows, inner, embed, held=rows * embed),
        LayerOp(Op("add", (rows, embed)), live=3 * rows * embed),
    ]


def mlp_ops(rows: int, embed: int, hidden: int) -> list[LayerOp]:
    """x + mlp(x); the residual x is held all the way."""
    x = rows * embed
    return [
        _linear("fc1", rows, embed, hidden, held=x),
        LayerOp(Op("gelu", (rows, hidden)), live=x + 2 * rows * hidden),
        _linear("fc2", rows, hidden, embed, held=x),
        LayerOp(Op("add", (rows, embed)), live=3 * x),
    ]


def _linear(group: str, rows: int, k: int, n: int, held: int) -> LayerOp:
    return LayerOp(Op("linear", (rows, k, n)), group, held + rows * (k + n), extra=n)
