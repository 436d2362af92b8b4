"""Each runtime's arithmetic on torch tensors, so that accuracy is that of the deployed network.

Sources: ONNX DynamicQuantizeLinear and ONNX Runtime's DynamicQuantizeMatMul and MatMulNBits
(operator specifications); torchao 0.18, `Int8Tensor`, `Int4TilePackedTo4dTensor` and
`Float8Tensor` (float8_e4m3fn, a scale a row); CMSIS-NN's fully connected int8. Integers
are computed in floating point of enough bits to be exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from hw_profiles.errors import UsageError, nearest
from nas.quantization.schemes import (
    CMSIS_FP32,
    CMSIS_INT8,
    GRAPH_FP8,
    GRAPH_INT4,
    GRAPH_INT8,
    GRAPH_INT8_WO,
    OPENVINO_FP32,
    ORT_FP32,
    ORT_INT4,
    ORT_INT8,
    TORCH_FLOATS,
    Scheme,
    get_scheme,
)
from search_spaces.elastic import Arithmetic, Supernet

# How a scheme's arithmetic is made for a deployed batch size.
ArithmeticFactory = Callable[[int], Arithmetic]
#: (runtime, scheme) -> it.
ARITHMETIC: dict[tuple[str, str], ArithmeticFactory] = {}
_EXACT_FP32 = 2**24
_MIDDLE = 8  # of 0..15, in tinygemm's form


def register_arithmetic(scheme: Scheme) -> Callable[[ArithmeticFactory], ArithmeticFactory]:
    """Register `(batch_size) -> (x, weight, bias) -> y` as the arithmetic of a scheme."""

    def add(factory: ArithmeticFactory) -> ArithmeticFactory:
        ARITHMETIC[scheme.runtime, scheme.name] = factory
        return factory

    return add


@register_arithmetic(ORT_FP32)
@register_arithmetic(OPENVINO_FP32)
@register_arithmetic(CMSIS_FP32)
def _float(batch_size: int) -> Arithmetic:
    return F.linear


# --- ONNX Runtime, and CMSIS-NN -----------------------------------------------------------------


def channel_int8(weight: Tensor, scheme: Scheme = ORT_INT8) -> tuple[Tensor, Tensor]:
    """Symmetric integers of a weight (out, in), as float, and their scales (out,)."""
    limit = scheme.weight_range[1]
    scale = weight.abs().amax(1) / limit
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight / scale[:, None]).round_().clamp_(-limit, limit), scale


def block_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric 4-bit integers of a weight (out, in), as float, and their scales.

    The extreme value of a block becomes -8, so the scale takes the opposite of its sign. Blocks
    lie along the input; the last is filled with zeros.

    Returns:
        integers in -8..7 of shape (out, blocks, 32); scales (out, blocks).
    """
    low, high = ORT_INT4.weight_range
    blocks = F.pad(weight, (0, -weight.shape[1] % ORT_INT4.group_size))
    blocks = blocks.reshape(len(weight), -1, ORT_INT4.group_size)
    extreme = blocks.gather(2, blocks.abs().argmax(2, keepdim=True)).squeeze(2)
    scale = extreme / low
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (blocks / divisor[..., None]).round_().clamp_(low, high), scale


