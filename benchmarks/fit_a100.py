"""Fit the shipped profile of the A100 and print its errors on timings kept out of the fit.

    python benchmarks/fit_a100.py --data DIR --out hw_profiles/data/a100.json

DIR holds `a100_gemm.csv.gz`, `a100_context_attention.csv.gz`, the context and encoder attention
tables of the H200 and the L40S, and the sheets of the three (public tables of
ai-dynamo/aiconfigurator, commit 095f58a5, Apache-2.0).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from gpu_attention import chip_of, groups_of, transfer

from hw_profiles.gpus import read_device
from hw_profiles.profile import Device, DeviceProfile, FitError, NetworkModel, OpModel, Runtime
from hw_profiles.tables import TableRow, read_table
from predictors import metrics
from predictors.attention_time import AttentionMLP
from predictors.gemm_time import QuantizedGemm, RooflineMLP
from predictors.op_time import Array
from predictors.roofline_time import (
    ConvRoofline,
    GatherTime,
    PoolTime,
    StreamTime,
)

COVERAGE = 0.9
SHORT_TOKENS = 256  # what vision transformers ask for
FOLDS = 4
SOURCE = "ai-dynamo/aiconfigurator 095f58a5 (Apache-2.0)"
SHEETS = {"a100": "spec_a100_sxm.yaml", "h200": "spec_h200_sxm.yaml", "l40s": "spec_l40s.yaml"}
ATTENTION = {
    "a100": ["a100_context_attention.csv.gz"],
    "h200": ["h200_sxm_context_attention_bf16.csv.gz", "h200_sxm_encoder_attention.csv.gz"],
    "l40s": ["l40s_context_attention_bf16.csv.gz", "l40s_encoder_attention.csv.gz"],
}
# precision -> bytes of a weight, bytes of an input, peak used, hidden units
GEMMS = {
    "bf16": (2.0, 2.0, "bf16", 64),
    "int8_wo": (1.0, 2.0, "bf16", 48),
    "int4_wo": (0.5, 2.0, "bf16", 48),
    "int8": (1.0, 1.0, "int8", 48),
}
# Element-wise kernels reach about 80 % of the sheet's bandwidth; the sheet itself suggests it.
STREAM_EFFICIENCY = 0.8
DERIVED_UPPER = 1.5
# Convolutions: the share of a peak that is reached, the peak without tensor cores relative to that
# with them (19.5 of 312 TFLOP/s), and bounds of dense ones and of those of few channels a group.
CONV_EFFICIENCY, PLAIN_PEAK = 0.5, 1 / 16
CONV_UPPER, NARROW_UPPER = 2.0, 3.0
# bf16 bytes read and written for each element of (rows, width)
STREAMS = {
    "layer_norm": 4.0,
    "rms_norm": 4.0,
    "relu": 4.0,
    "gelu": 4.0,
    "silu": 4.0,
    "hardswish": 4.0,
    "hardsigmoid": 4.0,
    "add": 6.0,
    "mul": 6.0,
    "rotary": 8.0,  # sines and cosines are read too
    "copy": 4.0,
}
PRECISION_SOURCES = {
    "bf16": " PyTorch products, as TensorRT-LLM 1.0.0 and vLLM 0.14.0 call them.",
    "int8_wo": " TensorRT-LLM weight-only plug-in; its times come in steps of 1.024 us.",
    "int4_wo": " TensorRT-LLM weight-only plug-in; its times come in steps of 1.024 us.",
    "int8": " TensorRT-LLM SmoothQuant product; its times come in steps of 1.024 us.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    started = time.perf_counter()
    device = read_device(args.data / SHEETS["a100"])
    rows = read_table(args.data / "a100_gemm.csv.gz").rows
    print(f"read the tables in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    print(f"{'op':30s} {'kept out':34s} {'MAPE':>6s} {'median':>7s} {'tau':>6s} {'cover':>6s} rows")
    models = []
    floor_ms = 0.0
    for precision in GEMMS:
        product, error = fit_gemm(precision, rows, device)
        floor_ms = floor_ms or product.floor_ms_
        models.append(gemm_model(precision, product, error, device, floor_ms))
    across = stack_to_stack([row for row in rows if row.op.precision == "bf16"], device)
    models.append(fit_attention(args.data))
    models += derived_models(device, floor_ms)
    profile = DeviceProfile(
        name="a100",
        device=device,
        runtime=Runtime(name="cudagraph", native="bf16"),
        precisions=["bf16", "int8", "int8_wo", "int4_wo"],
        op_models=models,
        network=NetworkModel(
            form="op_sum",
            params={"gap_ms": 0.0},
            provenance="derived",
            source="sum of op times. No gap is added between kernels: the times are those of calls "
            "replayed back to back in a CUDA graph, so each holds its own launch already (the "
            f"smallest takes {1e3 * floor_ms:.2f} us). Upper bound: the bounds of the ops added "
            "up, as if all erred together. No whole network was timed.",
            coverage=COVERAGE,
        ),
        notes=[
            f"Fitted by benchmarks/fit_a100.py from kernel times of {SOURCE}.",
            "A bf16 fit on one software stack, judged on the other's products of shapes it lacked, "
            f"errs by {across:.1f} %.",
            "The quantized products were timed in TensorRT-LLM plug-ins, never under 7 us; "
            "torchao's own kernels may be faster or slower on networks this small.",
            "Sizes under those timed (m 1, k and n 32 in bf16, 128 quantized) take the nearest "
            "timed size's correction, with a wider bound.",
        ],
    )
    profile.save(args.out)
    size = args.out.stat().st_size / 1024
    print(f"{args.out}: {size:.0f} KiB, {time.perf_counter() - started:.0f} s", file=sys.stderr)


def arrays(rows: list[TableRow]) -> tuple[Array, Array]:
    """Shapes (n, fields) and milliseconds (n,)."""
    return (
        np.array([row.op.shape for row in rows], np.float64),
        np.array([row.latency_ms for row in rows], np.float64),
    )


def new_gemm(precision: str, device: Device) -> RooflineMLP:
    """An unfitted form for that precision on that device."""
    weight_bytes, activation_bytes, peak, hidden = GEMMS[precision]
    return RooflineMLP(
        cores=float(device.cores or 1),
        flops_per_s=device.peak_flops[peak],
        bandwidth_bytes_per_s=device.bandwidth_bytes_per_s or 0.0,
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        hidden=hidden,
    )


def folds_of(shapes: Array, seed: int = 0) -> np.ndarray:
    """A fold for every row, the same for all rows of one shape."""
    _, shape_ids = np.unique(shapes, axis=0, return_inverse=True)
    rng = np.random.default_rng(seed)
    return (rng.permutation(shape_ids.max() + 1) % FOLDS)[shape_ids]


def fit_gemm(
    precision: str, table: tuple[TableRow, ...], device: Device
) -> tuple[RooflineMLP, FitError]:
    """Fit on all rows; errors and bound from folds of whole shapes."""
    rows = [row for row in table if row.op.precision == precision]
    shapes, times = arrays(rows)
    fold = folds_of(shapes)
    predicted = np.empty_like(times)
    for i in range(FOLDS):
        form = new_gemm(precision, device).fit(shapes[fold != i], times[fold != i])
        predicted[fold == i] = form.predict(shapes[fold == i])
    # the bound is judged on folds that did not set it
    half = fold < FOLDS // 2
    bounds = new_gemm(precision, device).calibrate(predicted[half], times[half], COVERAGE)
    upper = predicted[~half] * bounds.bound_.ratio(predicted[~half])
    error = FitError(
        mape=round(metrics.mape(times, predicted), 2),
        median_error=round(metrics.median_error(times, predicted), 2),
        kendall_tau=round(metrics.kendall_tau(times, predicted), 4),
        coverage=round(metrics.coverage(times[~half], upper), 3),
        rows=len(rows),
        kept_out=f"whole shapes, {FOLDS} folds",
    )
    show(f"linear {precision}", error)
    whole_sizes_out(precision, shapes, times, device)
    final = new_gemm(precision, device).fit(shapes, times)
    return final.calibrate(predicted, times, COVERAGE), error


def whole_sizes_out(precision: str, shapes: Array, times: Array, device: Device) -> None:
    """Print the error on sizes of which the fit saw none: the case of shapes between the grid."""
    out = (
        np.isin(shapes[:, 0], [48, 384, 1024])
        | np.isin(shapes[:, 1], [512, 3072, 10240])
        | np.isin(shapes[:, 2], [256, 2560, 7168])
    )
    form = new_gemm(precision, device).fit(shapes[~out], times[~out])
    predicted = form.predict(shapes[out])
    show(f"linear {precision}", plain_error(times[out], predicted, "three sizes each of m, k, n"))


def stack_to_stack(rows: list[TableRow], device: Device) -> float:
    """Print the errors of a fit on one software stack when judged on the other.

    Returns:
        The worse of the two MAPEs on shapes that the fit lacked.
    """
    worst = 0.0
    for fitted_on in sorted({row.stack for row in rows}):
        shapes, times = arrays([row for row in rows if row.stack == fitted_on])
        other_shapes, other_times = arrays([row for row in rows if row.stack != fitted_on])
        unseen = folds_of(other_shapes) == 0
        form = new_gemm("bf16", device).fit(
            shapes[folds_of(shapes) != 0], times[folds_of(shapes) != 0]
        )
        for name, part in (("other stack", slice(None)), ("other stack, other shapes", unseen)):
            error = plain_error(other_times[part], form.predict(other_shapes[part]), name)
            show(f"linear bf16, {fitted_on}", error)
        worst = max(worst, error.mape)
    return worst


def gemm_model(
    precision: str, product: RooflineMLP, error: FitError, device: Device, floor_ms: float
) -> OpModel:
    """The profile's entry; W8A8 gets the quantizing pass that was not timed."""
    source = f"GEMM times on {device.name}, {SOURCE}.{PRECISION_SOURCES[precision]}"
    if precision != "int8":
        return OpModel(
            kind="linear",
            precision=precision,
            form="roofline_mlp",
            params=product.to_params(),
            provenance="fitted",
            source=source,
            error=error,
        )
    # reads bf16 activations for their scales, reads them again, writes int8
    quantizing = stream(device, floor_ms, bytes_per_element=5.0)
    return OpModel(
        kind="linear",
        precision=precision,
        form="quantized_gemm",
        params=QuantizedGemm(product, quantizing).to_params(),
        provenance="derived",
        source=f"the product fitted: {source} Added to it, derived from the sheet and never "
        "timed: one fused kernel that quantizes each token's activations. The error is that of "
        "the product alone.",
        error=error,
    )


