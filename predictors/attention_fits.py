"""Fused attention without a mask on a GPU, from its own timings or from those of other GPUs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hw_profiles.errors import ProfileError
from hw_profiles.gpus import Gpu
from hw_profiles.profile import OpModel
from hw_profiles.tables import TableRow
from predictors.attention_time import AttentionMLP, Chip
from predictors.attention_transfer import AttentionTransfer
from predictors.conformal import UpperBound
from predictors.gemm_fits import STEPS, Tell, plain_error, require_shapes
from predictors.metrics import coverage
from predictors.op_time import Array
from predictors.sheet_models import COVERAGE

TRANSFER_ROWS = 3000  # of each group: the factors need no more
FEWEST = 100  # rows for a fit, whose held-out fifth must make a bound
FEWEST_JUDGED = 40  # held-out rows of which half can judge a bound set by the others
SHORT_TOKENS = 256  # what vision transformers ask for
TRANSFER_HIDDEN = 32  # of the form that carries what is predicted


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


def groups_of(rows: Sequence[TableRow], gpu: str) -> list[Group]:
    """The attention among rows of a GPU's tables by kind and stack."""
    attention = [row for row in rows if row.op.kind == "attention"]

    def key(row: TableRow) -> tuple[bool, str]:
        return row.causal, row.stack

    groups = []
    for (causal, stack), members in itertools.groupby(sorted(attention, key=key), key=key):
        mine = list(members)
        calls = [(*row.op.shape, row.kv_heads, float(causal)) for row in mine]
        times = np.array([row.latency_ms for row in mine])
        groups.append(Group(gpu, causal, stack, np.array(calls, np.float64), times))
    return groups


def sampled(group: Group) -> Group:
    """At most `TRANSFER_ROWS` of a group's rows."""
    chosen = np.random.default_rng(0).permutation(len(group.calls))[:TRANSFER_ROWS]
    return Group(group.gpu, group.causal, group.stack, group.calls[chosen], group.measured[chosen])


def fit_known(
    calls: Array, measured: Array, chip: Chip, steps: int = STEPS
) -> tuple[AttentionMLP, Array, Array]:
    """A form of all rows whose bound is calibrated on whole shapes kept out of another fit.

    Returns:
        the form, and predictions and measurements (n,) of the shapes kept out.
    """
    shapes, kv_heads = calls[:, :5], calls[:, 5]
    _, ids = np.unique(calls, axis=0, return_inverse=True)
    out = (np.random.default_rng(0).permutation(ids.max() + 1) % 5 == 0)[ids]
    form = AttentionMLP(
        chip.cores,
        chip.flops_per_s,
        chip.bandwidth_bytes_per_s,
        bool(calls[0, 6] > 0),
        steps=steps,
    )
    form.fit(shapes[~out], measured[~out], kv_heads[~out])
    predicted = form.predict(shapes[out], kv_heads[out])
    form.fit(shapes, measured, kv_heads)
    return form.calibrate(predicted, measured[out], COVERAGE), predicted, measured[out]


def transfer(gpu: str, train: Sequence[Group], chips: Mapping[str, Chip]) -> AttentionTransfer:
    """A model of that GPU from the calls given, its own of the other kind among them or not."""
    some = [sampled(g) for g in train]
    return AttentionTransfer(chips[gpu]).fit(
        np.vstack([g.calls for g in some]),
        np.concatenate([g.measured for g in some]),
        [chips[g.gpu] for g in some for _ in g.calls],
    )


