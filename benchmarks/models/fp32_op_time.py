"""fp32 op times on a GPU in the tables, or on one of which only the sheet is known.

A call between two events on an idle GPU takes the host's time to issue it plus the kernel's. The
two are kept apart here, for kernels queued behind others hide the first. A kernel's time is its
roofline (arithmetic or bytes at the sheet's rates) over the share of it that is reached. That share
is a property of how a product falls into tiles and waves over the multiprocessors, which carries
over to another GPU at equal waves (the idea of Lee et al., NeuSight, ASPLOS 2025).

A GPU without rows takes the shares of the nearest board with rows: nearest in memory size and
bandwidth, which tell boards of a class apart (a 70 W board never holds its nominal clock).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingRegressor

from hw_profiles.errors import ProfileError
from models.fp32_tables import Array, GpuSheet, OpRows

# Rows and columns of the output that one thread block of a vendor's sgemm makes.
TILES = ((128, 128), (128, 64), (64, 64), (32, 128), (128, 32), (32, 32))
PRODUCTS = ("linear", "bmm")
STREAM_BYTES = {"add": 12.0, "mul": 12.0, "div": 12.0, "addu": 8.0, "mulu": 8.0, "tanh": 8.0}
ROW_OPS = {"softmax": "softmax", "ln": "layer_norm"}
ROW_BYTES = 8.0  # read once, written once
WIDTHS = np.log2([512.0, 1024.0, 2048.0, 4096.0])
# Four schedulers issue one warp instruction a cycle each. Where an SM has 128 fp32 lanes, each
# FMA takes a scheduler's whole cycle, and loads and addresses (about one instruction for seven
# FMAs of an 8 x 8 register tile) take cycles from it; with 64 lanes they fit in between. Published
# sgemm rates agree: 0.78 of the peak on H100 SXM, 0.75 on A10G, 0.81 on H20 (128 lanes) against
# 0.90 on A100 and 0.92 on V100 (64), square products in PyTorch.
FULL_ISSUE_LANES, FULL_ISSUE_SHARE = 128, 0.87
# Boards whose big products reach less than this are held back by power, not by issue.
POWER_BOUND_SHARE = 0.6
MIN_ROWS = 20
INTENSITY = 5  # the column of `_inputs` that places a product against the roofline's ridge


@dataclass(frozen=True)
class DeviceFit:
    """What is known of one GPU in the tables.

    Attributes:
        issue_ms: time that the host takes to issue a call, by kind.
        stream_share: share of the bandwidth that element-wise kernels reach.
        row_shares: the same of row-wise ops at the widths of `WIDTHS`, by kind.
        product: predicts the log of a product's time over its roofline.
        big_share: median share of the arithmetic peak that big products reach.
        product_spread: spread of a product's error (log) where its shape is new.
    """

    sheet: GpuSheet
    issue_ms: dict[str, float]
    stream_share: float
    row_shares: dict[str, Array]
    product: Any
    big_share: float
    product_spread: float


class Fp32OpTimes(BaseEstimator):  # type: ignore[misc]
    """Milliseconds of fp32 kernels by kind and shape, on any GPU that has a sheet.

    Kinds and shapes: `linear` and `bmm`, (batch, m, k, n); `softmax` and `layer_norm`, (rows,
    width); `stream`, (bytes,).

    Args:
        trees: boosting rounds of a product's correction.
        leaves: leaves of each tree.

    Attributes:
        devices_: what was fitted, by the device's full name.
        spread_: spread (log) of the error on an unseen GPU by kind of op: root mean square over
            devices left out, each predicted from the nearest of the others.
        own_spread_: the same on a GPU in the tables, for shapes left out.
    """

    def __init__(self, trees: int = 300, leaves: int = 40) -> None:
        self.trees = trees
        self.leaves = leaves

    def fit(self, rows: Sequence[OpRows], sheets: dict[str, GpuSheet]) -> Fp32OpTimes:
        """Fit every device of the tables that has a sheet.

        Raises:
            ProfileError: if no device has rows of all kinds and a sheet.
        """
        tables: dict[str, dict[str, OpRows]] = {}
        for table in rows:
            tables.setdefault(table.device, {})[table.kind] = table
        needed = {*PRODUCTS, *ROW_OPS}
        self.devices_ = {
            name: self._fit_device(kinds, sheets[name])
            for name, kinds in tables.items()
            if name in sheets and needed <= kinds.keys() and STREAM_BYTES.keys() & kinds.keys()
        }
        if not self.devices_:
            raise ProfileError(
                "no device has fp32 times of linear, bmm, element-wise, layer norm and softmax ops "
                "and a sheet.",
                "Give all tables with --train, and their device_configs.json.",
            )
        self._judge(tables)
        return self

    def known(self, sheet: GpuSheet) -> bool:
        """Whether the tables hold rows of this very device."""
        return sheet.name in self.devices_

    def neighbour(self, sheet: GpuSheet, without: str = "") -> DeviceFit:
        """The fitted device itself, or else the board nearest in memory and bandwidth."""
        if sheet.name in self.devices_ and sheet.name != without:
            return self.devices_[sheet.name]
        others = [fit for name, fit in self.devices_.items() if name != without]

        def distance(fit: DeviceFit) -> float:
            bandwidth = fit.sheet.bandwidth_bytes_per_s / sheet.bandwidth_bytes_per_s
            memory = fit.sheet.memory_bytes / sheet.memory_bytes
            return float(abs(np.log(bandwidth)) + abs(np.log(memory)))

        return min(others, key=distance)

    def issue_ms(self, kind: str, sheet: GpuSheet) -> float:
        """Time that the host takes to issue one kernel of this kind."""
        return self.neighbour(sheet).issue_ms[kind]

    def predict(self, kind: str, shapes: Array, sheet: GpuSheet, without: str = "") -> Array:
        """Milliseconds of the kernels alone, shape (n,).

        Args:
            without: a fitted device whose rows are not to be used.
        """
        fit = self.neighbour(sheet, without)
        if kind in PRODUCTS:
            ratio = np.exp(fit.product.predict(_inputs(shapes, sheet, kind)))
            crowded = sheet.lanes >= FULL_ISSUE_LANES > fit.sheet.lanes
            if crowded and fit.big_share > POWER_BOUND_SHARE:
                ratio = ratio / FULL_ISSUE_SHARE
            return np.asarray(_roofline_ms(shapes, sheet) * np.maximum(ratio, 1.0))
        if kind == "stream":
            moved, share = shapes[:, 0], np.full(len(shapes), fit.stream_share)
        else:
            moved = ROW_BYTES * shapes.prod(axis=1)
            share = _at_width(fit.row_shares[kind], shapes[:, 1])
        return np.asarray(1e3 * moved / (sheet.bandwidth_bytes_per_s * share))

    def spread(self, kind: str, sheet: GpuSheet) -> float:
        """Spread of the log of measured over predicted that ops of a kind share on a device."""
        spreads = self.own_spread_ if self.known(sheet) else self.spread_
        return spreads[kind]

    def _fit_device(self, kinds: dict[str, OpRows], sheet: GpuSheet) -> DeviceFit:
        streams = [kinds[kind] for kind in STREAM_BYTES if kind in kinds]
        stream_ms, per_byte = _affine(
            np.concatenate([STREAM_BYTES[t.kind] * t.shapes.prod(axis=1) for t in streams]),
            np.concatenate([t.latency_ms for t in streams]),
        )
        issue = {"stream": stream_ms}
        row_shares = {}
        for table_kind, kind in ROW_OPS.items():
            table = kinds[table_kind]
            issue[kind] = float(np.clip(0.9 * table.latency_ms.min(), stream_ms, 2.5 * stream_ms))
            row_shares[kind] = _row_shares(table, issue[kind], sheet)
        for kind in PRODUCTS:
            issue[kind] = float(np.quantile(kinds[kind].latency_ms, 0.01))
        inputs, target, big = _product_rows(kinds, sheet, issue)
        halves = self._trees().fit(inputs[::2], target[::2])
        return DeviceFit(
            sheet=sheet,
            issue_ms=issue,
            stream_share=float(np.clip(1e3 / (per_byte * sheet.bandwidth_bytes_per_s), 0.05, 1.0)),
            row_shares=row_shares,
            product=self._trees().fit(inputs, target),
            big_share=float(np.exp(-np.median(target[big] if big.any() else target))),
            product_spread=_spread(target[1::2] - halves.predict(inputs[1::2])),
        )

    def _trees(self) -> Any:
        return HistGradientBoostingRegressor(
            loss="absolute_error",  # a few timings of the tables are many times too slow
            max_iter=self.trees,
            max_leaf_nodes=self.leaves,
            learning_rate=0.06,
            early_stopping=False,
            random_state=0,
        )

    def _judge(self, tables: dict[str, dict[str, OpRows]]) -> None:
        """How far a device is from what the nearest other one says of it, by kind of op."""
        biases: dict[str, list[float]] = {}
        own: dict[str, list[float]] = {}
        for name, fit in self.devices_.items():
            for kind in (*PRODUCTS, *ROW_OPS, "add"):
                table = tables[name].get(kind)
                if table is None:
                    continue
                ours = ROW_OPS.get(kind, "stream" if kind == "add" else kind)
                shapes = table.shapes
                if kind == "add":
                    shapes = STREAM_BYTES["add"] * shapes.prod(axis=1, keepdims=True)
                alone = _without_issue(table.latency_ms, fit.issue_ms[ours])
                big = alone >= np.quantile(alone, 0.5)  # what a network's time is made of
                seen = np.log(alone[big] / self.predict(ours, shapes[big], fit.sheet))
                own.setdefault(ours, []).append(
                    fit.product_spread if ours in PRODUCTS else _spread(seen)
                )
                if len(self.devices_) > 1:
                    unseen = self.predict(ours, shapes[big], fit.sheet, without=name)
                    error = float(np.median(np.log(alone[big] / unseen)))
                    biases.setdefault(ours, []).append(error)
        self.own_spread_ = {kind: float(np.median(values)) for kind, values in own.items()}
        self.spread_ = {
            kind: float(np.sqrt(np.mean(np.square(values)))) for kind, values in biases.items()
        } or self.own_spread_


def _roofline_ms(shapes: Array, sheet: GpuSheet) -> Array:
    batch, m, k, n = shapes.T
    arithmetic = 2.0 * batch * m * k * n / sheet.flops_per_s
    moved = 4.0 * batch * (m * k + k * n + m * n)
    return np.asarray(1e3 * np.maximum(arithmetic, moved / sheet.bandwidth_bytes_per_s))


def _product_rows(
    kinds: dict[str, OpRows], sheet: GpuSheet, issue: dict[str, float]
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Inputs, logs of time over roofline, and which rows are big enough to show the peak."""
    inputs, target, big = [], [], []
    for kind in PRODUCTS:
        table = kinds[kind]
        clear = table.latency_ms > 2.5 * issue[kind]  # below, the host's time drowns the rest
        clear = clear if clear.sum() >= MIN_ROWS else np.full(len(clear), True)
        roofline = _roofline_ms(table.shapes[clear], sheet)
        inputs.append(_inputs(table.shapes[clear], sheet, kind))
        target.append(np.log(_without_issue(table.latency_ms[clear], issue[kind]) / roofline))
        compute_bound = inputs[-1][:, INTENSITY] > 0
        big.append((roofline > np.quantile(roofline, 0.8)) & compute_bound)
    return np.concatenate(inputs), np.concatenate(target), np.concatenate(big)