def fit_attention(data: Path) -> OpModel:
    """Attention without a mask on the A100, from its causal attention and two other GPUs' both.

    The same move is judged on each of those two, whose times without a mask are known; its errors
    there set the bound. What is predicted for the shapes timed on them is then fitted by a form
    that a profile can carry.
    """
    sheets = {gpu: data / sheet for gpu, sheet in SHEETS.items()}
    chips = dict(chip_of(sheet) for sheet in sheets.values())
    groups = {
        gpu: [g for table in tables for g in groups_of(data / table, [sheets[gpu]])]
        for gpu, tables in ATTENTION.items()
    }
    encoders = {gpu: [g for g in mine if not g.causal] for gpu, mine in groups.items()}
    guesses, truths, tokens = [], [], []
    for gpu, (encoder,) in ((gpu, mine) for gpu, mine in encoders.items() if mine):
        train = [g for mine in groups.values() for g in mine if g is not encoder]
        guesses.append(transfer(encoder.gpu, train, chips).predict(encoder.calls))
        truths.append(encoder.measured)
        tokens.append(encoder.calls[:, 2])
        for limit in (SHORT_TOKENS, np.inf):
            few = tokens[-1] <= limit
            what = f"up to {limit:g} tokens" if limit < np.inf else "all"
            show(
                f"attention {gpu}",
                plain_error(truths[-1][few], guesses[-1][few], f"from the other GPUs, {what}"),
            )
    predicted, measured = np.concatenate(guesses), np.concatenate(truths)
    error = plain_error(measured, predicted, "H200 and L40S, each predicted so")
    show("attention", error)
    everything = [g for mine in groups.values() for g in mine]
    calls = np.unique(np.vstack([g.calls for mine in encoders.values() for g in mine]), axis=0)
    name, chip = chip_of(sheets["a100"])
    times = transfer(name, everything, chips).predict(calls)
    form = AttentionMLP(chip.cores, chip.flops_per_s, chip.bandwidth_bytes_per_s, hidden=32)
    form.fit(calls[:, :5], times)
    show(
        "attention a100", plain_error(times, form.predict(calls[:, :5]), "form against its source")
    )
    return OpModel(
        kind="attention",
        precision="bf16",
        form="attention_mlp",
        params=form.calibrate(predicted, measured, COVERAGE).to_params(),
        provenance="derived",
        source="causal attention times on NVIDIA A100-SXM4-80GB (head_dim 128), moved to attention "
        "without a mask by those with and without one on NVIDIA H200 and L40S (head_dim 64 to 80 "
        f"without), {SOURCE}. Attention without a mask was not timed on this device, nor any "
        "head_dim under 64; error and bound are those of the H200 and the L40S predicted so.",
        error=error,
    )


