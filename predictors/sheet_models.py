"""Op models of a device from its sheet alone: peaks, bandwidth, and what the smallest kernel takes.

Shares of the peaks that kernels reach, and how far off such a model may be, are stated here and go
into the bounds; nothing was timed.
"""

from __future__ import annotations

from hw_profiles.boards import Board
from hw_profiles.profile import Device, NetworkModel, OpModel
from predictors.op_time import FORMS, OpForm
from predictors.roofline_time import (
    AttentionRoofline,
    ConvRoofline,
    GatherTime,
    GemmRoofline,
    PoolTime,
    StreamTime,
)

COVERAGE = 0.9
# Numbers read and written for each element of (rows, width).
STREAMS = {
    "layer_norm": 2,
    "rms_norm": 2,
    "relu": 2,
    "gelu": 2,
    "silu": 2,
    "hardswish": 2,
    "hardsigmoid": 2,
    "add": 3,
    "mul": 3,
    "rotary": 4,  # sines and cosines are read too
    "copy": 2,
}
# Element-wise kernels of a GPU reach about 80 % of the sheet's bandwidth (public sheets say so).
GPU_STREAM_EFFICIENCY, GPU_STREAM_UPPER = 0.8, 1.5
# Convolutions of a GPU: the share of a peak that is reached, the peak without tensor cores relative
# to that with them (19.5 of 312 TFLOP/s), and bounds of dense ones and of those of few channels a
# group.
GPU_CONV_EFFICIENCY, GPU_PLAIN_PEAK = 0.5, 1 / 16
GPU_CONV_UPPER, GPU_NARROW_UPPER = 2.0, 3.0
# Fused attention of a GPU whose kind was not timed on any.
GPU_ATTENTION_EFFICIENCY, GPU_ATTENTION_UPPER = 0.3, 3.0
# Boards: shares of the peaks and of the memory rate, and bounds. Small products on small cores
# reach from a fifth to two thirds of a peak; functions such as gelu are arithmetic there.
BOARD_EFFICIENCY, BOARD_BANDWIDTH, BOARD_UPPER, BOARD_NARROW_UPPER = 0.4, 0.4, 2.5, 3.5
BOARD_STREAM_BANDWIDTH, BOARD_STREAM_UPPER = 0.25, 3.0
# Times that the scores of an attention that is not fused go to memory or back: written by the first
# product, read and written by the softmax, read by the second.
SCORE_PASSES = 4.0


def stream(device: Device, floor_ms: float, bytes_per_element: float) -> StreamTime:
    """A streaming kernel of a GPU as the sheet has it."""
    bandwidth = GPU_STREAM_EFFICIENCY * (device.bandwidth_bytes_per_s or 0.0)
    return StreamTime(floor_ms, bandwidth, bytes_per_element, GPU_STREAM_UPPER)


def gpu_models(device: Device, floor_ms: float, native: str, floor_source: str) -> list[OpModel]:
    """Every op of a GPU but products and attention, in its native type of two bytes.

    Args:
        floor_ms: time of its smallest kernel.
        floor_source: where that comes from, in words.
    """
    bandwidth = GPU_STREAM_EFFICIENCY * (device.bandwidth_bytes_per_s or 0.0)
    peak = GPU_CONV_EFFICIENCY * device.peak_flops[native]
    convolution = ConvRoofline(
        floor_ms=2 * floor_ms,  # the library lays out the image in a kernel of its own first
        flops_per_s=peak,
        narrow_flops_per_s=GPU_PLAIN_PEAK * peak,
        bandwidth_bytes_per_s=bandwidth,
        element_bytes=2.0,
        upper=GPU_CONV_UPPER,
        narrow_upper=GPU_NARROW_UPPER,
    )
    how = ", half of its peak (groups of under 8 channels: a sixteenth of that), two kernels"
    forms: dict[str, tuple[OpForm, str]] = {
        kind: (stream(device, floor_ms, 2.0 * numbers), "") for kind, numbers in STREAMS.items()
    }
    forms |= {
        "embedding": (
            GatherTime(floor_ms, bandwidth, 4.0, GPU_STREAM_UPPER),
            " for the rows that are gathered",
        ),
        "pool": (PoolTime(floor_ms, bandwidth, 2.0, GPU_STREAM_UPPER), ""),
        "conv2d": (convolution, how),
        "conv1d": (convolution, how),
    }
    source = (
        f"derived from the {device.source}: {GPU_STREAM_EFFICIENCY:.0%} of its bandwidth{{}}, and "
        f"{floor_source} ({1e3 * floor_ms:.2f} us); never timed."
    )
    return [
        _derived(kind, native, form, source.format(said)) for kind, (form, said) in forms.items()
    ]


