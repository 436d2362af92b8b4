"""Each recipe trains, opens what it should, continues exactly, scales gradients as it says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from recipe_turns import (
    assert_same,
    drawn,
    few_examples,
    first_turn,
    gradients_of,
    moment_of,
)
from torch import Tensor

import search_spaces
from nas.errors import UsageError
from nas.training.loop import Progress, Training, fit
from nas.training.recipe import Recipe, get_recipe
from nas.training.recipes.sandwich import Sandwich
from nas.training.turn import Turn, on_soft_labels, soften
from search_spaces.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"epochs": 4, "examples_per_epoch": 64, "batch_size": 16}
CASES = [  # recipe, space, data, fields
    ("progressive-shrinking", "ofa", "digits", {}),
    ("multi-architecture", "vit-resnas", "digits", {"opening": 0.5}),
    ("two-stage-distillation", "lighthubert", "vowels", {}),
    # which hides nothing of its input; the second stage begins where an epoch does
    ("two-stage-distillation", "vit", "digits", {"first": 0.5}),
    ("sandwich", "ofa", "digits", {"random_subnets": 1, "accumulate": 2, "ema": 0.9}),
    ("sandwich", "vit", "digits", {"random_subnets": 3, "apart": 2}),
    ("matformer", "vit", "digits", {"drop_path": 0.3, "optimizer": "sgd"}),
]
IDS = [f"{recipe}-{space}" for recipe, space, _, _ in CASES]


class _Interrupted(Exception):
    pass


_WHOLE: dict[str, Training] = {}


def _whole(
    name: str, space: str, data: str, kw: dict[str, Any]
) -> tuple[Training, SearchSpace, Recipe]:
    """A tiny training, done once."""
    recipe, made = get_recipe(name, **SIZES, **kw), search_spaces.get(space)
    key = f"{name}-{space}"
    if key not in _WHOLE:
        _WHOLE[key] = fit(made, few_examples(data), recipe, seed=3)
    return _WHOLE[key], made, recipe


# --- of all ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "space", "data", "kw"), CASES, ids=IDS)
def test_trains_to_finite_figures(name: str, space: str, data: str, kw: dict[str, Any]) -> None:
    trained, made, recipe = _whole(name, space, data, kw)
    assert len(trained.history) == recipe.epochs
    start = made.supernet(3).state_dict()
    moved = [n for n, w in trained.network.state_dict().items() if not w.equal(start[n])]
    assert len(moved) > len(start) / 2
    for entry in trained.history:
        assert np.isfinite(entry["loss"])
        assert 0 <= entry["quality_smallest"] <= 1


@pytest.mark.parametrize(("name", "space", "data", "kw"), CASES, ids=IDS)
def test_interrupted_and_continued_ends_in_the_same_weights(
    tmp_path: Path, name: str, space: str, data: str, kw: dict[str, Any]
) -> None:
    whole, made, recipe = _whole(name, space, data, kw)

    def stop(now: Progress) -> None:
        if (now.epoch, now.step) == (3, 1):  # within a taught stage that began in epoch 2
            raise _Interrupted

    checkpoint = tmp_path / "unfinished"
    with pytest.raises(_Interrupted):
        fit(made, few_examples(data), recipe, seed=3, progress=stop, checkpoint=checkpoint)
    torch.manual_seed(99)  # a new process has another global generator
    parts = fit(made, few_examples(data), recipe, seed=3, checkpoint=checkpoint)
    for key, weight in whole.network.state_dict().items():
        assert weight.equal(parts.network.state_dict()[key]), key


ALL = [  # on a network without batch norms, whose statistics are of what runs at once
    ("sandwich", {"random_subnets": 1}),
    ("progressive-shrinking", {}),
    ("matformer", {"variant": "sampled"}),
    ("matformer", {"variant": "summed"}),
    ("multi-architecture", {}),
    ("two-stage-distillation", {}),
]


@pytest.mark.parametrize(("name", "kw"), ALL)
def test_accumulated_gradients_are_those_of_the_whole_batch(name: str, kw: dict[str, Any]) -> None:
    sizes = {**SIZES, "epochs": 2, "optimizer": "sgd", "learning_rate": 0.05}
    ended = []
    for accumulate in (1, 4):
        recipe = get_recipe(name, **sizes, **kw, accumulate=accumulate)
        ended.append(fit(search_spaces.get("vit"), few_examples("digits"), recipe, seed=3))
    whole, parts = (trained.network.state_dict() for trained in ended)
    start = search_spaces.get("vit").supernet(3).state_dict()
    for key, weight in whole.items():
        torch.testing.assert_close(parts[key], weight, atol=1e-5, rtol=1e-5)
    moved = max(float((w - start[k]).abs().max()) for k, w in whole.items())
    assert moved > 1e-2


@pytest.mark.parametrize(
    ("space", "name", "kw", "least"),
    [
        ("vit", "multi-architecture", {"accumulate": 5}, 20),
        ("vit", "sandwich", {"batch_size": 300, "accumulate": 70}, 70),  # of 64 examples in all
        ("ofa", "sandwich", {"batch_size": 1}, 2),
        ("ofa", "multi-architecture", {"batch_size": 4}, 8),
    ],
)
def test_parts_that_are_too_small_are_refused(
    space: str, name: str, kw: dict[str, Any], least: int
) -> None:
    recipe = get_recipe(name, **{**SIZES, **kw})
    with pytest.raises(UsageError, match="fewer than") as refused:
        fit(search_spaces.get(space), few_examples("digits"), recipe, seed=3)
    assert f"{least} at least" in refused.value.hint


# --- sandwich, matformer --------------------------------------------------------------------------


def test_sandwich_averages_its_losses() -> None:
    space = search_spaces.get("vit")
    recipe = get_recipe("sandwich", random_subnets=1, soft_labels=0.25)
    turn, network = first_turn(recipe, space, few_examples("digits"), moment_of())
    assert list(turn.subnets[:2]) == [space.largest(), space.smallest()]
    ours = gradients_of(network, recipe.losses(turn))
    logits = turn.run(turn.subnets[0])
    total, soft = turn.on_labels(logits), soften(logits)
    for arch in turn.subnets[1:]:
        logits = turn.run(arch)
        total = total + 0.75 * turn.on_labels(logits) + 0.25 * on_soft_labels(logits, soft)
    assert_same(ours, gradients_of(network, iter([(total, 1 / 3)])))


class _Watched(Sandwich):
    """Notes what each update finds."""

    seen: ClassVar[list[tuple[int, Tensor, Tensor, bool]]] = []

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        weights = torch.cat([p.detach().flatten() for p in turn.network.parameters()])
        self.seen.append((len(turn.subnets), turn.inputs, weights, "soft" in turn.kept))
        yield from super().losses(turn)


def test_sandwich_draws_what_a_time_limit_leaves_time_for() -> None:
    space, recipe = search_spaces.get("vit"), get_recipe("sandwich", random_subnets=14)
    for affordable, steps in ((math.inf, 16), (40.0, 16), (9.7, 9), (3.0, 4), (0.0, 4)):
        moment = replace(moment_of(), affordable=affordable)
        assert len(drawn(recipe, space, moment, 1)[0]) == steps
    one = get_recipe("sandwich", random_subnets=1)  # fewer were asked for than the fewest
    assert len(drawn(one, space, replace(moment_of(), affordable=0.0), 1)[0]) == 3


def test_sandwich_changes_the_weights_after_every_few_subnets() -> None:
    recipe = _Watched(
        epochs=1, examples_per_epoch=32, batch_size=16, random_subnets=3, together=2, warmup=0
    )
    _Watched.seen.clear()
    fit(search_spaces.get("vit"), few_examples("digits"), recipe, seed=0)
    sizes, inputs, weights, taught = zip(*_Watched.seen, strict=True)
    assert sizes == (2, 2, 1) * 2
    assert taught == (False, True, True) * 2
    for at in range(5):
        assert inputs[at].equal(inputs[at + 1]) == (at != 2)
        assert not weights[at].equal(weights[at + 1])


def test_sandwich_s_updates_on_the_same_examples_lie_apart() -> None:
    sizes = {"epochs": 2, "examples_per_epoch": 64, "batch_size": 16, "warmup": 0.0}
    recipe = _Watched(**sizes, random_subnets=3, together=2, apart=2)
    _Watched.seen.clear()
    fit(search_spaces.get("vit"), few_examples("digits"), recipe, seed=0)
    _, inputs, _, taught = zip(*_Watched.seen, strict=True)
    own = inputs[::3]  # a step's first update is on its own examples
    assert taught == (False, True, True) * 8
    for epoch in (0, 4):
        for step in range(4):
            for n in (1, 2):
                drawn_at = max(step - 2 * n, 0)  # an epoch begins anew
                assert inputs[3 * (epoch + step) + n].equal(own[epoch + drawn_at])


def test_updates_lie_apart_until_a_share_of_the_training() -> None:
    sizes = {"epochs": 4, "examples_per_epoch": 48, "batch_size": 16, "warmup": 0.0}
    recipe = _Watched(**sizes, random_subnets=1, together=1, apart=1, apart_until=0.5)
    _Watched.seen.clear()
    fit(search_spaces.get("vit"), few_examples("digits"), recipe, seed=0)
    _, inputs, _, _ = zip(*_Watched.seen, strict=True)
    own = inputs[::3]
    same = [[inputs[3 * at + n].equal(own[at]) for n in (1, 2)] for at in range(12)]
    before = [[True, True], [False, False], [False, False]]
    assert same == before * 2 + [[True, True]] * 6


def test_a_field_that_came_later_leaves_fingerprints_as_they_were() -> None:
    assert "apart" not in Sandwich().record()
    assert Sandwich(apart=3).record() == {**Sandwich().record(), "apart": 3}


@pytest.mark.parametrize(
    "kw",
    [
        {"random_subnets": -1},
        {"together": 0},
        {"apart": -1},
        {"apart_until": 1.5},
        {"soft_labels": -0.1},
        {"soft_labels": 2},
    ],
)
def test_sandwich_refuses_what_is_no_number_or_weight(kw: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="sandwich"):
        get_recipe("sandwich", **kw)


def test_matformer_has_one_granularity_in_all_layers() -> None:
    space = search_spaces.get("matlm")
    sampled = drawn(get_recipe("matformer"), space, moment_of(), 100)
    seen = set()
    for (arch,) in sampled:
        sizes = {value for name, value in arch.items() if name.endswith(".ffn")}
        assert len(sizes) == 1
        seen |= sizes
    assert len(seen) == 4
    (summed,) = drawn(get_recipe("matformer", variant="summed"), space, moment_of(), 1)
    assert summed[0] == space.largest()
    widths = [{v for n, v in arch.items() if n.endswith(".ffn")} for arch in summed]
    assert [len(w) for w in widths] == [1] * 4
    assert set.union(*widths) == seen


def test_matformer_sums_all_granularities() -> None:
    space, recipe = search_spaces.get("matlm"), get_recipe("matformer", variant="summed")
    turn, network = first_turn(recipe, space, few_examples(space.default_data), moment_of(), n=4)
    ours = gradients_of(network, recipe.losses(turn))
    total = torch.stack([turn.on_labels(turn.run(arch)) for arch in turn.subnets]).sum()
    assert_same(ours, gradients_of(network, iter([(total, 1.0)])))
