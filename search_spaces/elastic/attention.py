"""Self-attention in the three head policies of the literature."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.elastic.base import Elastic
from search_spaces.elastic.linear import ElasticLinear


class Attention(nn.Module):
    """Multi-head self-attention; q, k, v in one linear layer, laid out as (3, heads, head width).

    Args:
        embed: width of a token.
        heads: number of heads.
        head_width: of one head; it sets the softmax's scale.
    """

    def __init__(self, embed: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.qkv: nn.Linear = nn.Linear(embed, 3 * heads * head_width)
        self.proj: nn.Linear = nn.Linear(heads * head_width, embed)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, embed) -> the same."""
        q, k, v = (
            part.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class ElasticAttention(Elastic, Attention):
    """Attention of which the first heads, and the first features of each, are used.

    Three policies (supernets differ): with a fixed head width the inner width follows the heads
    (AutoFormer, LightHuBERT, ViT-ResNAS); with `fixed_inner` the inner width stays and is divided
    among fewer, wider heads (HAT, arXiv:2005.14187); or heads and head width are both cut (NViT,
    OFB). The softmax's scale follows the active head width.

    Args:
        embed: of the largest.
        heads: of the largest.
        head_width: of the largest; with `fixed_inner`, at the most heads.
        fixed_inner: whether the inner width stays.
    """

    def __init__(self, embed: int, heads: int, head_width: int, fixed_inner: bool = False) -> None:
        nn.Module.__init__(self)  # no plain layers first: drawing their weights shifts the seed's
        self.heads, self.head_width = heads, head_width
        self.fixed_inner = fixed_inner
        inner = heads * head_width
        grid = (inner,) if fixed_inner else (heads, head_width)
        self.qkv = ElasticLinear(embed, 3 * inner, out_grid=(3, *grid))
        self.proj = ElasticLinear(inner, embed, in_grid=grid)

    def activate(self, embed: int, heads: int, head_width: int | None = None) -> None:
        """Use the first features of tokens, heads, and features of a head."""
        if self.fixed_inner:
            inner = self.proj.in_features
            if inner % heads or head_width not in (None, inner // heads):
                raise ValueError(f"{heads} heads do not divide the fixed width of {inner}")
            self.heads, self.head_width = heads, inner // heads
            grid: tuple[int, ...] = (inner,)
        else:
            full = self.proj.in_grid[1] if isinstance(self.proj, ElasticLinear) else 0
            self.heads, self.head_width = heads, head_width or full
            grid = (heads, self.head_width)
        assert isinstance(self.qkv, ElasticLinear)
        assert isinstance(self.proj, ElasticLinear)
        self.qkv.activate(embed, (3, *grid))
        self.proj.activate(grid, embed)
