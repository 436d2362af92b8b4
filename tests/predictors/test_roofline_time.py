"""Forms given by a sheet: exact where they are stated, recovered where they are fitted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.op_time import OpForm, form_class
from predictors.roofline_time import AttentionWaves, Conv2dRoofline, StreamTime

FORMS: list[tuple[str, OpForm, list[float]]] = [
    ("stream", StreamTime(0.002, 1e12, 4.0, 1.5), [17, 64]),
    ("conv2d_roofline", Conv2dRoofline(0.005, 1e14, 1e12, 2.0, 2.0), [1, 3, 224, 224, 64, 16, 16]),
    ("attention_waves", AttentionWaves(108, 3e14, 2e12), [2, 4, 197, 197, 64]),
]


@pytest.mark.parametrize(("name", "form", "shape"), FORMS, ids=[f[0] for f in FORMS])
@given(factor=st.integers(1, 64))
def test_times_are_positive_and_grow_with_the_batch(
    name: str, form: OpForm, shape: list[float], factor: int
) -> None:
    larger = [shape[0] * factor, *shape[1:]]
    small, large = form.predict(np.array([shape, larger], np.float64))
    assert 0 < small <= large
    assert np.all(form.upper_ratio(np.array([shape], np.float64)) > 1.0)


@pytest.mark.parametrize(("name", "form", "shape"), FORMS, ids=[f[0] for f in FORMS])
def test_round_trip_through_json_is_exact(name: str, form: OpForm, shape: list[float]) -> None:
    again = form_class(name).from_params(json.loads(json.dumps(form.to_params())))
    shapes = np.array([shape], np.float64)
    assert again.predict(shapes) == form.predict(shapes)
    assert again.upper_ratio(shapes) == form.upper_ratio(shapes)


@pytest.mark.parametrize(("name", "form", "shape"), FORMS, ids=[f[0] for f in FORMS])
def test_broken_numbers_are_refused(name: str, form: OpForm, shape: list[float]) -> None:
    params = form.to_params()
    first = next(iter(params))
    for broken in ({**params, first: [1.0]}, {**params, first: -1.0}, {}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            form_class(name).from_params(broken)


def test_a_convolution_in_the_limit_of_arithmetic() -> None:
    form = Conv2dRoofline(0.005, 1e12, 1e15, 2.0, 2.0)
    flops = 2 * 8 * 14 * 14 * 768 * 3 * 16 * 16
    time = form.predict(np.array([[8.0, 3, 224, 224, 768, 16, 16]]))
    assert time[0] == pytest.approx(0.005 + 1e3 * flops / 1e12)


def test_attention_waves_are_recovered_from_disturbed_timings() -> None:
    rng = np.random.default_rng(0)
    shapes = np.column_stack(
        [
            rng.choice([1, 2, 8, 64], 800),
            rng.choice([1, 4, 12, 32], 800),
            *[rng.choice([16, 64, 197, 1024, 4096], 800)] * 2,
            rng.choice([64, 80, 128], 800),
        ]
    ).astype(np.float64)
    truth = AttentionWaves(108, 3e14, 2e12, 2.0, 0.006, 0.001, 1.6, 1.2)
    times = truth.predict(shapes) * np.exp(rng.normal(0, 0.02, 800))
    times[::50] *= 5
    fitted = AttentionWaves(108, 3e14, 2e12).fit(shapes, times)
    floor, wave, flop, _ = fitted.coef_
    assert floor == pytest.approx(0.006, rel=0.03)
    assert wave == pytest.approx(0.001, rel=0.1)
    assert flop == pytest.approx(1.6, rel=0.05)
    assert np.median(np.abs(fitted.predict(shapes) / truth.predict(shapes) - 1)) < 0.02


def test_causal_attention_takes_half_of_a_long_full_one() -> None:
    form = AttentionWaves(108, 3e14, 2e12, floor_ms=1e-9, wave_ms=1e-9)
    shapes = np.array([[8.0, 16, 8192, 8192, 128]])
    full, causal = form.predict(shapes)[0], form.predict(shapes, causal=True)[0]
    assert causal / full == pytest.approx(0.5, rel=0.05)