def timed_attention(
    gpu: Gpu,
    groups: Sequence[Group],
    native: str,
    source: str,
    tell: Tell,
    steps: int = STEPS,
) -> OpModel:
    """Attention without a mask, from the GPU's own timings of it.

    Raises:
        ProfileError: if there are too few.
    """
    own = [g for g in groups if not g.causal]
    calls = np.vstack([g.calls for g in own])
    measured = np.concatenate([g.measured for g in own])
    if len(calls) < FEWEST:
        raise ProfileError(f"{len(calls)} rows are too few to fit.", f"Give {FEWEST} or more.")
    require_shapes("the rows of attention", calls)
    form, predicted, truth = fit_known(calls, measured, Chip.of(gpu), steps)
    error = plain_error(truth, predicted, "whole shapes, a fifth")
    if len(truth) >= FEWEST_JUDGED:
        half = np.arange(len(truth)) % 2 == 0
        bound = UpperBound(COVERAGE).fit(predicted[half], truth[half])
        upper = predicted[~half] * bound.ratio(predicted[~half])
        error = error.model_copy(update={"coverage": round(coverage(truth[~half], upper), 3)})
    tell("attention", error)
    return OpModel(
        kind="attention",
        precision=native,
        form="attention_mlp",
        params=form.to_params(),
        provenance="fitted",
        source=f"times of attention without a mask, {source}.",
        error=error,
    )


def moved_attention(
    gpu: Gpu,
    groups: Mapping[Gpu, Sequence[Group]],
    native: str,
    source: str,
    tell: Tell,
    steps: int = STEPS,
    adjusted: Callable[[UpperBound], UpperBound] = lambda bound: bound,
) -> OpModel:
    """Attention without a mask from other GPUs' timings, and the GPU's own with one if there are.

    The same move is judged on each of those whose times without a mask are known; its errors there
    set the bound. What is predicted for the shapes timed on them is then fitted by a form that a
    profile can carry.

    Args:
        groups: timings of every GPU; of the one that is asked about at most with a mask.
        adjusted: what becomes of the bound where this GPU is farther from those that were timed,
            or nearer, than they are from one another.
    """
    chips = {g.name: Chip.of(g) for g in (*groups, gpu)}
    has_own = any(g.name == gpu.name for g in groups)
    everything = [g for mine in groups.values() for g in mine]
    encoders = [g for g in everything if not g.causal]
    guesses, truths = [], []
    for encoder in encoders:
        train = [
            g
            for g in everything
            if g is not encoder and (has_own or g.gpu != encoder.gpu)  # as little as of this one
        ]
        guesses.append(transfer(encoder.gpu, train, chips).predict(encoder.calls))
        truths.append(encoder.measured)
        tokens = encoder.calls[:, 2]
        for limit in (SHORT_TOKENS, np.inf):
            few = tokens <= limit
            what = f"up to {limit:g} tokens" if limit < np.inf else "all"
            tell(
                f"attention {encoder.gpu}",
                plain_error(truths[-1][few], guesses[-1][few], f"from the other GPUs, {what}"),
            )
    predicted, measured = np.concatenate(guesses), np.concatenate(truths)
    names = " and ".join(sorted({g.gpu for g in encoders}))
    error = plain_error(measured, predicted, f"{names}, each predicted so")
    calls = np.unique(np.vstack([g.calls for g in encoders]), axis=0)
    chip = chips[gpu.name]
    times = transfer(gpu.name, everything, chips).predict(calls)
    form = AttentionMLP(
        chip.cores,
        chip.flops_per_s,
        chip.bandwidth_bytes_per_s,
        hidden=TRANSFER_HIDDEN,
        steps=steps,
    )
    form.fit(calls[:, :5], times)
    tell(
        f"attention {gpu.name}",
        plain_error(times, form.predict(calls[:, :5]), "form against its source"),
    )
    form.calibrate(predicted, measured, COVERAGE)
    form.bound_ = adjusted(form.bound_)
    own = "causal attention times on it, moved to attention without a mask by" if has_own else ""
    return OpModel(
        kind="attention",
        precision=native,
        form="attention_mlp",
        params=form.to_params(),
        provenance="derived",
        source=f"{own or 'its sheet and'} attention times with and without a mask on {names}, "
        f"{source}. Attention without a mask was not timed on this device; error and bound are "
        "those of the others predicted so.",
        error=error,
    )
