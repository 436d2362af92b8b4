"""Elastic layers: each slice is the plain layer of those numbers, picked here by index."""

from __future__ import annotations

import itertools
import math
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import search_spaces
from search_spaces.elastic import (
    Attention,
    Elastic,
    ElasticAttention,
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticEmbedding,
    ElasticLayerNorm,
    ElasticLinear,
    ElasticRMSNorm,
    ElasticStack,
    ElasticTokens,
    Stack,
    Tokens,
    Toolbox,
    resample_positions,
    set_drop_path,
)

M = TypeVar("M", bound=nn.Module)
quick = settings(max_examples=40, deadline=None)


def randomised(module: M, seed: int = 0) -> M:
    """The module with every number random, the kernel transforms and statistics too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        for name, tensor in module.named_buffers():
            if "running" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def noise(*shape: int, seed: int = 9) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def loaded(plain: M, elastic: Elastic) -> M:
    """The plain layer with the slices of the elastic one."""
    plain.load_state_dict(elastic.active_state())
    return plain.train(elastic.training)


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A grid of one to three axes, and what is active of each."""
    full = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    return full, tuple(draw(st.integers(1, size)) for size in full)


def picked(grid: tuple[int, ...], active: tuple[int, ...]) -> list[int]:
    """Flat indices of the active entries, counted out one by one."""
    strides = [math.prod(grid[i + 1 :]) for i in range(len(grid))]
    places = itertools.product(*map(range, active))
    return [sum(p * s for p, s in zip(place, strides, strict=True)) for place in places]


# --- linear -------------------------------------------------------------------------------------


@quick
@given(inputs=grids(), outputs=grids(), bias=st.booleans())
def test_linear_cuts_every_axis_of_its_grids(
    inputs: tuple[tuple[int, ...], tuple[int, ...]],
    outputs: tuple[tuple[int, ...], tuple[int, ...]],
    bias: bool,
) -> None:
    layer = randomised(
        ElasticLinear(math.prod(inputs[0]), math.prod(outputs[0]), bias, inputs[0], outputs[0])
    )
    layer.activate(inputs[1], outputs[1])
    rows, columns = picked(*outputs), picked(*inputs)
    x = noise(3, len(columns))
    expected = x @ layer.weight[rows][:, columns].T + (layer.bias[rows] if bias else 0)
    close(layer(x), expected)
    close(loaded(nn.Linear(len(columns), len(rows), bias), layer)(x), expected)
    layer(x).sum().backward()  # and nothing else is learned
    assert layer.weight.grad is not None
    touched = layer.weight.grad != 0
    assert set(touched.any(1).nonzero().flatten().tolist()) == set(rows)
    assert set(touched.any(0).nonzero().flatten().tolist()) == set(columns)


@quick
@given(grid=grids(), axis=st.integers(0, 2), beyond=st.booleans())
def test_linear_refuses_what_it_has_no_room_for(
    grid: tuple[tuple[int, ...], tuple[int, ...]], axis: int, beyond: bool
) -> None:
    full, active = grid
    layer = ElasticLinear(2, math.prod(full), out_grid=full)
    axis %= len(full)
    wrong = list(active)
    wrong[axis] = full[axis] + 1 if beyond else 0
    with pytest.raises(ValueError, match="outside"):
        layer.activate(2, tuple(wrong))
    with pytest.raises(ValueError, match="axes"):
        layer.activate(2, (*active, 1))
    with pytest.raises(ValueError, match="size"):
        ElasticLinear(2, math.prod(full) + 1, out_grid=full)


def test_linear_s_arithmetic_can_be_replaced() -> None:
    layer = randomised(ElasticLinear(4, 4))
    layer.activate(3, 2)
    x = noise(5, 3)
    plain = layer(x)
    layer.arithmetic = lambda x, w, b: 2 * F.linear(x, w, b)
    close(layer(x), 2 * plain)


