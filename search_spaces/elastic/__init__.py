"""The elastic toolbox: layers that hold the largest weights and run on a slice of them."""

from search_spaces.elastic.attention import Attention, ElasticAttention
from search_spaces.elastic.base import Arithmetic, Elastic, within
from search_spaces.elastic.conv import ElasticConv2d
from search_spaces.elastic.linear import ElasticEmbedding, ElasticLinear
from search_spaces.elastic.norm import ElasticBatchNorm2d, ElasticLayerNorm, ElasticRMSNorm
from search_spaces.elastic.sorting import sort_heads, sort_units
from search_spaces.elastic.stack import ElasticStack, Stack, set_drop_path
from search_spaces.elastic.supernet import Supernet
from search_spaces.elastic.tokens import ElasticTokens, Tokens, resample_positions
from search_spaces.elastic.toolbox import Toolbox

__all__ = [
    "Arithmetic",
    "Attention",
    "Elastic",
    "ElasticAttention",
    "ElasticBatchNorm2d",
    "ElasticConv2d",
    "ElasticEmbedding",
    "ElasticLayerNorm",
    "ElasticLinear",
    "ElasticRMSNorm",
    "ElasticStack",
    "ElasticTokens",
    "Stack",
    "Supernet",
    "Tokens",
    "Toolbox",
    "resample_positions",
    "set_drop_path",
    "sort_heads",
    "sort_units",
    "within",
]
