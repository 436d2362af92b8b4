"""Error of predicted energy per call on a GPU whose matrix products were metered.

    python benchmarks/gpu_energy.py --train PATH... --test PATH... --spec SHEET

Energy is power times the measured latency, on both sides: what is judged is the power predicted of
a call whose duration is known, as constant power is in the comparison. Products are predicted from
the products metered, attention from the shares of the device that it uses: by a fit on the
attention in --train, or on its products alone where there is none. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import judging
import numpy as np
from models.neighbour_trees import NeighbourTrees

from hw_profiles.errors import ProfileError
from hw_profiles.gpus import read_device
from hw_profiles.profile import Device
from hw_profiles.tables import TableRow, read_table
from predictors import metrics
from predictors.conformal import UpperBound
from predictors.op_time import Array
from predictors.power import PRODUCT_START_S, PowerModel
from predictors.power_fits import limit, loads, power, seconds, shapes
from predictors.sheet_models import COVERAGE

# A meter averages over about a second, which is what a sweep gives to a call or more: of a reading
# of attention so much is due to the calls before it. Taken from the H200's context attention.
PERSISTENCE = 0.9
SWEEP_SHARE = 0.6  # of neighbours with the same heads, in a sweep
FEWEST = 40


def main() -> int:
    """Run the benchmark."""
    return judging.run(judge, judging.arguments(__doc__ or "", spec=True))


def judge(given: argparse.Namespace) -> dict[str, float]:
    """The figures of all rows of the test tables."""
    device = read_device(given.spec)
    train = [row for path in given.train for row in metered(path)]
    parts = []
    for path in given.test:
        rows = metered(path)
        for kind in ("linear", "attention"):
            mine = [row for row in rows if row.op.kind == kind]
            if mine:
                predict = predict_products if kind == "linear" else predict_attention
                watts, upper = predict(mine, train, device)
                parts.append((mine, watts, upper))
                tell(kind, mine, watts, train)
    rows = [row for part in parts for row in part[0]]
    ms = np.array([row.latency_ms for row in rows])
    predicted = np.concatenate([part[1] for part in parts]) * ms
    upper = np.concatenate([part[2] for part in parts]) * ms
    return judging.figures(power(rows) * ms, predicted, upper)


def metered(path: Path) -> list[TableRow]:
    """The rows of a table, all with a power."""
    rows = list(read_table(path, fp8=True).rows)
    if any(row.power_w is None for row in rows):
        raise ProfileError(f"{path} has no power of some row.", "It needs a column `power`.")
    return rows


def predict_products(
    rows: list[TableRow], train: list[TableRow], device: Device
) -> tuple[Array, Array]:
    """Watts of products and their upper bounds, from the products metered."""
    known = [row for row in train if row.op.kind == "linear"]
    if len(known) < FEWEST:
        raise ProfileError("too few products to fit.", "Give a GEMM table with power to --train.")
    names = sorted({row.op.precision for row in (*known, *rows)})

    def columns(some: list[TableRow]) -> Array:
        # sizes in the order m, n, k: tables step through k fastest, so neighbours there err alike
        m, k, n = shapes(some).T
        precision = np.array([names.index(row.op.precision) for row in some])
        used = np.log2(np.maximum(loads(some, device), 1e-9))
        return np.column_stack([m, n, k, precision, used, np.log2(seconds(some))])

    X, y = columns(known), power(known)
    _, ids = np.unique(shapes(known), axis=0, return_inverse=True)
    out = (np.random.default_rng(0).permutation(ids.max() + 1) % 5 == 0)[ids]
    trial = NeighbourTrees().fit(X[~out], y[~out])
    bound = UpperBound(COVERAGE).fit(trial.predict(X[out]), y[out])
    watts = np.minimum(NeighbourTrees().fit(X, y).predict(columns(rows)), limit(known))
    tell_without_latency(rows, known, device, columns)
    return watts, watts * bound.ratio(watts)


def tell_without_latency(
    rows: list[TableRow],
    known: list[TableRow],
    device: Device,
    columns: Callable[[list[TableRow]], Array],
) -> None:
    """The error of energy predicted from shapes alone, on stderr: the other reading."""

    def ideal_s(some: list[TableRow]) -> Array:
        # a share of a peak times the duration is the time at that peak
        at_peak: Array = loads(some, device)[:, 1:].max(axis=1)
        return PRODUCT_START_S + at_peak * seconds(some)

    def shape_columns(some: list[TableRow]) -> Array:
        return np.column_stack([columns(some)[:, :4], np.log2(ideal_s(some))])

    watts = power(known) * seconds(known) / ideal_s(known)
    model = NeighbourTrees().fit(shape_columns(known), watts)
    guess = model.predict(shape_columns(rows)) * ideal_s(rows)
    error = metrics.mape(power(rows) * seconds(rows), guess)
    print(f"linear, latency not given either: {error:.2f} %", file=sys.stderr, flush=True)


def predict_attention(
    rows: list[TableRow], train: list[TableRow], device: Device
) -> tuple[Array, Array]:
    """Watts of attention and their upper bounds, from attention metered or from bf16 products."""
    known = [row for row in train if row.op.kind == "attention"]
    if not known:
        # fp8 products were called from the host one by one: their durations are not the GPU's
        known = [row for row in train if row.op.precision == "bf16"]
    if len(known) < FEWEST:
        raise ProfileError("too few calls to fit.", "Give a table with power to --train.")
    kind = known[0].op.kind
    memory = persistence(known) if kind == "attention" else 0.0
    model = PowerModel(limit(known), memory).fit(loads(known, device), power(known))
    bound = UpperBound(COVERAGE).fit(model.predict(loads(known, device)), power(known))
    model.persistence = persistence(rows)
    used = loads(rows, device)
    watts = model.predict(used)
    steady = metrics.mape(power(rows), model.steady(used))
    idle, busy, tensor, moving = model.coef_
    print(
        f"fitted on {len(known)} {kind} calls: {idle:.0f} W idle, +{busy:.0f} W busy, "
        f"+{tensor:.0f} W tensor peak, +{moving:.0f} W bandwidth; "
        f"without the meter's memory {steady:.2f} %",
        file=sys.stderr,
    )
    return watts, watts * bound.ratio(watts)


def persistence(rows: list[TableRow]) -> float:
    """Share of a reading of attention that the rows before it hold; 0 where they are no sweep.

    In a sweep heads stay while batch and tokens change. Cells of that grid that a table lacks were
    metered too, so over a thinned table the meter remembers less.
    """
    sizes = shapes(rows)
    kv_heads = np.array([row.kv_heads for row in rows])
    heads = np.column_stack([sizes[:, [1, 4]], kv_heads])
    if len(rows) < 2 or np.mean((heads[1:] == heads[:-1]).all(axis=1)) < SWEEP_SHARE:
        return 0.0
    cells = len(np.unique(heads, axis=0)) * len(np.unique(sizes[:, [0, 2]], axis=0))
    return float(PERSISTENCE ** max(1.0, cells / len(rows)))


def tell(kind: str, rows: list[TableRow], watts: Array, train: list[TableRow]) -> None:
    """The error by number type, and that of constant power, on stderr."""
    truth = power(rows)
    constant = float(power(train).mean())
    for precision in sorted({row.op.precision for row in rows}):
        these = np.array([row.op.precision == precision for row in rows])
        error = metrics.mape(truth[these], watts[these])
        plain = metrics.mape(truth[these], np.full(these.sum(), constant))
        print(
            f"{kind} {precision}: {error:.2f} %, constant power {plain:.2f} %, {these.sum()} rows",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