@quick
@given(width=st.integers(1, 6))
def test_embedding_is_cut_in_features_not_in_entries(width: int) -> None:
    table = randomised(ElasticEmbedding(5, 6))
    table.activate(width)
    indices = torch.tensor([[4, 0], [2, 2]])
    close(table(indices), table.weight[indices][..., :width])
    close(loaded(nn.Embedding(5, width), table)(indices), table(indices))


# --- convolutions -------------------------------------------------------------------------------


def filters(conv: ElasticConv2d, kernel: int) -> Tensor:
    """What a kernel's filters are, written out: 7 -> 5 -> 3, each step one matrix."""
    found = conv.weight.detach()
    while found.shape[-1] > kernel:
        small = found.shape[-1] - 2
        centre = found[..., 1:-1, 1:-1].reshape(-1, small * small)
        matrix = conv.get_parameter(f"transform_{small}").detach()
        found = torch.stack([matrix @ row for row in centre]).reshape(
            *found.shape[:2], small, small
        )
    return found


@quick
@given(
    channels=st.integers(1, 6),
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.integers(1, 2),
    side=st.integers(1, 9),
    bias=st.booleans(),
)
def test_depthwise_kernels_are_transformed_centres(
    channels: int, kernel: int, stride: int, side: int, bias: bool
) -> None:
    conv = randomised(
        ElasticConv2d(6, 6, 7, stride, groups=6, bias=bias, kernels=(3, 5, 7)), seed=1
    )
    conv.activate(channels, channels, kernel)
    x = noise(2, channels, side, side)
    expected = F.conv2d(
        x,
        filters(conv, kernel)[:channels],
        conv.bias[:channels] if bias else None,
        stride,
        kernel // 2,
        groups=channels,
    )
    torch.testing.assert_close(conv(x), expected, atol=1e-4, rtol=1e-5)
    plain = Toolbox(elastic=False).conv2d(
        channels, channels, kernel, stride, 3, channels, bias, (3, 5, 7)
    )
    close(loaded(plain, conv)(x), conv(x))
    assert conv(x).shape[-1] == (side - 1) // stride + 1


def test_kernels_begin_as_plain_centres_and_learn_through_each_other() -> None:
    conv = ElasticConv2d(2, 2, 7, groups=2, kernels=(3, 5, 7))
    conv.activate(2, 2, 3)
    close(conv.active_state()["weight"], conv.weight[..., 2:5, 2:5])
    conv(noise(1, 2, 8, 8)).sum().backward()
    for name in ("transform_3", "transform_5"):  # the smallest comes from the middle one
        grad = conv.get_parameter(name).grad
        assert grad is not None
        assert grad.any()
    conv.zero_grad()
    conv.activate(2, 2, 5)
    conv(noise(1, 2, 8, 8)).sum().backward()
    assert conv.get_parameter("transform_3").grad is None


@quick
@given(
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 6),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
)
def test_dense_convolutions_are_cut_in_both_channels(
    inputs: int, outputs: int, stride: int, padding: int
) -> None:
    conv = randomised(ElasticConv2d(5, 6, 3, stride, padding))
    conv.activate(inputs, outputs)
    x = noise(2, inputs, 5, 5)
    x_full = F.pad(x, (0, 0, 0, 0, 0, 5 - inputs))  # what is not active, as zeros
    expected = F.conv2d(x_full, conv.weight, conv.bias, stride, padding)[:, :outputs]
    close(conv(x), expected)
    close(loaded(nn.Conv2d(inputs, outputs, 3, stride, padding), conv)(x), expected)


def test_convolutions_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="dense or depthwise"):
        ElasticConv2d(4, 4, 3, groups=2)
    with pytest.raises(ValueError, match="ascending"):
        ElasticConv2d(4, 4, 5, groups=4, kernels=(5, 3))
    conv = ElasticConv2d(4, 4, 5, groups=4, kernels=(3, 5))
    with pytest.raises(ValueError, match="as many"):
        conv.activate(2, 3, 3)
    with pytest.raises(ValueError, match="none of"):
        conv.activate(2, 2, 7)
    with pytest.raises(ValueError, match="outside"):
        conv.activate(5, 5, 3)


