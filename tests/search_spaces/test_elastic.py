"""Elastic layers: each slice is the plain layer of those numbers, picked here by index."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from elastic_layers import close, grids, loaded, noise, picked, quick, randomised
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from search_spaces.elastic import (
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticEmbedding,
    ElasticLayerNorm,
    ElasticLinear,
    ElasticRMSNorm,
    Toolbox,
)

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
