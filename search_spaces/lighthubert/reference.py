"""Weights of other HuBERTs under the names of this one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hw_profiles.errors import UsageError

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


def renamed(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
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
