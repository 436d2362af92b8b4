"""Energy models of GPUs from metered kernel timings, and of those that were never metered.

Power is that of `predictors.power`: idle, and a share each of the multiprocessors, the tensor peak
and the bandwidth. A GPU of which no power was read is given another's watts scaled by its power
limit, with a bound that says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hw_profiles.boards import Board
from hw_profiles.gpus import Gpu
from hw_profiles.op import PRECISIONS
from hw_profiles.profile import Device, NetworkModel
from hw_profiles.tables import TableRow
from predictors.attention_time import call_bytes, call_flops
from predictors.conformal import conformal_quantile
from predictors.gemm_fits import folds_of, plain_error
from predictors.op_time import Array, number
from predictors.power import PowerModel, attention_load, product_load
from predictors.sheet_models import COVERAGE

FEWEST = 200  # metered products in the native type that make a fit
# Power of the bound for a GPU that was not metered: generations share their limit differently
# between multiprocessors, tensor cores and memory.
ELSEWHERE = 1.5
WATTS = ("idle_w", "busy_w", "tensor_w", "memory_w")


def power(rows: Sequence[TableRow]) -> Array:
    """Watts, (n,)."""
    return np.array([row.power_w for row in rows], np.float64)


def limit(rows: Sequence[TableRow]) -> float:
    """The largest power limit of the rows, or the largest power where none is told."""
    return max(row.power_limit_w or row.power_w or 0.0 for row in rows)


def shapes(rows: Sequence[TableRow]) -> Array:
    """Sizes of every op, (n, fields)."""
    return np.array([row.op.shape for row in rows], np.float64)


def seconds(rows: Sequence[TableRow]) -> Array:
    """Latencies, (n,)."""
    return np.array([row.latency_ms for row in rows]) * 1e-3


def loads(rows: Sequence[TableRow], device: Device) -> Array:
    """Shares of the device that calls of one kind use, (n, 3)."""
    sizes, time = shapes(rows), seconds(rows)
    bandwidth, cores = device.bandwidth_bytes_per_s or 0.0, float(device.cores or 1)
    native = native_peak(device)
    if rows[0].op.kind == "attention":
        causal = np.array([row.causal for row in rows])
        kv_heads = np.array([row.kv_heads for row in rows], np.float64)
        flops, moved = call_flops(sizes, causal), call_bytes(sizes, kv_heads)
        return attention_load(sizes, time, flops, moved, native, bandwidth, cores)
    held = [PRECISIONS[row.op.precision] for row in rows]
    bits = np.array([p.activation_bits or 16 for p in held])
    peak = np.where(bits == 8, device.peak_flops.get("int8", 2 * native), native)
    weights = np.array([p.weight_bits for p in held])
    return product_load(sizes, time, (bits + weights) / 16, peak, bandwidth, cores)


def native_peak(device: Device) -> float:
    """The first of its peaks, that of its native type."""
    return next(iter(device.peak_flops.values()))


def fit_energy(
    rows: Sequence[TableRow], device: Device, native: str, source: str
) -> NetworkModel | None:
    """The energy of networks from metered calls; None where there are too few.

    Watts are fitted to products in the native type. The bound is set by products of shapes kept
    out of a fit and by metered attention, which no fit saw: the wider of the two.

    Args:
        rows: those that were metered, of any kind.
        source: of the rows, in words.
    """
    products = [row for row in rows if (row.op.kind, row.op.precision) == ("linear", native)]
    if len(products) < FEWEST:
        return None
    used, watts, most = loads(products, device), power(products), limit(products)
    out = folds_of(shapes(products)) == 0
    kept = PowerModel(most).fit(used[~out], watts[~out]).predict(used[out])
    error = plain_error(watts[out], kept, "power of products of whole shapes, a quarter")
    model = PowerModel(most).fit(used, watts)
    quantiles = [conformal_quantile(np.log(watts[out] / kept), COVERAGE)]
    attention = [row for row in rows if row.op.kind == "attention"]
    if len(attention) >= FEWEST:
        predicted = model.steady(loads(attention, device))
        quantiles.append(conformal_quantile(np.log(power(attention) / predicted), COVERAGE))
    params = dict(zip(WATTS, np.round(model.coef_, 3).tolist(), strict=True))
    seen = f"{len(products)} products and {len(attention)} calls of attention"
    return NetworkModel(
        form="power_times_time",
        params=params | _sizes(device, most) | {"upper_ratio": _ratio(max(quantiles))},
        provenance="fitted",
        source=f"power read under {seen}, {source}, times predicted times",
        coverage=COVERAGE,
        error=error,
    )


def scaled_energy(known: NetworkModel, gpu: Gpu, device: Device) -> NetworkModel:
    """The energy model of a GPU that was not metered: another's watts by the limits of the two."""
    share = gpu.power_w / number(known.params, "limit_w")
    ratio = number(known.params, "upper_ratio")
    if known.provenance == "fitted":
        ratio = _ratio(ELSEWHERE * float(np.log(ratio)) + float(np.log(ELSEWHERE)))
    watts = {name: round(share * number(known.params, name), 3) for name in WATTS}
    source = known.source if known.provenance == "derived" else _elsewhere(known.source)
    if not gpu.power_stated:
        source += (
            f"; its sheet has no `power`, so its limit is guessed at {gpu.power_w:.0f} W, "
            "1 W per TFLOP/s"
        )
    return NetworkModel(
        form="power_times_time",
        params=watts | _sizes(device, gpu.power_w) | {"upper_ratio": ratio},
        provenance="derived",
        source=source,
        coverage=known.coverage,
    )


def _elsewhere(source: str) -> str:
    return f"another GPU's, scaled by the power limits; no power was read on this one ({source})"


def board_energy(board: Board) -> NetworkModel | None:
    """The power of its sheet times the time; None where the sheet has none."""
    if board.power_w is None:
        return None
    most = max(board.power_w, board.highest_w or board.power_w)
    return NetworkModel(
        form="constant_power",
        params={"power_w": board.power_w, "upper_w": most},
        provenance="derived",
        source=f"power under load in the {board.device.source}; nothing was metered",
        coverage=COVERAGE,
    )


def _sizes(device: Device, limit_w: float) -> dict[str, float]:
    native = native_peak(device)
    return {
        "limit_w": limit_w,
        "cores": float(device.cores or 1),
        "bandwidth_bytes_per_s": device.bandwidth_bytes_per_s or 0.0,
        "peak_flops": native,
        "peak_flops_int8": device.peak_flops.get("int8", 2 * native),
    }


def _ratio(log: float) -> float:
    return round(float(np.exp(max(log, 0.0))), 4)