def _inputs(shapes: Array, sheet: GpuSheet, kind: str) -> Array:
    """Sizes, place against the roofline's ridge, and waves of each tile, (n, 28)."""
    batch, m, k, n = shapes.T
    intensity = 2.0 * m * k * n / (4.0 * (m * k + k * n + m * n))
    ridge = sheet.flops_per_s / sheet.bandwidth_bytes_per_s
    columns = [np.log2(v) for v in (batch, m, k, n, batch * m * n)]
    columns += [np.clip(np.log2(intensity / ridge), -4.0, 4.0)]
    columns += [np.full(len(shapes), float(kind == "bmm"))]
    columns += [_alignment(v) for v in (m, k, n)]  # what is loaded four numbers at a time
    for height, width in TILES:
        down, across = np.ceil(m / height), np.ceil(n / width)
        waves = batch * down * across / sheet.cores
        columns += [
            np.log2(np.clip(waves, 1 / 64, 64.0)),
            np.ceil(waves) / np.maximum(waves, 1 / 16),
            down * height / m * across * width / n,
        ]
    return np.column_stack(columns)


def _alignment(sizes: Array) -> Array:
    """How often a size can be halved, at most twice; sizes of networks nearly always can."""
    return np.asarray((sizes % 2 == 0).astype(np.float64) + (sizes % 4 == 0))


