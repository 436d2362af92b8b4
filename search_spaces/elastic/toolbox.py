"""One set of names for plain and for elastic layers, so that a family's network is written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from search_spaces.elastic.attention import Attention, ElasticAttention
from search_spaces.elastic.conv import ElasticConv2d
from search_spaces.elastic.linear import ElasticEmbedding, ElasticLinear
from search_spaces.elastic.norm import ElasticBatchNorm2d, ElasticLayerNorm, ElasticRMSNorm
from search_spaces.elastic.stack import ElasticStack, Stack
from search_spaces.elastic.tokens import ElasticTokens, Tokens


class Toolbox:
    """Makes the layers of a network: plain ones, or elastic ones of the same names and sizes.

    Args:
        elastic: whether the network is a supernet's.
        norm_sets: sets of weights and biases of each elastic batch norm.
    """

    def __init__(self, elastic: bool, norm_sets: int = 1) -> None:
        self.elastic = elastic
        self.norm_sets = norm_sets

    def linear(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        in_grid: tuple[int, ...] | None = None,
        out_grid: tuple[int, ...] | None = None,
    ) -> nn.Linear:
        """A linear layer; see `ElasticLinear` for the grids."""
        if self.elastic:
            return ElasticLinear(in_features, out_features, bias, in_grid, out_grid)
        return nn.Linear(in_features, out_features, bias)

    def embedding(self, entries: int, width: int) -> nn.Embedding:
        """A table of vectors."""
        return (ElasticEmbedding if self.elastic else nn.Embedding)(entries, width)

    def conv2d(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        kernels: Sequence[int] = (),
    ) -> nn.Conv2d:
        """A convolution; `kernels` are the sizes that an elastic one may take."""
        if self.elastic:
            return ElasticConv2d(
                in_channels, out_channels, kernel, stride, padding, groups, bias, kernels
            )
        padding = kernel // 2 if len(kernels) > 1 else padding
        return nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias
        )

    def layer_norm(self, width: int, eps: float = 1e-5) -> nn.LayerNorm:
        """A layer norm."""
        return (ElasticLayerNorm if self.elastic else nn.LayerNorm)(width, eps=eps)

    def rms_norm(self, width: int, eps: float = 1e-6) -> nn.RMSNorm:
        """A root-mean-square norm."""
        return (ElasticRMSNorm if self.elastic else nn.RMSNorm)(width, eps=eps)

    def batch_norm2d(self, width: int, eps: float = 1e-5, momentum: float = 0.1) -> nn.BatchNorm2d:
        """A batch norm."""
        if self.elastic:
            return ElasticBatchNorm2d(width, eps, momentum, self.norm_sets)
        return nn.BatchNorm2d(width, eps, momentum)

    def attention(self, embed: int, heads: int, head_width: int) -> Attention:
        """Self-attention of fixed head width."""
        return (ElasticAttention if self.elastic else Attention)(embed, heads, head_width)

    def tokens(self, n_patches: int, width: int, position_std: float) -> Tokens:
        """Class token and positions."""
        return (ElasticTokens if self.elastic else Tokens)(n_patches, width, position_std)

    def stack(self, layers: Mapping[int, nn.Module]) -> Stack:
        """A stack of layers under their index in the largest network."""
        return (ElasticStack if self.elastic else Stack)(layers)
