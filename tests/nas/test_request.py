"""Requests: checked at once, readable names, a study opened for another is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas
from nas.data.metric import ACCURACY, BITS_PER_BYTE
from nas.errors import NotFoundError, StudyMismatchError, UsageError
from nas.request import SearchRequest, refuse_mismatch


def test_names_are_made_of_space_target_and_budget() -> None:
    request = SearchRequest("vit", "a100", ("5ms",), preset="digits")
    assert request.study_name() == "vit-digits-a100-5ms"
    several = SearchRequest("vit", "some/my cpu.json", ("params<=6M", "0.5ms"), batch_size=8)
    assert several.study_name() == "vit-my-cpu-500us-params-6M-b8"
    assert SearchRequest("vit", "cpu").study_name() == "vit-cpu-free"


def test_names_tell_apart_searches_with_other_objectives_samplers_and_seeds() -> None:
    usual = SearchRequest("vit", "a100", ("5ms",), objectives=("accuracy", "latency"))
    assert usual.study_name() == "vit-a100-5ms"
    text = SearchRequest("matlm", "a100").judged_by(BITS_PER_BYTE)
    assert text.study_name() == "matlm-a100-free"
    pair = SearchRequest("vit", ("a100", "t4")).judged_by(ACCURACY)
    assert pair.study_name() == "vit-a100-t4-free"
    other = SearchRequest("vit", "a100", objectives=("accuracy", "energy"), sampler="tpe", seed=3)
    assert other.study_name() == "vit-a100-free-accuracy-energy-tpe-seed3"
    assert SearchRequest("vit", "a100").judged_by(ACCURACY).study_name() == "vit-a100-free"
    loss = SearchRequest("vit", PAIR, objectives=("loss", "latency@pi-4"))
    assert loss.study_name() == "vit-a100-pi-4-free-loss-latency-pi-4"


@given(
    budgets=st.lists(st.sampled_from(["5ms", "params<=6M", "memory<=1MiB"]), unique=True),
    trials=st.integers(1, 1000),
    schemes=st.none() | st.just(("bf16", "int8")),
)
def test_requests_round_trip_through_json(
    budgets: list[str], trials: int, schemes: tuple[str, ...] | None
) -> None:
    request = SearchRequest("vit", "a100", tuple(budgets), trials=trials, schemes=schemes)
    assert SearchRequest.from_json({**request.to_json(), "profile": "x"}) == request


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"objectives": ("latency",)}, UsageError),
        ({"objectives": "accuracy"}, UsageError),
        ({"schemes": "int8"}, UsageError),
        ({"objectives": ("accuracy", "loss", "latency")}, UsageError),
        ({"objectives": ("latency", "memory")}, UsageError),
        ({"objectives": ("accuracy", "bits_per_byte", "latency")}, UsageError),
        ({"objectives": ("accuracy", "latency", "latency")}, UsageError),
        ({"objectives": ("accuracy", "speed")}, NotFoundError),
        ({"trials": 0}, UsageError),
        ({"batch_size": 0}, UsageError),
        ({"seed": -1}, UsageError),
        ({"budgets": ("5",)}, UsageError),
        ({"budgets": (5,)}, UsageError),
        ({"trials": "7"}, UsageError),
        ({"seed": 0.5}, UsageError),
        ({"preset": 3}, UsageError),
        ({"recipe": 1.5}, UsageError),
    ],
)
def test_wrong_requests_are_refused(fields: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        SearchRequest("vit", "a100", **fields)  # type: ignore[arg-type]


PAIR = ("a100", "boards/pi-4.json")


def test_several_targets_are_called_by_their_names() -> None:
    request = SearchRequest("vit", PAIR, ("a100:5ms", "pi-4:20ms", "params<=6M"))
    assert request.labels == ("a100", "pi-4")
    assert request.study_name() == "vit-a100-5ms-pi-4-20ms-params-6M"
    assert SearchRequest("vit", PAIR).study_name() == "vit-a100-pi-4-free"
    assert SearchRequest.from_json(request.to_json()) == request
    alone = SearchRequest("vit", ("a100",), ("a100:5ms",))
    assert alone.to_json()["target"] == "a100"
    assert alone.study_name() == "vit-a100-5ms"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ((), ("accuracy", "latency@a100", "latency@pi-4")),
        (("params", "accuracy", "energy@pi-4"), ("params", "accuracy", "energy@pi-4")),
        (("accuracy", "memory"), ("accuracy", "memory@a100", "memory@pi-4")),
    ],
)
def test_an_objective_is_of_each_target_or_of_the_one_it_names(
    asked: tuple[str, ...], named: tuple[str, ...]
) -> None:
    judged = SearchRequest("vit", PAIR, objectives=asked).judged_by(ACCURACY)
    assert judged.objectives == named
    assert judged.judged_by(ACCURACY) is judged  # as a study is resumed
    alone = SearchRequest("vit", "a100", objectives=("accuracy", "latency@a100"))
    assert alone.judged_by(ACCURACY).objectives == ("accuracy", "latency")


@pytest.mark.parametrize(
    ("target", "fields", "error"),
    [
        ((), {}, UsageError),
        (("a100", "./a100.json"), {}, UsageError),
        (("a100", "my board.json"), {}, UsageError),
        (("a100", "pi:4"), {}, UsageError),
        (PAIR, {"budgets": ("t4:5ms",)}, NotFoundError),
        (PAIR, {"objectives": ("accuracy", "latency@t4")}, NotFoundError),
        (PAIR, {"objectives": ("accuracy", "params@a100")}, UsageError),
        (PAIR, {"objectives": ("accuracy@a100", "latency")}, UsageError),
        (PAIR, {"objectives": ("accuracy", "latency", "latency@a100")}, UsageError),
    ],
)
def test_wrong_targets_are_refused(
    target: tuple[str, ...], fields: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        SearchRequest("vit", target, **fields)  # type: ignore[arg-type]


def test_what_differs_is_listed() -> None:
    before = {"seed": 0, "trials": 10, "budgets": ["5ms"]}
    go_on = "nas resume 'the s'"
    refuse_mismatch("the s", before, {"seed": 0, "trials": 99, "budgets": ["5ms"]}, go_on)
    for alike in ("5000us", "latency<=5ms", "0.005 s"):
        refuse_mismatch("the s", before, {"budgets": [alike]}, go_on)
    for us in range(1, 1000):  # 144 of them are another float in ms
        typed = {"budgets": [f"{us}us"]}
        refuse_mismatch("the s", typed, {"budgets": [f"{us / 1000:g}ms"]}, go_on)
    pair = {"target": ["a100", "t4"], "budgets": ["5ms"]}
    refuse_mismatch("the s", pair, {**pair, "budgets": ["t4:5ms", "a100:5ms"]}, go_on)
    said = "seed was 0, now 1; budgets was 5ms, now 6ms"
    with pytest.raises(StudyMismatchError, match=said) as caught:
        refuse_mismatch("the s", before, {"seed": 1, "trials": 10, "budgets": ["6ms"]}, go_on)
    assert f"`{go_on}`" in caught.value.hint


def test_objectives_follow_the_metric_of_the_data() -> None:
    free = SearchRequest("matlm", "a100")
    assert free.judged_by(BITS_PER_BYTE).objectives == ("bits_per_byte", "latency")
    assert free.judged_by(ACCURACY).objectives == ("accuracy", "latency")
    asked = SearchRequest("vit", "a100", objectives=("accuracy", "params"))
    assert asked.judged_by(ACCURACY) is asked
    assert asked.quality == "accuracy"
    loss = SearchRequest("vit", "a100", objectives=("loss", "latency"))
    assert loss.judged_by(ACCURACY).quality == "loss"
    with pytest.raises(UsageError, match="judged by bits_per_byte"):
        loss.judged_by(BITS_PER_BYTE)
    with pytest.raises(UsageError, match="judged by bits_per_byte"):
        asked.judged_by(BITS_PER_BYTE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 1.5},
        {"trials": True},
        {"out": None},
        {"time_s": -1},
        {"time_s": float("nan")},
        {"train_time_s": 0},
        {"train_time_s": "2m"},
        {"storage": None},
        {"study": 5},
        {"target": None},
        {"target": 7},
        {"stop_when_flat": "soon"},
    ],
)
def test_wrong_values_from_python_are_told_in_a_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        nas.search(**{"space": "vit", "target": "a100", **wrong})
    (name,) = wrong
    assert name.replace("_", "-") in str(caught.value).replace("_", "-")
