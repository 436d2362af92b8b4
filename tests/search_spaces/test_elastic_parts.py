"""Elastic attention, stacks, tokens, positions: each slice is the plain part of those numbers."""

from __future__ import annotations

import math

import pytest
import torch
from elastic_layers import close, loaded, noise, quick, randomised
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import search_spaces
from search_spaces.elastic import (
    Attention,
    Elastic,
    ElasticAttention,
    ElasticLinear,
    ElasticStack,
    ElasticTokens,
    Stack,
    Tokens,
    Toolbox,
    resample_positions,
    set_drop_path,
)

# --- attention ----------------------------------------------------------------------------------


def by_hand(full: ElasticAttention, x: Tensor, heads: int, width: int) -> Tensor:
    """One head after another; rows and columns are picked from the full matrices by index."""
    inner = full.proj.in_features
    stride = width if full.fixed_inner else full.proj.in_grid[1]  # type: ignore[union-attr]
    weight, bias = full.qkv.weight, full.qkv.bias
    embed = x.shape[-1]
    out = full.proj.bias[:embed].expand(x.shape).clone()
    for head in range(heads):
        own = torch.arange(width) + head * stride
        q, k, v = (
            x @ weight[part * inner + own][:, :embed].T + bias[part * inner + own]
            for part in range(3)
        )
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(width)  # of the ACTIVE width
        out = out + scores.softmax(-1) @ v @ full.proj.weight[:embed][:, own].T
    return out


def agree(layer: ElasticAttention, embed: int, heads: int, width: int) -> None:
    x = noise(2, 5, embed) * 0.3
    expected = by_hand(layer, x, heads, width)
    close(layer(x), expected)
    assert (layer.heads, layer.head_width) == (heads, width)
    plain = Attention(embed, heads, width)
    for name in ("qkv", "proj"):
        part = layer.get_submodule(name)
        assert isinstance(part, Elastic)
        plain.get_submodule(name).load_state_dict(part.active_state())
    close(plain(x), expected)


@quick
@given(embed=st.integers(1, 10), heads=st.integers(1, 4))
def test_attention_of_fixed_head_width(embed: int, heads: int) -> None:
    layer = randomised(ElasticAttention(10, 4, 6))
    layer.activate(embed, heads)
    agree(layer, embed, heads, 6)