def _per_chunk(values: Tensor, size: int, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce (images,) over runs of `size` images, the last maybe shorter, back to (images,)."""
    if size == 1:
        return values
    whole = len(values) // size * size
    parts = [reduce(values[:whole].view(-1, size)).repeat_interleave(size)] if whole else []
    if whole < len(values):
        parts.append(reduce(values[None, whole:]).expand(len(values) - whole))
    return torch.cat(parts)


@register_arithmetic(ORT_INT8)
def _ort_int8(batch_size: int) -> Arithmetic:
    return _tensor_int8(ORT_INT8, batch_size)


@register_arithmetic(CMSIS_INT8)
def _cmsis_int8(batch_size: int) -> Arithmetic:
    return _tensor_int8(CMSIS_INT8, batch_size)


def _tensor_int8(scheme: Scheme, batch_size: int) -> Arithmetic:
    """Unsigned activations with one range for the deployed batch, weights with one a channel."""
    levels = scheme.activation_range[1]

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.flatten(1)  # amin and amax apart: aminmax is not vectorised
        low = _per_chunk(flat.amin(1), batch_size, lambda t: t.amin(1)).clamp(max=0)
        high = _per_chunk(flat.amax(1), batch_size, lambda t: t.amax(1)).clamp(min=0)
        scale = ((high - low) / levels).view(-1, *[1] * (x.dim() - 1))
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        # Integers less their zero point. The ends round to the ends, so nothing is clamped; the
        # zero point itself cancels.
        q = torch.div(x, scale).round_()
        w, weight_scale = channel_int8(weight, scheme)
        largest = levels * scheme.weight_range[1] * weight.shape[1]
        if largest < _EXACT_FP32:
            y = F.linear(q, w)
        else:
            y = F.linear(q.double(), w.double()).to(x.dtype)
        scale = scale * weight_scale
        return y.mul_(scale) if bias is None else torch.addcmul(bias, y, scale)

    return linear


@register_arithmetic(ORT_INT4)
def _ort_int4(batch_size: int) -> Arithmetic:
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        q, scale = block_int4(weight)
        held = (q * scale[..., None]).flatten(1)[:, : weight.shape[1]]
        return F.linear(x, held, bias)

    return linear


# --- PyTorch, and torchao under CUDA graphs -----------------------------------------------------
# Tensor cores multiply 16-bit numbers and add in float32: float32 products of rounded values are
# that.


def _bf16_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """Float32 sums of bfloat16 products, rounded once."""
    return F.linear(x.float(), weight.float()).to(x.dtype)


def _torch_float(batch_size: int) -> Arithmetic:
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
        return y.to(x.dtype)

    return linear


for _scheme in TORCH_FLOATS:
    register_arithmetic(_scheme)(_torch_float)


def symmetric_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 along the last dimension: float integers and float32 scales (..., 1)."""
    low, high = GRAPH_INT8.weight_range
    scale = x.abs().amax(-1, keepdim=True) / ((high - low) / 2)  # in x's type, as torchao does
    scale = scale.clamp(min=torch.finfo(torch.float32).eps).float()
    return (x.float() * (1 / scale)).round_().clamp_(low, high), scale


@register_arithmetic(GRAPH_INT8)
def _graph_int8(batch_size: int) -> Arithmetic:
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        q, token_scale = symmetric_rows(x)
        w, channel_scale = symmetric_rows(weight)
        if 128 * 128 * weight.shape[1] < _EXACT_FP32:
            y = F.linear(q, w)
        else:
            y = F.linear(q.double(), w.double()).float()
        y = (y * token_scale).to(x.dtype) * channel_scale.flatten()
        return (y if bias is None else y + bias).to(x.dtype)

    return linear


def rows_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """float8_e4m3fn along the last dimension, as float32, and its float32 scales (..., 1)."""
    largest = GRAPH_FP8.weight_range[1]
    scale = x.abs().amax(-1, keepdim=True).float() / largest
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    held = (x.float() / scale).clamp_(-largest, largest).to(torch.float8_e4m3fn)
    return held.float(), scale


@register_arithmetic(GRAPH_FP8)
def _graph_fp8(batch_size: int) -> Arithmetic:
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        q, token_scale = rows_fp8(x)
        w, channel_scale = rows_fp8(weight)
        y = F.linear(q, w) * token_scale * channel_scale.flatten()
        return (y if bias is None else y + bias.float()).to(x.dtype)

    return linear


@register_arithmetic(GRAPH_INT8_WO)
def _graph_int8_wo(batch_size: int) -> Arithmetic:
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        w, scale = symmetric_rows(weight)
        y = _bf16_matmul(x, w.to(x.dtype)) * scale.flatten().to(x.dtype)
        return y if bias is None else y + bias

    return linear


def tinygemm_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unsigned 4-bit codes of a weight (out, in) with scale and zero in the weight's own type.

    A weight is held as (code - 8) * scale + zero. The last group is filled with zeros, which a
    deployment must do too: torchao leaves alone a weight that is no whole number of groups.

    Returns:
        codes (out, groups, 32), scales and zeros (out, groups, 1).
    """
    low, high = GRAPH_INT4.weight_range
    groups = F.pad(weight, (0, -weight.shape[1] % GRAPH_INT4.group_size))
    groups = groups.reshape(len(weight), -1, GRAPH_INT4.group_size)
    least, most = groups.aminmax(dim=-1, keepdim=True)
    scale = ((most - least) / (high - low)).clamp(min=torch.finfo(weight.dtype).smallest_normal)
    zero = least + scale * _MIDDLE
    codes = ((groups - (zero - scale * _MIDDLE)) / scale).round().clamp(low, high)
    return codes, scale, zero


@register_arithmetic(GRAPH_INT4)
def _graph_int4(batch_size: int) -> Arithmetic:

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        q, scale, zero = tinygemm_int4(weight)
        held = ((q - _MIDDLE) * scale + zero).flatten(1)[:, : weight.shape[1]]
        y = _bf16_matmul(x, held)
        return y if bias is None else y + bias

    return linear


# --- on a supernet ------------------------------------------------------------------------------


def arithmetic(runtime: str, name: str, batch_size: int = 1) -> Arithmetic:
    """The arithmetic `(x, weight, bias) -> y` of a scheme deployed at a batch size.

    x is (images, ..., in): where a scale belongs to the tensor of the deployed batch, every run
    of `batch_size` images has one.

    Raises:
        NotFoundError: if the runtime does not run such a scheme.
        UsageError: if the batch size is not positive.
    """
    if batch_size < 1:
        raise UsageError(f"a batch size of {batch_size} is impossible.", "Give 1 or more.")
    scheme = get_scheme(runtime, name)
    return ARITHMETIC[scheme.runtime, scheme.name](batch_size)


@contextmanager
def simulate(
    supernet: Supernet, policy: Mapping[str, str], runtime: str, batch_size: int = 1
) -> Iterator[Supernet]:
    """Compute the groups of a policy in the runtime's arithmetic while the context is open.

    Args:
        supernet: in the runtime's native float type (a copy of it where that is not float32).
        policy: scheme name for each layer group; groups that it does not name stay native.
        runtime: whose schemes they are.
        batch_size: of the deployment.

    Raises:
        NotFoundError: if a group or a scheme is unknown.
    """
    groups = supernet.space.group_modules()
    unknown = [group for group in policy if group not in groups]
    if unknown:
        raise nearest(unknown[0], groups, "layer group")
    kernels = {name: arithmetic(runtime, name, batch_size) for name in set(policy.values())}
    modules = [
        (module, kernels[name])
        for group, name in policy.items()
        for module in supernet.linears(groups[group])
    ]
    before = [module.arithmetic for module, _ in modules]
    try:
        for module, kernel in modules:
            module.arithmetic = kernel
        yield supernet
    finally:
        for (module, _), kernel in zip(modules, before, strict=True):
            module.arithmetic = kernel
