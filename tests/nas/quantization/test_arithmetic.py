"""Simulated arithmetic: its integers, whose scale is whose, and that a context leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import search_spaces
from hw_profiles.errors import NotFoundError, UsageError
from nas.quantization.arithmetic import arithmetic, block_int4, channel_int8, rows_fp8, simulate
from nas.quantization.schemes import CMSIS_INT8, ORT_INT8, Scheme

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 80), st.integers(1, 40))


def tensors(shape: tuple[int, int, int, int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (images, tokens, in), weight (out, in) and bias (out,) with some constant channels."""
    images, tokens, k, n = shape
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=g)
    weight[0] = 0
    x = torch.randn(images, tokens, k, generator=g) + torch.randn(1, generator=g)
    return x, weight, torch.randn(n, generator=g)


def ort_int8_by_hand(
    x: Tensor, weight: Tensor, bias: Tensor, scheme: Scheme = ORT_INT8
) -> np.ndarray:
    """DynamicQuantizeLinear over all of x, then integers in 64 bits, scaled back."""
    values = x.numpy()
    low, high = min(values.min(), 0), max(values.max(), 0)
    scale = np.float32((high - low) / np.float32(255))
    zero = np.clip(np.round(np.float32(-low) / scale), 0, 255).astype(np.int64)
    q = np.clip(np.round(values / scale).astype(np.int64) + zero, 0, 255)
    w, weight_scale = (t.numpy() for t in channel_int8(weight, scheme))
    sums = (q - zero) @ w.astype(np.int64).T
    return sums * (scale * weight_scale) + bias.numpy()


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    scheme=st.sampled_from([ORT_INT8, CMSIS_INT8]),
)
def test_int8_of_a_tensor_has_one_scale_for_each_deployed_batch(
    shape: tuple[int, int, int, int], seed: int, batch: int, scheme: Scheme
) -> None:
    x, weight, bias = tensors(shape, seed)
    got = arithmetic(scheme.runtime, "int8", batch)(x, weight, bias)
    expected = np.concatenate(
        [ort_int8_by_hand(part, weight, bias, scheme) for part in x.split(batch)]
    )
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_long_sums_are_still_exact() -> None:
    x, weight = torch.full((1, 1, 4000), 1.0), torch.full((1, 4000), 1.0)
    x[..., 0] = -1.0
    got = arithmetic("onnxruntime", "int8")(x, weight, None)
    expected = ort_int8_by_hand(x, weight, torch.zeros(1))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-7)


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 2**31))
def test_weight_integers_stay_in_range_and_near(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    _, weight, _ = tensors(shape, seed)
    q, scale = channel_int8(weight)
    assert q.abs().max() <= 64
    assert ((q * scale[:, None] - weight).abs() <= scale[:, None] * 0.501).all()
    codes, scales = block_int4(weight)
    assert codes.min() >= -8
    assert codes.max() <= 7
    held = (codes * scales[..., None]).flatten(1)[:, : weight.shape[1]]
    step = scales.abs().repeat_interleave(32, 1)[:, : weight.shape[1]]
    # the value opposite to the extreme one may lack the eighth step
    assert ((held - weight).abs() <= step * 1.001).all()


@settings(max_examples=30, deadline=None)
@given(
    shape=SHAPES,
    seed=st.integers(0, 2**31),
    scheme=st.sampled_from(
        [("onnxruntime", "int4_wo"), ("cudagraph", "bf16"), ("cudagraph", "int8"),
         ("cudagraph", "int8_wo"), ("cudagraph", "int4_wo"), ("cudagraph", "fp8")]
    ),
)  # fmt: skip
def test_every_other_scheme_treats_images_alone_and_stays_near(
    shape: tuple[int, int, int, int], seed: int, scheme: tuple[str, str]
) -> None:
    x, weight, bias = tensors(shape, seed)
    if scheme[0] == "cudagraph":
        x, weight, bias = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
    linear = arithmetic(*scheme, batch_size=3)
    got = linear(x, weight, bias)
    assert got.dtype == x.dtype
    alone = torch.cat([linear(image[None], weight, bias) for image in x])
    torch.testing.assert_close(got, alone, rtol=1e-2, atol=1e-2)
    exact = F.linear(x.float(), weight.float(), bias.float())
    bound = x.float().abs().sum(-1, keepdim=True) * weight.float().abs().amax(1) * 0.16 + 0.1
    assert ((got.float() - exact).abs() <= bound).all()


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 2**31))
def test_fp8_numbers_are_within_half_a_step_of_three_bits(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    _, weight, _ = tensors(shape, seed)
    held, scale = rows_fp8(weight)
    assert held.abs().max() <= 448
    assert torch.equal(held, held.to(torch.float8_e4m3fn).float())
    # three bits after the leading one; the smallest numbers are 2**-9 apart
    step = torch.maximum(weight.abs() / 16, scale * 2**-10) * 1.001
    assert ((held * scale - weight).abs() <= step).all()


def test_torchao_int8_scales_belong_to_tokens() -> None:
    x = torch.tensor([[[1.0, 0.5], [1000.0, 1.0]]], dtype=torch.bfloat16)
    eye = torch.eye(2, dtype=torch.bfloat16)
    y = arithmetic("cudagraph", "int8")(x, eye, None)
    torch.testing.assert_close(y[0, 0].float(), torch.tensor([1.0, 0.5]), rtol=0.02, atol=0)


def test_simulate_sets_only_the_policy_and_restores() -> None:
    space = search_spaces.get("vit", "digits")
    net = space.supernet(0).eval()
    images = torch.randn(6, *space.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = net(images)
        with simulate(net, {"layers.0.fc1": "int8", "layers.2.qkv": "int4_wo"}, "onnxruntime"):
            changed = net(images)
            (fc1,) = net.linears(("layers.0.mlp.fc1",))
            (fc2,) = net.linears(("layers.0.mlp.fc2",))
            assert fc1.arithmetic is not F.linear
            assert fc2.arithmetic is F.linear
        assert not torch.equal(plain, changed)
        assert torch.equal(plain, net(images))
        with (
            pytest.raises(ZeroDivisionError),
            simulate(net, {"layers.0.fc1": "int8"}, "onnxruntime"),
        ):
            raise ZeroDivisionError
        assert torch.equal(plain, net(images))


@pytest.mark.parametrize(
    ("policy", "runtime", "batch", "error"),
    [
        ({"layers.0.fc3": "int8"}, "onnxruntime", 1, NotFoundError),
        ({"layers.0.fc1": "int2"}, "onnxruntime", 1, NotFoundError),
        ({"layers.0.fc1": "int8"}, "tensorrt", 1, NotFoundError),
        ({"layers.0.fc1": "int8"}, "onnxruntime", 0, UsageError),
    ],
)
def test_simulate_refuses_what_it_does_not_know(
    policy: dict[str, str], runtime: str, batch: int, error: type[Exception]
) -> None:
    net = search_spaces.get("vit", "digits").supernet(0)
    with pytest.raises(error), simulate(net, policy, runtime, batch):
        pass