def gpu_attention(device: Device, floor_ms: float, native: str) -> OpModel:
    """Fused attention of a GPU of which no attention without a mask was timed, nor of others."""
    form = AttentionRoofline(
        floor_ms,
        GPU_ATTENTION_EFFICIENCY * device.peak_flops[native],
        GPU_STREAM_EFFICIENCY * (device.bandwidth_bytes_per_s or 0.0),
        element_bytes=2.0,
        upper=GPU_ATTENTION_UPPER,
    )
    source = (
        f"derived from the {device.source}: {GPU_ATTENTION_EFFICIENCY:.0%} of its peak, "
        f"{GPU_STREAM_EFFICIENCY:.0%} of its bandwidth; never timed."
    )
    return _derived("attention", native, form, source)


def board_models(board: Board) -> list[OpModel]:
    """Every op of a board, in fp32, and products in int8 too."""
    device, floor_ms = board.device, 1e3 * board.op_overhead_s
    rate = device.bandwidth_bytes_per_s or 0.0
    peak = BOARD_EFFICIENCY * device.peak_flops["fp32"]
    bandwidth, streaming = BOARD_BANDWIDTH * rate, BOARD_STREAM_BANDWIDTH * rate
    convolution = ConvRoofline(
        floor_ms, peak, peak / 2, bandwidth, 4.0, BOARD_UPPER, BOARD_NARROW_UPPER
    )
    source = (
        f"derived from the {device.source}: {BOARD_EFFICIENCY:.0%} of its peak, "
        f"{BOARD_BANDWIDTH:.0%} of its memory rate ({BOARD_STREAM_BANDWIDTH:.0%} where nothing is "
        f"multiplied), {1e6 * board.op_overhead_s:.0f} us an op; never timed."
    )
    forms: dict[str, OpForm] = {
        kind: StreamTime(floor_ms, streaming, 4.0 * numbers, BOARD_STREAM_UPPER)
        for kind, numbers in STREAMS.items()
    }
    forms |= {
        "linear": GemmRoofline(floor_ms, peak, bandwidth, 4.0, 4.0, BOARD_UPPER),
        "attention": AttentionRoofline(
            floor_ms, peak, bandwidth, 4.0, BOARD_UPPER, score_passes=SCORE_PASSES
        ),
        "embedding": GatherTime(floor_ms, streaming, 8.0, BOARD_STREAM_UPPER),
        "pool": PoolTime(floor_ms, streaming, 4.0, BOARD_STREAM_UPPER),
        "conv2d": convolution,
        "conv1d": convolution,
    }
    quantized = GemmRoofline(
        2 * floor_ms,  # activations are quantized by an op of their own
        BOARD_EFFICIENCY * device.peak_flops["int8"],
        bandwidth,
        1.0,
        8.0,  # read in fp32 for their range, then again; the output is fp32
        BOARD_UPPER,
    )
    return [
        *(_derived(kind, "fp32", form, source) for kind, form in forms.items()),
        _derived("linear", "int8", quantized, source),
    ]


def sum_of_ops(source: str) -> NetworkModel:
    """Networks as the sum of their ops, whose bounds add up as if all erred together."""
    return NetworkModel(
        form="op_sum",
        params={"gap_ms": 0.0},
        provenance="derived",
        source=f"sum of op times. {source} Upper bound: the bounds of the ops added up, as if all "
        "erred together. No whole network was timed.",
        coverage=COVERAGE,
    )


def _derived(kind: str, precision: str, form: OpForm, source: str) -> OpModel:
    return OpModel(
        kind=kind,
        precision=precision,
        form=form_name(form),
        params=form.to_params(),
        provenance="derived",
        source=source,
    )


def form_name(form: OpForm) -> str:
    """Under which name profiles carry a form."""
    return next(name for name, cls in FORMS.items() if cls is type(form))