@quick
@given(embed=st.integers(1, 10), heads=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_attention_of_fixed_inner_width(embed: int, heads: int) -> None:
    layer = randomised(ElasticAttention(10, 12, 2, fixed_inner=True))
    layer.activate(embed, heads)
    agree(layer, embed, heads, 24 // heads)
    with pytest.raises(ValueError, match="divide"):
        layer.activate(embed, 5)
    with pytest.raises(ValueError, match="divide"):
        layer.activate(embed, heads, 24 // heads + 1)


@quick
@given(embed=st.integers(1, 10), heads=st.integers(1, 4), width=st.integers(1, 6))
def test_attention_of_which_heads_and_their_width_are_cut(
    embed: int, heads: int, width: int
) -> None:
    layer = randomised(ElasticAttention(10, 4, 6))
    layer.activate(embed, heads, width)
    agree(layer, embed, heads, width)
    layer.activate(embed, heads)  # the width is not kept from the subnet before
    agree(layer, embed, heads, 6)


@quick
@given(width=st.integers(1, 5))
def test_softmax_s_scale_is_of_the_active_head_width(width: int) -> None:
    """Queries and keys of ones: each score is the head's width over its root, so its root."""
    layer = ElasticAttention(2, 1, 6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.qkv.weight[:12, 0] = 1.0  # queries and keys copy the first feature
        layer.qkv.weight[12:, 1] = 1.0  # values the second
        layer.proj.weight[0, 0] = 1.0
    layer.activate(2, 1, width)
    x = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    found = layer(x).detach()[0, 0, 0]  # the first token's share: exp(root) / (exp(root) + 1)
    assert float(found) == pytest.approx(1 / (1 + math.exp(-math.sqrt(width))), abs=1e-6)


@quick
@given(heads=st.integers(1, 4), width=st.integers(1, 6))
def test_queries_keys_and_values_are_cut_each_by_itself(heads: int, width: int) -> None:
    """Each row of weight, and number of bias, holds its own place in (3, heads, head width)."""
    layer = ElasticAttention(3, 4, 6)
    places = torch.arange(72.0)
    with torch.no_grad():
        layer.qkv.weight.copy_(places[:, None].expand(-1, 3))
        layer.qkv.bias.copy_(places)
    layer.activate(3, heads, width)
    assert isinstance(layer.qkv, ElasticLinear)
    state = layer.qkv.active_state()
    expected = places.view(3, 4, 6)[:, :heads, :width].flatten()
    assert state["bias"].equal(expected)
    assert state["weight"].equal(expected[:, None].expand(-1, 3))


# --- stacks, tokens, positions ------------------------------------------------------------------


@quick
@given(kept=st.sets(st.integers(0, 4), min_size=1))
def test_stacks_run_the_kept_layers_under_their_own_names(kept: set[int]) -> None:
    stack = ElasticStack({i: randomised(nn.Linear(3, 3), i) for i in range(5)}).eval()
    stack.activate(*sorted(kept))
    x = noise(2, 3)
    expected = x
    for i in sorted(kept):
        expected = stack.get_submodule(str(i))(expected)
    close(stack(x), expected)
    plain = Stack({i: nn.Linear(3, 3) for i in sorted(kept)})
    plain.load_state_dict({k: v for k, v in stack.state_dict().items() if int(k[0]) in kept})
    close(plain(x), expected)
    with pytest.raises(ValueError, match="not layers"):
        stack.activate(*kept, 5)
    with pytest.raises(ValueError, match="not layers"):
        stack.activate()


@quick
@given(kept=st.sets(st.integers(0, 4), min_size=1))
def test_drop_path_rates_belong_to_the_largest_s_indices(kept: set[int]) -> None:
    class Plus(nn.Module):
        def __init__(self, what: float) -> None:
            super().__init__()
            self.what = what

        def forward(self, x: Tensor) -> Tensor:
            return x + self.what

    stack = ElasticStack({i: Plus(10.0**i) for i in range(5)})
    stack.activate(*sorted(kept))
    set_drop_path(stack, 0.8)
    torch.manual_seed(0)
    n = 4000
    out = stack.train()(torch.zeros(n, 1, dtype=torch.float64))
    assert float(stack.eval()(torch.zeros(1, 1))) == sum(10.0**i for i in kept)
    for i in reversed(range(5)):  # what a layer added, from the greatest on, tells if it ran
        step = 10.0**i / (1 - 0.2 * i)
        ran = out >= step * (1 - 1e-9)
        share = float(ran.double().mean())
        assert share == (pytest.approx(1 - 0.2 * i, abs=0.05) if i in kept else 0.0)
        out = out - ran.double() * step


@pytest.mark.parametrize(
    ("name", "preset"), [("vit-resnas", "digits"), ("ofa", "digits"), ("ofa", "resnet50")]
)
def test_drop_path_rises_through_all_stages(name: str, preset: str) -> None:
    """From 0 at the first layer to the last one's rate; what changes the shape always runs."""
    space = search_spaces.get(name, preset)
    net = space.supernet(0).train()
    set_drop_path(net, 0.9)
    stacks = [module for module in net.modules() if isinstance(module, ElasticStack)]
    rates = [stack.drop_path[index] for stack in stacks for index, _ in stack.running()]
    assert len(stacks) > 1
    assert [rates[0], rates[-1]] == pytest.approx([0.0, 0.9])
    assert rates == sorted(set(rates))
    arch = {c.name: c.values[-1] for c in space.choices.choices}
    if "resolution" in arch:
        arch["resolution"] = space.smallest()["resolution"]
    assert net.activate(arch)(space.example(arch, 3)).isfinite().all()


@quick
@given(width=st.integers(1, 6))
def test_tokens_are_cut_in_features(width: int) -> None:
    tokens = randomised(ElasticTokens(4, 6, 0.02))
    tokens.activate(width)
    x = noise(2, 4, width)
    expected = torch.cat([tokens.cls[..., :width].expand(2, -1, -1), x], 1)
    expected = expected + tokens.position[..., :width]
    close(tokens(x), expected)
    close(loaded(Tokens(4, width, 0.02), tokens)(x), expected)


@quick
@given(
    old=st.integers(1, 6), side=st.integers(1, 9), extra=st.integers(0, 2), width=st.integers(1, 3)
)
def test_positions_are_resampled_and_those_of_no_patch_stay(
    old: int, side: int, extra: int, width: int
) -> None:
    position = noise(1, extra + old**2, width)
    found = resample_positions(position, side, extra)
    assert found.shape == (1, extra + side**2, width)
    assert found[:, :extra].equal(position[:, :extra])
    if side == old:
        close(found, position)
    steady = position.clone()
    steady[:, extra:] = 3.0  # a grid of one value has no other when it is resampled
    close(resample_positions(steady, side, extra)[:, extra:], torch.full((1, side**2, width), 3.0))


@quick
@given(old=st.integers(4, 8), side=st.integers(2, 16))
def test_resampled_positions_keep_the_grid_s_axes(old: int, side: int) -> None:
    assume(side != old)
    rows = torch.arange(float(old)).repeat_interleave(old)
    columns = torch.arange(float(old)).repeat(old) * 100
    position = torch.stack([rows, columns], dim=-1)[None]
    found = resample_positions(position, side, extra=0)[0].unflatten(0, (side, side))
    assert (found[..., 0] - found[:, :1, 0]).abs().max() < 1e-3  # a row's number is its own
    assert (found[..., 1] - found[:1, :, 1]).abs().max() < 1e-3
    assert (found[1:, 0, 0] > found[:-1, 0, 0]).all()  # and they rise
    assert (found[0, 1:, 1] > found[0, :-1, 1]).all()


# --- the toolbox --------------------------------------------------------------------------------


def test_toolbox_makes_the_same_names_and_sizes_plain_or_elastic() -> None:
    def made(elastic: bool) -> dict[str, nn.Module]:
        tools = Toolbox(elastic)
        return {
            "linear": tools.linear(4, 6, False, (2, 2), (3, 2)),
            "embedding": tools.embedding(5, 4),
            "conv2d": tools.conv2d(4, 6, 3, 2, 1),
            "layer_norm": tools.layer_norm(4, 1e-3),
            "rms_norm": tools.rms_norm(4, 1e-3),
            "batch_norm2d": tools.batch_norm2d(4, 1e-3, 0.2),
            "attention": tools.attention(4, 2, 3),
            "tokens": tools.tokens(4, 6, 0.02),
            "stack": tools.stack({0: tools.linear(2, 2), 3: tools.linear(2, 2)}),
        }

    for name, plain in made(elastic=False).items():
        elastic = made(elastic=True)[name]
        assert isinstance(elastic, Elastic), name
        assert not any(isinstance(module, Elastic) for module in plain.modules()), name
        shapes = {key: tensor.shape for key, tensor in plain.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in elastic.state_dict().items()}, name
        assert getattr(plain, "eps", None) == getattr(elastic, "eps", None), name
        assert getattr(plain, "momentum", None) == getattr(elastic, "momentum", None), name
