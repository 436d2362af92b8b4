"""The first look: a fixed stratified sample in whole batches, and when it is enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.data.dataset import Part
from nas.data.first_look import LEAST_BATCHES, MARGIN, FirstLook
from nas.data.metric import ACCURACY, LOSS, Metric
from nas.errors import UsageError


def part(labels: list[int], draws: int = 1, text: bool = False) -> Part:
    stored = torch.zeros(len(labels), 1, dtype=torch.uint8)
    given_labels = torch.tensor([] if text else labels, dtype=torch.int64)
    return Part(stored, given_labels, {"kind": "tokens" if text else "image"}, draws)


@given(
    n=st.integers(LEAST_BATCHES * 2, 900),
    share=st.floats(0.05, 0.95),
    batch_size=st.integers(1, 4),
    text=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_two_looks_are_the_whole_part_in_its_own_batches(
    n: int, share: float, batch_size: int, text: bool, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 7, n).tolist()
    batches = n // batch_size
    if not LEAST_BATCHES <= round(share * batches) < batches:
        with pytest.raises(UsageError, match="--first-look"):
            FirstLook.of(part(labels, text=text), share, batch_size)
        return
    look = FirstLook.of(part(labels, text=text), share, batch_size)
    assert sorted([*look.first.tolist(), *look.rest.tolist()]) == list(range(n))
    assert len(look.first) == round(share * batches) * batch_size
    whole = torch.arange(n).split(batch_size)
    for found in (*look.first.split(batch_size), *look.rest.split(batch_size)):
        assert torch.equal(found, whole[int(found[0]) // batch_size])
    again = FirstLook.of(part(labels, text=text), share, batch_size)
    assert torch.equal(again.first, look.first)


def test_every_label_and_every_original_has_its_share() -> None:
    originals = torch.arange(150).repeat_interleave(12)
    labels = ((originals * 7) % 10).tolist()
    look = FirstLook.of(part(labels, draws=12), 0.25)
    assert torch.bincount(originals[look.first]).tolist() == [3] * 150
    assert torch.bincount(torch.tensor(labels)[look.first]).tolist() == [45] * 10


@given(
    scores=st.lists(st.integers(0, 1), min_size=200, max_size=400),
    offset=st.floats(-0.2, 0.2),
    metric=st.sampled_from([ACCURACY, LOSS]),
)
def test_what_reaches_its_goal_within_the_margin_is_never_given_up(
    scores: list[int], offset: float, metric: Metric
) -> None:
    look = FirstLook.of(part([0] * len(scores)), 0.4)
    found = torch.tensor(scores, dtype=torch.float64)
    estimate, whole = look.estimate(found[look.first]), float(found.mean())
    goal = whole + offset
    reached = whole >= goal if metric.larger_is_better else whole <= goal
    if reached and abs(estimate.quality - whole) <= MARGIN * estimate.noise:
        assert estimate.may_reach(goal, metric)
    far = estimate.quality + (1 if metric.larger_is_better else -1) * (
        MARGIN * estimate.noise + 1e-6
    )
    assert not estimate.may_reach(far, metric)


def test_the_noise_is_that_of_the_first_look_as_an_estimate_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    errors = []
    labels = [0] * 2_000
    look = FirstLook.of(part(labels), 0.25)
    for _ in range(400):
        scores = torch.from_numpy((rng.random(2_000) < 0.8).astype(np.float64))
        estimate = look.estimate(scores[look.first])
        errors.append((estimate.quality - float(scores.mean())) / estimate.noise)
    assert 0.9 < np.std(errors) < 1.1
    assert abs(np.mean(errors)) < 0.15
    alike = torch.from_numpy(np.repeat(rng.integers(0, 2, 20), 100).astype(np.float64))
    assert look.estimate(alike[look.first]).noise < 0.3 * float(alike.std()) / 500**0.5


@pytest.mark.parametrize("batch_size", [1, 4])
def test_traits_that_go_with_the_scores_make_the_estimate_nearer(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    look = FirstLook.of(part([0] * 2_000), 0.25, batch_size)
    plain, nearer = [], []
    for _ in range(400):
        hard = rng.random(2_000)
        right = torch.from_numpy((rng.random(2_000) > hard**3).astype(np.float64))
        traits = torch.from_numpy(np.stack([hard, hard**2, 1 - hard], axis=1))  # one too many
        whole = float(right.mean())
        for traits_or_none, errors in ((None, plain), (traits, nearer)):
            estimate = look.estimate(right[look.first], traits_or_none)
            errors.append((estimate.quality - whole, estimate.noise))
    for errors in (plain, nearer):
        standard = [error / noise for error, noise in errors]
        assert 0.9 < np.std(standard) < 1.1
        assert abs(np.mean(standard)) < 0.15
    assert np.std([e for e, _ in nearer]) < 0.85 * np.std([e for e, _ in plain])


def test_traits_that_tell_nothing_change_nothing() -> None:
    look = FirstLook.of(part([0] * 400), 0.4)
    scores = torch.from_numpy(np.random.default_rng(0).random(len(look.first)))
    alone = look.estimate(scores)
    for traits in (torch.empty(400, 0), torch.ones(400, 2, dtype=torch.float64)):
        found = look.estimate(scores, traits.double())
        assert found.quality == pytest.approx(alone.quality)
        assert found.noise == pytest.approx(alone.noise)


def test_data_too_few_to_be_looked_at_twice() -> None:
    with pytest.raises(UsageError, match="is 10 of 1,000 validation examples") as caught:
        FirstLook.of(part([0] * 1000), 0.01)
    assert caught.value.hint.startswith("Give 0.07 or more")
    with pytest.raises(UsageError, match="of 50 validation batches of 20") as caught:
        FirstLook.of(part([0] * 1000), 0.5, batch_size=20)
    assert caught.value.hint.startswith("Leave it out")