def _affine(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope by reweighted least squares on relative errors."""
    terms = np.column_stack([np.ones_like(x), x / x.mean()])
    weights = 1.0 / y
    solution: Array = np.zeros(2)
    for _ in range(8):
        solution = np.asarray(np.linalg.lstsq(terms * weights[:, None], y * weights)[0])
        residual = np.abs(terms @ solution / y - 1.0)
        weights = 1.0 / y / np.sqrt(np.maximum(residual, 0.02))
    intercept = float(np.clip(solution[0], 1e-3, y.min()))
    slope = max(float(solution[1] / x.mean()), float(np.median(y / x)) / 4)
    return intercept, slope


def _row_shares(table: OpRows, issue: float, sheet: GpuSheet) -> Array:
    """Share of the bandwidth at each width of `WIDTHS`, from the rows around it."""
    alone = _without_issue(table.latency_ms, issue)
    moving = 1e3 * ROW_BYTES * table.shapes.prod(axis=1) / sheet.bandwidth_bytes_per_s
    shares, widths = moving / alone, np.log2(table.shapes[:, 1])
    near = [np.argsort(np.abs(widths - width))[:MIN_ROWS] for width in WIDTHS]
    return np.asarray(np.clip([np.median(shares[rows]) for rows in near], 0.05, 1.0))


def _at_width(shares: Array, widths: Array) -> Array:
    return np.asarray(np.interp(np.log2(widths), WIDTHS, shares))


def _without_issue(latency_ms: Array, issue: float) -> Array:
    # part of the host's time passes while the events themselves do, hence not all of it
    return np.maximum(latency_ms - 0.85 * issue, 0.15 * latency_ms)


def _spread(errors: Array) -> float:
    """Bias and scatter of log errors as one number: half of the scatter averages out in a sum."""
    scatter = float(np.median(np.abs(errors - np.median(errors))))
    return float(np.hypot(np.median(errors), 0.5 * scatter))
