"""Profiling this machine: what is chosen, and a short real profile in eager PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_spaces
from hw_profiles.errors import MeasureError, NotFoundError, UsageError
from hw_profiles.harness import Harness, require_harness
from hw_profiles.op import Op
from hw_profiles.profile import Anchor, load_profile
from hw_profiles.runtimes.op_graphs import op_graph
from nas.candidate import CandidateSpace
from nas.probes import Probe, architectures, chosen_spaces, ops_of, policies, wanted_ops
from nas.profiling import _wander, describe_profile, measure_models, profile_device
from nas.targets import local_profile
from predictors.latency import latency_predictor

DIGITS = search_spaces.get("vit", "digits")
PRECISIONS = ["fp32", "int8", "int4_wo"]


def test_default_presets_are_covered_wholly() -> None:
    chosen = {(s.name, s.preset): whole for s, whole in chosen_spaces(None)}
    assert chosen[("vit", "digits")]
    assert not chosen[("vit", "base")]
    assert [whole for _, whole in chosen_spaces(["vit:base"])] == [True]
    with pytest.raises(NotFoundError):
        chosen_spaces(["vti"])


def test_every_op_of_every_candidate_is_wanted() -> None:
    wanted = set(wanted_ops([(DIGITS, True)], PRECISIONS, 1, np.random.default_rng(0)))
    joint = CandidateSpace(DIGITS, tuple(PRECISIONS))
    for genome in joint.choices.sample(50, np.random.default_rng(1)):
        assert set(Probe(DIGITS, joint.decode(genome), False).workload(1, "fp32")) <= wanted


def test_other_presets_are_sampled() -> None:
    base = search_spaces.get("vit", "base")
    few = wanted_ops([(base, False)], PRECISIONS, 1, np.random.default_rng(0))
    assert set(few) < set(ops_of(base, PRECISIONS, 1))
    assert {o.precision for o in few if o.kind == "linear"} == set(PRECISIONS)
    assert {o.kind for o in few} >= {"attention", "layer_norm", "gelu", "add", "linear"}


def test_a_preset_whose_products_are_all_too_large_leaves_its_other_ops() -> None:
    large = search_spaces.get("matlm", "1b")
    few = wanted_ops([(large, False)], PRECISIONS, 16, np.random.default_rng(0))
    assert few
    assert not any(op.kind == "linear" for op in few)


def test_networks_span_the_space_under_every_scheme() -> None:
    rng = np.random.default_rng(0)
    found = architectures(DIGITS, 8, rng)
    assert found[:2] == [DIGITS.largest(), DIGITS.smallest()]
    assert len({DIGITS.describe(a) for a in found}) == 8
    candidates = policies(DIGITS, found[0], PRECISIONS, rng)
    assert [set(c.policy.values()) for c in candidates[:3]] == [{p} for p in PRECISIONS]
    assert all(len(set(c.policy.values())) > 1 for c in candidates[3:])


def test_threads_are_no_more_than_there_are_cores() -> None:
    with pytest.raises(UsageError, match="100000 threads are more than the cores here"):
        require_harness("cpu", threads=100_000)


def test_profiles_of_other_runtimes_have_places_of_their_own() -> None:
    assert local_profile(harness=require_harness("cpu")) == local_profile()
    names = [
        local_profile(b, harness=require_harness(*where)).name
        for b, where in ((1, ("cuda:1",)), (8, ("cuda", "eager")), (1, ("cpu", "eager")))
    ]
    assert names == ["cuda1-cudagraph-bf16.json", "cuda0-eager-bf16-b8.json", "cpu-eager-fp32.json"]
    assert local_profile(8, harness=Harness(threads=8)).name == "cpu-t8-b8.json"
    flushed = require_harness("cuda", flush_l2=True)
    assert local_profile(harness=flushed).name == "cuda0-cudagraph-bf16-l2.json"


def test_a_short_profile_of_eager_pytorch(tmp_path: Path) -> None:
    told: list[float] = []
    path = tmp_path / "mine.json"
    made = profile_device(
        "mine",
        require_harness("cpu", "eager"),
        path,
        spaces=["vit:digits"],
        time_limit_s=14,
        processes=2,
        progress=lambda text, share: told.append(share),
    )
    assert load_profile(path) == made
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert made.precisions == ["fp32"]
    assert made.network is not None
    assert made.network.error is not None
    assert any(n.held_out for n in made.networks)
    lines = "\n".join(describe_profile(made))
    assert "1 thread" in lines
    assert "not in the fit" in lines
    assert "between processes" in lines
    predictor = latency_predictor(made)
    features = predictor.op_features(
        Probe(
            DIGITS, policies(DIGITS, DIGITS.largest(), ["fp32"], np.random.default_rng(0))[0], False
        ).workload(1, "fp32")
    )
    mean, upper = predictor.predict(features.sum(axis=0, keepdims=True))
    assert 0 < mean[0] <= upper[0] < 1000


def test_too_little_time_is_said_before_anything_is_timed() -> None:
    told: list[float] = []

    def process(request: dict[str, object], threads: int) -> dict[str, object]:
        raise AssertionError("no process measures when the time is over")

    with pytest.raises(MeasureError, match="too short to measure enough") as refused:
        profile_device(
            "mine",
            require_harness("cpu"),
            spaces=["vit:digits"],
            time_limit_s=0.01,
            progress=lambda text, share: told.append(share),
            process=process,
        )
    assert "nas profile --time" in refused.value.hint
    assert all(share <= 1 for share in told)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"runtime": "cudagraph"}, UsageError),
        ({"threads": 0}, UsageError),
    ],
)
def test_harnesses_that_make_no_sense_are_refused(
    options: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        require_harness("cpu", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, UsageError),
        ({"spaces": ["vit:digit"]}, NotFoundError),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    options: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        profile_device("x", Harness(), **options)  # type: ignore[arg-type]


@given(st.lists(st.floats(1.0, 1.5), min_size=1, max_size=5))
def test_a_session_may_be_as_much_slower_as_one_calm_process_than_another(
    levels: list[float],
) -> None:
    anchor = Anchor(
        undisturbed_ms=1.0,
        slow_above=1.1,
        times_s=[float(i) for i in range(3 * len(levels))],
        relative=[level for level in levels for _ in range(3)],
        starts=list(range(0, 3 * len(levels), 3)),
    )
    assert anchor.levels == levels
    found = _wander(anchor)
    calm = [level for level in levels if level <= 1.1]
    if len(calm) < 2:
        assert found == [0.0]
        return
    assert len(found) == len(calm) * (len(calm) - 1)
    assert sum(found) == pytest.approx(0.0, abs=1e-9)
    assert max(found) == pytest.approx(np.log(max(calm) / min(calm)))
    wider = _wander(anchor, 0.02)
    assert np.std(wider) == pytest.approx(np.hypot(np.std(found), 0.02), rel=0.1)


def test_models_are_timed_in_processes_of_their_own() -> None:
    models = [op_graph(Op("gelu", (17, n))) for n in (16, 4096)]
    measured = measure_models(models, processes=1)
    small, large = measured.timings
    assert 0 < measured.undisturbed_ms < 10
    assert large.median_ms > small.median_ms > 0
    assert large.processes == 1
    with pytest.raises(MeasureError, match="refuses"):
        measure_models([onnx.ModelProto()], processes=1)
    with pytest.raises(MeasureError, match="too short"):
        measure_models(models, processes=1, time_limit_s=1e-9)
