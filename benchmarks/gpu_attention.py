"""Error of predicted attention times: held-out shapes of known GPUs, or a GPU left out.

    python benchmarks/gpu_attention.py --train PATH... --test PATH... --spec SHEET...

Tables are told apart by the GPU in their names (`h200_sxm_encoder_attention.csv.gz`) and sheets
likewise (`spec_h200_sxm.yaml`). A table whose GPU and kind of attention (causal or not) were
trained on is predicted from that GPU's own times, software stack by stack; any other from its sheet
and the times of the other GPUs, with its own times of the other kind where there are some.
Prints the figures of all rows of the test tables together as one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import judging
import numpy as np

from hw_profiles.errors import ProfileError
from hw_profiles.gpus import read_gpu, sheet_of
from hw_profiles.tables import read_table
from predictors import metrics
from predictors.attention_time import AttentionMLP, Chip
from predictors.attention_transfer import AttentionTransfer
from predictors.conformal import UpperBound
from predictors.op_time import Array

COVERAGE = 0.9
TRANSFER_ROWS = 3000  # of each group: the factors need no more
FEWEST = 40  # rows of a stack for a fit of its own
FALLBACK_RATIO = 1.25  # upper bound of a transfer that no other GPU can judge


@dataclass
class Group:
    """Calls of one kind (causal or not) on one GPU, in one software stack.

    Attributes:
        calls: (batch, heads, queries, keys, head_dim, kv_heads, causal), (n, 7).
        measured: milliseconds, (n,).
    """

    gpu: str
    causal: bool
    stack: str
    calls: Array
    measured: Array


def main() -> int:
    """Run the benchmark."""
    return judging.run(judge, judging.arguments(__doc__ or "", spec=True, nargs="+"))


def judge(given: argparse.Namespace) -> dict[str, float]:
    """The figures of all rows of the test tables."""
    chips = dict(chip_of(path) for path in given.spec)
    train = [group for path in given.train for group in groups_of(path, given.spec)]
    tests = [group for path in given.test for group in groups_of(path, given.spec)]
    parts = []
    for group in tests:
        predicted, upper = predict(group, train, chips)
        parts.append((group.measured, predicted, upper))
        kind = "context" if group.causal else "encoder"
        error = metrics.mape(group.measured, predicted)
        print(f"{group.gpu} {kind} {group.stack}: {error:.2f} %", file=sys.stderr, flush=True)
    return judging.figures(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def chip_of(path: Path) -> tuple[str, Chip]:
    """The GPU of a sheet, and what a time depends on of it."""
    gpu = read_gpu(path)
    return gpu.name, Chip.of(gpu)


def groups_of(path: Path, sheets: list[Path]) -> list[Group]:
    """The attention of a table by kind and stack; its GPU's sheet is among those."""
    gpu = read_gpu(sheet_of(path, sheets)).name
    rows = [row for row in read_table(path).rows if row.op.kind == "attention"]
    if not rows:
        raise ProfileError(f"{path} holds no attention.", "Give attention tables.")

    def key(i: int) -> tuple[bool, str]:
        return rows[i].causal, rows[i].stack

    groups = []
    for (causal, stack), members in itertools.groupby(sorted(range(len(rows)), key=key), key=key):
        mine = [rows[i] for i in members]
        calls = [(*row.op.shape, row.kv_heads, float(causal)) for row in mine]
        times = np.array([row.latency_ms for row in mine])
        groups.append(Group(gpu, causal, stack, np.array(calls, np.float64), times))
    return groups


def predict(group: Group, train: list[Group], chips: dict[str, Chip]) -> tuple[Array, Array]:
    """Milliseconds of a group's calls, and their upper bounds, (n,) each."""
    own = [g for g in train if g.gpu == group.gpu]
    same = [g for g in own if g.causal == group.causal]
    if same:
        return predict_known(group, same, chips[group.gpu])
    if all(g.gpu == group.gpu for g in train):
        raise ProfileError(
            f"no other GPU is given to predict {group.gpu} from.", "Add tables to --train."
        )
    predicted = transfer(group.gpu, train, chips).predict(group.calls)
    return predicted, predicted * transfer_bound(group, train, chips, predicted)


