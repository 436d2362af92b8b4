"""What an encoder-decoder transformer does to translate: columns that its time is linear in.

The ten size features are those of hardware-aware transformers (Wang et al. 2020,
arXiv:2005.14187): sizes averaged over active layers, so that an average times the number of
layers is the sum over layers, exactly. A decoder runs once a token, its encoder once a sentence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEATURES = (
    "encoder_embed_dim",
    "encoder_layer_num",
    "encoder_ffn_embed_dim_avg",
    "encoder_self_attention_heads_avg",
    "decoder_embed_dim",
    "decoder_layer_num",
    "decoder_ffn_embed_dim_avg",
    "decoder_self_attention_heads_avg",
    "decoder_ende_attention_heads_avg",
    "decoder_arbitrary_ende_attn_avg",
)


def translation_work(sizes: Floats) -> Floats:
    """Columns of work, (n, 25), from sizes (n, 10) in the order of `FEATURES`.

    Widths are in thousands. A layer counts as one, by its matrices (embedding width times hidden
    width), by its heads, which cost kernels and caches, and by how many encoder layers its cross
    attention looks at.
    """
    (
        encoder_width,
        encoder_layers,
        encoder_hidden,
        encoder_heads,
        width,
        layers,
        hidden,
        heads,
        cross_heads,
        looks_at,
    ) = sizes.T
    encoder_width, encoder_hidden = encoder_width / 1e3, encoder_hidden / 1e3
    width, hidden = width / 1e3, hidden / 1e3
    layer = [
        np.ones(len(sizes)),
        width,
        hidden,
        hidden * width,
        hidden**2,
        heads,
        heads * width,
        heads**2,
        cross_heads,
        cross_heads * width,
        cross_heads**2,
        looks_at,
        looks_at * cross_heads,
        looks_at * encoder_width,
        encoder_width,
    ]
    encoder_layer = [
        np.ones(len(sizes)),
        encoder_width,
        encoder_hidden,
        encoder_hidden * encoder_width,
        encoder_heads,
        encoder_heads * encoder_width,
    ]
    return np.column_stack(
        [
            *(layers * part for part in layer),
            *(encoder_layers * part for part in encoder_layer),
            layers**2,
            width,
            width * layers**2,
            1 / layers,
        ]
    )