def stream(device: Device, floor_ms: float, bytes_per_element: float) -> StreamTime:
    """A streaming kernel as the sheet has it."""
    bandwidth = STREAM_EFFICIENCY * (device.bandwidth_bytes_per_s or 0.0)
    return StreamTime(floor_ms, bandwidth, bytes_per_element, DERIVED_UPPER)


def derived_models(device: Device, floor_ms: float) -> list[OpModel]:
    """Ops that no table has: bytes over bandwidth and the floor of the smallest kernel timed."""
    source = (
        f"derived from the {device.source}: {100 * STREAM_EFFICIENCY:.0f} % of its bandwidth"
        f"{{}}, and the smallest bf16 kernel timed there ({1e3 * floor_ms:.2f} us); never timed."
    )
    bandwidth = STREAM_EFFICIENCY * (device.bandwidth_bytes_per_s or 0.0)
    peak = CONV_EFFICIENCY * device.peak_flops["bf16"]
    convolution = ConvRoofline(
        floor_ms=2 * floor_ms,  # the library lays out the image in a kernel of its own first
        flops_per_s=peak,
        narrow_flops_per_s=PLAIN_PEAK * peak,
        bandwidth_bytes_per_s=bandwidth,
        element_bytes=2.0,
        upper=CONV_UPPER,
        narrow_upper=NARROW_UPPER,
    )
    how = ", half of its peak (groups of under 8 channels: a sixteenth of that), two kernels"
    forms: dict[str, tuple[str, StreamTime | ConvRoofline, str]] = {
        kind: ("stream", stream(device, floor_ms, moved), "") for kind, moved in STREAMS.items()
    }
    forms |= {
        "embedding": (
            "gather_stream",
            GatherTime(floor_ms, bandwidth, 4.0, DERIVED_UPPER),
            " for the rows that are gathered",
        ),
        "pool": ("pool_stream", PoolTime(floor_ms, bandwidth, 2.0, DERIVED_UPPER), ""),
        "conv2d": ("conv_roofline", convolution, how),
        "conv1d": ("conv_roofline", convolution, how),
    }
    return [
        OpModel(
            kind=kind,
            precision="bf16",
            form=form,
            params=model.to_params(),
            provenance="derived",
            source=source.format(said),
        )
        for kind, (form, model, said) in forms.items()
    ]


def plain_error(measured: Array, predicted: Array, kept_out: str) -> FitError:
    """Errors without a bound."""
    return FitError(
        mape=round(metrics.mape(measured, predicted), 2),
        median_error=round(metrics.median_error(measured, predicted), 2),
        kendall_tau=round(metrics.kendall_tau(measured, predicted), 4),
        rows=len(measured),
        kept_out=kept_out,
    )


def show(what: str, error: FitError) -> None:
    """One line of the table of errors."""
    cover = "-" if error.coverage is None else f"{error.coverage:.3f}"
    print(
        f"{what:30s} {error.kept_out:34s} {error.mape:6.2f} {error.median_error:7.2f} "
        f"{error.kendall_tau:6.3f} {cover:>6s} {error.rows}",
        flush=True,
    )


if __name__ == "__main__":
    main()
