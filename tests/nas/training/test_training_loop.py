"""Training learns, ends in time, continues where it stood, and stops at a loss that is none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import search_spaces
from nas.data import Dataset, load_dataset
from nas.errors import CheckpointError, UsageError
from nas.training import Progress
from nas.training.checkpoint import read_tensors, write_tensors
from nas.training.clock import Clock
from nas.training.evaluate import quality, threads_for
from nas.training.loop import TrainingError, fit
from nas.training.recipe import Moment, Stage
from nas.training.recipes.sandwich import Sandwich
from nas.training.schedule import Schedule
from nas.training.turn import Turn
from search_spaces.space import Architecture, SearchSpace


class _Interrupted(Exception):
    pass


def _stop_at(epoch: int, step: int) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        if (now.epoch, now.step) == (epoch, step):
            raise _Interrupted

    return progress


def test_learns_above_chance_and_tells_its_progress(space: SearchSpace, data: Dataset) -> None:
    told: list[Progress] = []
    recipe = Sandwich(epochs=2, examples_per_epoch=800, batch_size=16, random_subnets=1)
    trained = fit(space, data, recipe, seed=0, progress=told.append)
    assert trained.history[-1]["quality_largest"] > 0.4  # chance is 0.1
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert quality(trained.network, space.largest(), data.test, data.metric) > 0.4
    assert len(told) == 2 * (told[0].steps + 1)
    assert [p.share for p in told] == sorted(p.share for p in told)
    assert told[-1].share == 1
    assert told[-1].qualities["largest"] == trained.history[-1]["quality_largest"]
    assert trained.ended_by == "epochs"


@pytest.mark.parametrize(
    ("epoch", "step", "optimizer"),
    [(2, 1, "adamw"), (3, 2, "adamw"), (3, 2, "lazy-adamw"), (3, 2, "sgd")],
)
def test_interrupted_and_continued_ends_in_the_same_weights(
    tiny: Sandwich,
    space: SearchSpace,
    data: Dataset,
    tmp_path: Path,
    epoch: int,
    step: int,
    optimizer: str,
) -> None:
    recipe = replace(tiny, epochs=3, optimizer=optimizer)
    whole = fit(space, data, recipe, seed=3)
    checkpoint = tmp_path / "unfinished"
    with pytest.raises(_Interrupted):
        fit(
            space,
            data,
            recipe,
            seed=3,
            progress=_stop_at(epoch, step),
            checkpoint=checkpoint,
        )
    torch.manual_seed(99)  # a new process has another global generator
    parts = fit(space, data, recipe, seed=3, checkpoint=checkpoint)
    assert len(parts.history) == 3
    for name, weight in whole.network.state_dict().items():
        assert weight.equal(parts.network.state_dict()[name]), name


def test_continued_without_its_time_limit_a_training_goes_on_from_where_it_stood(
    tiny: Sandwich, space: SearchSpace, data: Dataset, tmp_path: Path
) -> None:
    recipe, checkpoint = replace(tiny, epochs=100_000), tmp_path / "unfinished"
    stood: list[Progress] = []

    def stop(now: Progress) -> None:
        if stood and now.epoch > stood[0].epoch and now.step < now.steps:
            raise _Interrupted
        if now.share > 0.3 and now.step == now.steps:
            stood[:] = [now]

    with pytest.raises(_Interrupted):
        fit(space, data, recipe, 0, time_limit_s=4.0, progress=stop, checkpoint=checkpoint)
    told: list[Progress] = []

    def look(now: Progress) -> None:
        told.append(now)
        if len(told) == 3:
            raise _Interrupted

    with pytest.raises(_Interrupted):
        fit(space, data, recipe, 0, progress=look, checkpoint=checkpoint)
    shares = [now.share for now in told]
    assert told[0].epoch == stood[0].epoch + 1
    assert stood[0].share <= shares[0] < shares[1] < 1
    assert shares[-1] < stood[0].share + 0.01  # of 100,000 epochs three steps are little


def test_time_that_is_up_inside_the_last_epoch_ends_the_training(
    tiny: Sandwich, space: SearchSpace, data: Dataset
) -> None:
    recipe = replace(tiny, epochs=1, examples_per_epoch=None, random_subnets=20)
    steps: list[int] = []
    trained = fit(
        space, data, recipe, 0, time_limit_s=0.5, progress=lambda now: steps.append(now.step)
    )
    assert steps[-1] < len(data.train) // recipe.batch_size
    assert trained.ended_by == "time"


def test_another_seed_ends_in_other_weights(
    tiny: Sandwich, space: SearchSpace, data: Dataset
) -> None:
    recipe = replace(tiny, epochs=1)
    one, two = (fit(space, data, recipe, seed).network.state_dict() for seed in (0, 1))
    assert not all(one[name].equal(two[name]) for name in one)


def test_time_limit_ends_a_long_training_with_a_rate_of_zero(
    tiny: Sandwich, space: SearchSpace, data: Dataset
) -> None:
    told: list[Progress] = []
    began = time.monotonic()
    trained = fit(
        space,
        data,
        replace(tiny, epochs=100_000),
        seed=0,
        time_limit_s=1.0,
        progress=told.append,
    )
    assert trained.ended_by == "time"
    assert told[-1].share == 1
    assert told[-1].seconds_left == 0
    assert trained.history[-1]["quality_largest"] >= 0
    assert time.monotonic() - began < 60  # it ends at all


def test_clock_counts_the_subnets_that_its_limit_leaves_time_for() -> None:
    assert Clock(None).affordable(0.0, 10) == math.inf
    clock = Clock(60.0)
    assert clock.affordable(0.0, 10) == 0  # none was timed yet
    clock.subnets = 80
    assert clock.affordable(0.25, 20) == pytest.approx(12)
    clock.start_share = 0.2  # continued: the subnets are of 0.05 of the training
    assert clock.affordable(0.25, 20) == pytest.approx(60)


def test_loop_tells_a_recipe_what_time_leaves(
    tiny: Sandwich, space: SearchSpace, data: Dataset
) -> None:
    affordable: list[float] = []

    @dataclass(frozen=True)
    class Asked(Sandwich):
        def subnets(
            self, space: SearchSpace, moment: Moment, rng: np.random.Generator
        ) -> Sequence[Architecture]:
            affordable.append(moment.affordable)
            return super().subnets(space, moment, rng)

    recipe = Asked(**{**asdict(tiny), "epochs": 100_000})
    fit(space, data, recipe, seed=0, time_limit_s=0.5)
    assert affordable[0] == 0
    assert all(0 < n < 1 for n in affordable[1:])  # of so many epochs
    affordable.clear()
    fit(space, data, replace(recipe, epochs=1), seed=0)
    assert set(affordable) == {math.inf}


def test_joined_batches_count_as_so_many_steps(
    tiny: Sandwich, space: SearchSpace, data: Dataset
) -> None:
    sizes: list[int] = []

    @dataclass(frozen=True)
    class Joined(Sandwich):
        def joined(self, moment: Moment) -> int:
            return 2

        def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
            sizes.append(len(turn.inputs))
            return super().losses(turn)

    steps: list[int] = []
    recipe = Joined(**{**asdict(tiny), "epochs": 1, "random_subnets": 0})
    trained = fit(space, data, recipe, seed=0, progress=lambda now: steps.append(now.step))
    assert sizes == [32, 16]  # of the three batches of 16
    assert steps == [2, 3, 3]
    assert (trained.ended_by, trained.history[-1]["share"]) == ("epochs", 1.0)


def test_sandwich_joins_batches_where_time_is_short() -> None:
    moment = Moment(Stage("all"), 0, 0.0)
    recipe = Sandwich(batch_size=16)
    assert recipe.joined(moment) == 1
    assert recipe.joined(replace(moment, affordable=4.0)) == 1
    assert recipe.joined(replace(moment, affordable=3.9)) == 2
    assert replace(recipe, batch_size=64).joined(replace(moment, affordable=1.0)) == 1


def test_loss_that_is_no_number_names_the_step(
    tiny: Sandwich, space: SearchSpace, data: Dataset
) -> None:
    wild = replace(tiny, learning_rate=1e6, warmup=1e-9)
    with pytest.raises(TrainingError, match=r"step \d+ of epoch 1"):
        fit(space, data, wild, seed=0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("history", [1]),
        ("history", [{"epoch": 1}]),
        ("history", [{"share": 0.5, "seconds": float("nan")}]),
        ("history", [{"share": 1.0, "seconds": 3.0}]),
        ("stage", 7),
        ("stage", -1),
    ],
)
def test_damaged_record_of_a_checkpoint_is_refused(
    tiny: Sandwich, space: SearchSpace, data: Dataset, tmp_path: Path, key: str, value: object
) -> None:
    path = tmp_path / "unfinished"
    with pytest.raises(_Interrupted):
        fit(space, data, tiny, seed=0, progress=_stop_at(2, 1), checkpoint=path)
    tensors, record = read_tensors(path)
    write_tensors(path, tensors, {**record, key: value})
    with pytest.raises(CheckpointError, match="another training"):
        fit(space, data, tiny, seed=0, checkpoint=path)


def test_checkpoint_of_another_training_is_refused(
    tiny: Sandwich, space: SearchSpace, data: Dataset, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "unfinished"
    with pytest.raises(_Interrupted):
        fit(
            space,
            data,
            tiny,
            seed=0,
            progress=_stop_at(2, 1),
            checkpoint=checkpoint,
        )
    with pytest.raises(CheckpointError, match="another training"):
        fit(space, data, tiny, seed=1, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        fit(space, data, tiny, seed=0, checkpoint=checkpoint)


def test_data_must_fit_the_space(tiny: Sandwich, space: SearchSpace) -> None:
    other = search_spaces.get("vit", "digits", n_classes=3)
    with pytest.raises(UsageError, match="3 classes"):
        fit(other, load_dataset("digits"), tiny, seed=0)
    with pytest.raises(UsageError, match="train-time"):
        fit(space, load_dataset("digits"), tiny, seed=0, time_limit_s=0.0)


def test_rate_rises_and_falls() -> None:
    recipe = Sandwich()
    rate = Schedule(recipe).rate
    assert rate(0, 0) == 0
    assert rate(recipe.warmup, recipe.warmup) == pytest.approx(recipe.learning_rate)
    assert rate(1, 1) == pytest.approx(0)


def test_time_limit_hastens_the_fall_of_the_rate_but_not_its_rise() -> None:
    recipe = Sandwich()
    rate = Schedule(recipe).rate
    few_steps = recipe.warmup / 10
    assert rate(0.02, few_steps) == pytest.approx(recipe.learning_rate / 10)
    assert rate(0.3, few_steps) > recipe.learning_rate / 2
    assert rate(1, few_steps) == pytest.approx(0)


def test_small_networks_train_in_one_thread(space: SearchSpace) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(space.supernet(0)):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with threads_for(torch.nn.Linear(1000, 1000)):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
