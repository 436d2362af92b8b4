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
import sys
from pathlib import Path

import judging
import numpy as np

from hw_profiles.errors import ProfileError
from hw_profiles.gpus import read_gpu, sheet_of
from hw_profiles.tables import read_table
from predictors import metrics
from predictors.attention_fits import FEWEST, Group, fit_known, sampled, transfer
from predictors.attention_fits import groups_of as attention_groups
from predictors.attention_time import Chip
from predictors.conformal import UpperBound
from predictors.op_time import Array
from predictors.sheet_models import COVERAGE

FALLBACK_RATIO = 1.25  # upper bound of a transfer that no other GPU can judge


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
    groups = attention_groups(read_table(path).rows, gpu)
    if not groups:
        raise ProfileError(f"{path} holds no attention.", "Give attention tables.")
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
        form, *_ = fit_known(calls, measured, chip)
        predictions.append(np.log(form.predict(group.calls[:, :5], group.calls[:, 5])))
        widths.append(np.log(form.upper_ratio(group.calls[:, :5], group.calls[:, 5])))
    logs = np.mean(predictions, axis=0)
    # stacks differ by more than the fit errs: a new one may be as slow as the slowest known
    upper = np.max(np.array(predictions) + np.array(widths), axis=0)
    return np.exp(logs), np.exp(np.maximum(upper, logs))


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
    widest: Array = np.max(ratios, axis=0)
    return widest


if __name__ == "__main__":
    sys.exit(main())
