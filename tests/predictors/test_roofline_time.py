"""Forms given by a sheet: exact where they are stated, recovered where they are fitted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_profiles import registry
from hw_profiles.op import KINDS, Op
from predictors.op_time import OpForm, OpTimes, form_class
from predictors.roofline_time import (
    AttentionRoofline,
    ConvRoofline,
    GatherTime,
    GemmRoofline,
    PoolTime,
    StreamTime,
)

CONV = ConvRoofline(0.005, 1e14, 1e13, 1e12, 2.0, 2.0, 3.0)
FORMS: list[tuple[str, OpForm, list[float]]] = [
    ("stream", StreamTime(0.002, 1e12, 4.0, 1.5), [17, 64]),
    ("gather_stream", GatherTime(0.002, 1e12, 4.0, 1.5), [17, 256, 64]),
    ("pool_stream", PoolTime(0.002, 1e12, 2.0, 1.5), [1, 64, 14, 14, 2, 2]),
    ("gemm_roofline", GemmRoofline(0.01, 1e10, 1e9, 1.0, 4.0, 2.5), [17, 64, 256]),
    ("attention_roofline", AttentionRoofline(0.01, 1e10, 1e9, 4.0, 2.5, 4.0), [1, 3, 17, 17, 64]),
    ("conv_roofline", CONV, [1, 3, 224, 224, 64, 16, 16, 0, 1]),
    ("conv_roofline", CONV, [1, 512, 3200, 512, 3, 2, 0, 1]),
]


IDS = [f"{name}-{len(shape)}" for name, _, shape in FORMS]


@pytest.mark.parametrize(("name", "form", "shape"), FORMS, ids=IDS)
@given(factor=st.integers(1, 64))
def test_times_are_positive_and_grow_with_the_batch(
    name: str, form: OpForm, shape: list[float], factor: int
) -> None:
    larger = [shape[0] * factor, *shape[1:]]
    small, large = form.predict(np.array([shape, larger], np.float64))
    assert 0 < small <= large
    assert np.all(form.upper_ratio(np.array([shape], np.float64)) > 1.0)


@pytest.mark.parametrize(("name", "form", "shape"), FORMS, ids=IDS)
def test_round_trip_through_json_is_exact(name: str, form: OpForm, shape: list[float]) -> None:
    again = form_class(name).from_params(json.loads(json.dumps(form.to_params())))
    shapes = np.array([shape], np.float64)
    assert again.predict(shapes) == form.predict(shapes)
    assert again.upper_ratio(shapes) == form.upper_ratio(shapes)


@pytest.mark.parametrize(("name", "form", "shape"), FORMS, ids=IDS)
def test_broken_numbers_are_refused(name: str, form: OpForm, shape: list[float]) -> None:
    params = form.to_params()
    first = next(iter(params))
    for broken in ({**params, first: [1.0]}, {**params, first: -1.0}, {}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            form_class(name).from_params(broken)


CONVOLUTIONS = [
    Op("conv2d", (8, 3, 224, 224, 768, 16, 16, 0, 1)),
    Op("conv2d", (1, 64, 15, 13, 128, 3, 2, 1, 1)),
    Op("conv2d", (2, 96, 28, 28, 96, 5, 1, 2, 96)),
    Op("conv1d", (1, 768, 49, 768, 128, 1, 64, 16)),
    Op("conv1d", (1, 1, 16000, 512, 10, 5, 0, 1)),
]


@pytest.mark.parametrize("op", CONVOLUTIONS, ids=lambda op: f"{op.kind}-{op.shape[1]}")
def test_convolutions_have_the_counts_of_their_op(op: Op) -> None:
    shape = np.array([op.shape], np.float64)
    narrow = op.shape[1] == op.shape[-1] > 1
    by_arithmetic = ConvRoofline(0.005, 1e12, 1e11, 1e18, 2.0, 2.0, 3.0).predict(shape)
    assert by_arithmetic[0] == pytest.approx(0.005 + 2e3 * op.macs / (1e11 if narrow else 1e12))
    by_memory = ConvRoofline(0.005, 1e20, 1e20, 1e9, 2.0, 2.0, 3.0).predict(shape)
    assert by_memory[0] == pytest.approx(0.005 + 2e-6 * (op.reads + op.writes + op.weights))
    assert CONV.upper_ratio(shape)[0] == (3.0 if narrow else 2.0)


def test_gathers_and_pools_move_what_their_ops_read_and_write() -> None:
    for op, form in (
        (Op("embedding", (512, 50257, 64)), GatherTime(0.002, 1e9, 2.0, 1.5)),
        (Op("pool", (2, 64, 14, 14, 14, 1)), PoolTime(0.002, 1e9, 2.0, 1.5)),
        (Op("pool", (2, 64, 14, 12, 2, 2)), PoolTime(0.002, 1e9, 2.0, 1.5)),
    ):
        moved = op.writes if op.kind == "embedding" else op.reads + op.writes
        time = form.predict(np.array([op.shape], np.float64))[0]
        assert time == pytest.approx(0.002 + 2e-6 * moved)


def test_the_a100_has_a_time_for_every_kind() -> None:
    profile = registry.load("a100")
    assert {model.kind for model in profile.op_models} == set(KINDS)
    times = OpTimes(profile)
    ops = [op.at("bf16") for op in CONVOLUTIONS]
    assert (times.predict_ms(ops) > 0.002).all()
    assert (times.upper_ratio(ops) >= 1.5).all()


def test_scores_that_are_not_fused_go_through_memory() -> None:
    fused, apart = (AttentionRoofline(0.01, 1e15, 1e9, 4.0, 2.5, passes) for passes in (0.0, 4.0))
    shape = np.array([[1.0, 2.0, 500.0, 500.0, 16.0]])
    more = apart.predict(shape) - fused.predict(shape)
    assert more == pytest.approx(1e3 * 4 * 2 * 500 * 500 * 4 / 1e9)