# --- norms --------------------------------------------------------------------------------------


@quick
@given(width=st.integers(2, 8), eps=st.sampled_from([1e-6, 1e-3]))
def test_layer_norms_see_the_active_features_alone(width: int, eps: float) -> None:
    x = noise(3, 4, width) + 2
    norm = randomised(ElasticLayerNorm(8, eps))
    norm.activate(width)
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    close(norm(x), centred / spread * norm.weight[:width] + norm.bias[:width])
    close(loaded(nn.LayerNorm(width, eps), norm)(x), norm(x))
    rms = randomised(ElasticRMSNorm(8, eps))
    rms.activate(width)
    close(rms(x), x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * rms.weight[:width])
    close(loaded(nn.RMSNorm(width, eps), rms)(x), rms(x))


@quick
@given(
    width=st.integers(1, 6), training=st.booleans(), eps=st.sampled_from([1e-5, 1e-3]),
    sets=st.integers(1, 3), data=st.data(),
)  # fmt: skip
def test_batch_norms_are_the_plain_ones_of_their_slice(
    width: int, training: bool, eps: float, sets: int, data: st.DataObject
) -> None:
    norm = randomised(ElasticBatchNorm2d(6, eps, 0.3, sets)).train(training)
    which = data.draw(st.integers(0, sets - 1))
    norm.activate(width, which)
    assert norm.active_state()["weight"].equal(norm.weight.view(sets, 6)[which, :width])
    assert norm.active_state()["bias"].equal(norm.bias.view(sets, 6)[which, :width])
    plain = loaded(nn.BatchNorm2d(width, eps, 0.3), norm)
    before = {name: tensor.clone() for name, tensor in norm.named_buffers()}
    x = noise(4, width, 3, 3) * 2 + 1
    close(norm(x), plain(x))
    for name in ("running_mean", "running_var"):
        buffer = norm.get_buffer(name)
        close(buffer[:width], plain.get_buffer(name))
        assert buffer[width:].equal(before[name][width:])  # of channels that did not run
        assert buffer[:width].equal(before[name][:width]) != training


@quick
@given(width=st.integers(1, 6), sizes=st.lists(st.integers(2, 6), min_size=1, max_size=3))
def test_collected_statistics_are_means_over_examples(width: int, sizes: list[int]) -> None:
    norm = randomised(ElasticBatchNorm2d(6)).eval()
    norm.activate(width)
    shared = {name: tensor.clone() for name, tensor in norm.named_buffers()}
    batches = [noise(n, width, 3, 3, seed=i) * (i + 1) + i for i, n in enumerate(sizes)]
    norm.collect()
    for batch in batches:
        close(norm(batch), F.batch_norm(batch, None, None, *_affine(norm, width), training=True))
    norm.settle()
    n = sum(sizes)
    mean = sum(len(b) * b.mean((0, 2, 3)) for b in batches) / n
    variance = sum(len(b) * b.var((0, 2, 3), unbiased=False) for b in batches) / n
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    x = noise(2, width, 3, 3)
    expected = F.batch_norm(x, mean, variance, *_affine(norm, width))
    close(norm(x), expected)
    close(loaded(nn.BatchNorm2d(width), norm)(x), expected)
    for name, tensor in norm.named_buffers():
        assert tensor.equal(shared[name])
    norm.activate(width)  # another subnet: nothing of this one is left
    close(norm(x), F.batch_norm(x, shared["running_mean"][:width], shared["running_var"][:width],
                                *_affine(norm, width)))  # fmt: skip


def _affine(norm: ElasticBatchNorm2d, width: int) -> tuple[Tensor, Tensor]:
    return norm.weight[:width], norm.bias[:width]


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