def predict_known(group: Group, same: list[Group], chip: Chip) -> tuple[Array, Array]:
    """From the GPU's own times: those of the stack, or the mean over stacks where it is new."""
    stacks = sorted({g.stack for g in same})
    chosen = [group.stack] if group.stack in stacks else stacks
    predictions, widths = [], []
    for stack in chosen:
        mine = [g for g in same if g.stack == stack]
        calls = np.vstack([g.calls for g in mine])
        measured = np.concatenate([g.measured for g in mine])
        if len(calls) < FEWEST:
            raise ProfileError(f"{len(calls)} rows are too few to fit.", f"Give {FEWEST} or more.")
        form = fit_known(calls, measured, chip)
        predictions.append(np.log(form.predict(group.calls[:, :5], group.calls[:, 5])))
        widths.append(np.log(form.upper_ratio(group.calls[:, :5], group.calls[:, 5])))
    logs = np.mean(predictions, axis=0)
    # stacks differ by more than the fit errs: a new one may be as slow as the slowest known
    upper = np.max(np.array(predictions) + np.array(widths), axis=0)
    return np.exp(logs), np.exp(np.maximum(upper, logs))


def fit_known(calls: Array, measured: Array, chip: Chip) -> AttentionMLP:
    """A form of all rows whose bound is calibrated on whole shapes kept out of another fit."""
    shapes, kv_heads = calls[:, :5], calls[:, 5]
    _, ids = np.unique(calls, axis=0, return_inverse=True)
    out = (np.random.default_rng(0).permutation(ids.max() + 1) % 5 == 0)[ids]
    form = AttentionMLP(
        chip.cores, chip.flops_per_s, chip.bandwidth_bytes_per_s, bool(calls[0, 6] > 0)
    )
    form.fit(shapes[~out], measured[~out], kv_heads[~out])
    predicted = form.predict(shapes[out], kv_heads[out])
    form.fit(shapes, measured, kv_heads)
    return form.calibrate(predicted, measured[out], COVERAGE)


def transfer(gpu: str, train: list[Group], chips: dict[str, Chip]) -> AttentionTransfer:
    """A model of that GPU from the calls given, its own of the other kind among them or not."""
    some = [sampled(g) for g in train]
    return AttentionTransfer(chips[gpu]).fit(
        np.vstack([g.calls for g in some]),
        np.concatenate([g.measured for g in some]),
        [chips[g.gpu] for g in some for _ in g.calls],
    )


def transfer_bound(
    group: Group, train: list[Group], chips: dict[str, Chip], predicted: Array
) -> Array:
    """Upper ratio, (n,): the widest that the other GPUs need, each predicted as this one is."""
    has_other_kind = any(g.gpu == group.gpu for g in train)
    ratios = [np.full(len(predicted), 1.0)]
    for gpu in sorted({g.gpu for g in train} - {group.gpu}):
        held = [sampled(g) for g in train if g.gpu == gpu and g.causal == group.causal]
        rest = [
            g
            for g in train
            if g.gpu not in (gpu, group.gpu)
            or (g.gpu == gpu and has_other_kind and g.causal != group.causal)
        ]
        if held and any(g.gpu != gpu and g.causal == group.causal for g in rest):
            model = transfer(gpu, rest, chips)
            guesses = np.concatenate([model.predict(g.calls) for g in held])
            truths = np.concatenate([g.measured for g in held])
            ratios.append(UpperBound(COVERAGE).fit(guesses, truths).ratio(predicted))
    if len(ratios) == 1:
        return np.full(len(predicted), FALLBACK_RATIO)
    return np.max(ratios, axis=0)


def sampled(group: Group) -> Group:
    """At most `TRANSFER_ROWS` of a group's rows."""
    chosen = np.random.default_rng(0).permutation(len(group.calls))[:TRANSFER_ROWS]
    return Group(group.gpu, group.causal, group.stack, group.calls[chosen], group.measured[chosen])


if __name__ == "__main__":
    sys.exit(main())
