"""The network predictor on made-up devices whose truth is known, and its life in a profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import search_spaces
from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import (
    Device,
    DeviceProfile,
    NetworkTiming,
    OpTiming,
    Runtime,
    Timing,
    load_profile,
)
from nas.candidate import Candidate, CandidateSpace
from nas.probes import Probe, ops_of, policies
from predictors import measured_ops
from predictors.costs import CostModel
from predictors.latency import latency_predictor
from predictors.measured_ops import MeasuredOps
from predictors.metrics import coverage, mape
from predictors.network import Calibration, fit_network_model, fit_space_models

SPACE = search_spaces.get("vit", "digits")
PRECISIONS = ("fp32", "int8", "int4_wo")
JOINT = CandidateSpace(SPACE, PRECISIONS)
PER_MAC = {"fp32": 3e-8, "int8": 1.2e-8, "int4_wo": 4e-8}


def true_ms(op: Op) -> float:
    """A device with a cost a call, a rate of each precision and a memory rate."""
    return 1e-3 + PER_MAC[op.precision] * op.macs + 2e-7 * (op.reads + op.writes)


def timing(ms: float) -> Timing:
    return Timing(median_ms=ms, spread_within=0.01, spread_between=0.01, repeats=9, processes=3)


def timed_ops(ops: list[Op]) -> list[OpTiming]:
    return [
        OpTiming(kind=o.kind, shape=o.shape, precision=o.precision, timing=timing(true_ms(o)))
        for o in ops
    ]


def timed_network(candidate: Candidate, log_error: float, held_out: bool = False) -> NetworkTiming:
    """It takes 5 us, 1.2 times its ops' time, 0.3 us a call and 2 us a switch of precision."""
    ops = Probe(SPACE, candidate, False).workload(1, "fp32")
    layers = [o.precision for o in ops if o.kind == "linear"]
    switches = len(layers) * (1 - sum((layers.count(p) / len(layers)) ** 2 for p in PRECISIONS))
    ms = 5e-3 + sum(1.2 * true_ms(o) + 3e-4 for o in ops) + 2e-3 * switches
    return NetworkTiming(
        space="vit",
        preset="digits",
        candidate={**candidate.architecture, **candidate.policy},
        batch_size=1,
        ops=[(o.kind, o.shape, o.precision) for o in ops],
        timing=timing(ms * float(np.exp(log_error))),
        held_out=held_out,
    )


def timed_networks(n: int, seed: int, noise: float) -> list[NetworkTiming]:
    """Random candidates, every fourth kept out of fits."""
    rng = np.random.default_rng(seed)
    drawn = map(JOINT.decode, JOINT.choices.sample(n, rng))
    return [
        timed_network(c, noise * rng.standard_normal(), i % 4 == 3) for i, c in enumerate(drawn)
    ]


OPS = timed_ops(ops_of(SPACE, PRECISIONS, 1))


def profile(noise: float = 0.03, n: int = 60) -> DeviceProfile:
    networks = timed_networks(n, 0, noise)
    return DeviceProfile(
        name="made-up",
        device=Device(name="Made Up", vendor="x", kind="cpu"),
        runtime=Runtime(name="onnxruntime", native="fp32"),
        precisions=list(PRECISIONS),
        ops=OPS,
        networks=networks,
        network=fit_network_model(OPS, networks),
    )


def test_networks_that_were_not_in_the_fit_are_predicted() -> None:
    made = profile()
    predictor = latency_predictor(made)
    others = timed_networks(400, 7, 0.03)
    features = np.array([predictor.op_features(n.workload()).sum(axis=0) for n in others])
    assert features.shape == (400, predictor.n_features)
    mean, upper = predictor.predict(features)
    measured = [n.timing.median_ms for n in others]
    assert mape(measured, mean) < 4
    assert 0.82 < coverage(measured, upper) <= 0.99
    assert (upper >= mean).all()
    assert made.network is not None
    assert made.network.error is not None
    assert made.network.error.rows == 15
    assert "measured on Made Up" in predictor.provenance


def test_features_are_additive_so_that_tables_predict_populations() -> None:
    predictor = latency_predictor(profile())
    genomes = JOINT.choices.sample(20, np.random.default_rng(3))
    costs = CostModel(SPACE, JOINT.choices, PRECISIONS, predictor).costs(genomes)
    alone = [
        predictor.predict(
            predictor.op_features(Probe(SPACE, JOINT.decode(g), False).workload(1, "fp32"))
            .sum(axis=0)
            .reshape(1, -1)
        )[0][0]
        for g in genomes
    ]
    np.testing.assert_allclose(costs["latency_ms"], alone, rtol=1e-9)


def test_a_profile_read_back_predicts_the_same(tmp_path: Path) -> None:
    made = profile()
    made.save(tmp_path / "p.json")
    features = latency_predictor(made).op_features([o.op for o in OPS])
    before = latency_predictor(made).predict(features)
    after = latency_predictor(load_profile(tmp_path / "p.json")).predict(features)
    np.testing.assert_array_equal(before, after)


def test_ops_that_were_not_timed_lie_on_the_line_between() -> None:
    order = np.random.default_rng(0).permutation(len(OPS))
    known = [OPS[i] for i in order[: len(OPS) // 2]]
    unknown = [o.op for o in OPS if o not in known and o.kind == "linear"]
    assert len(unknown) > 50
    times = MeasuredOps(known).predict(unknown)
    np.testing.assert_allclose(times, [true_ms(o) for o in unknown], rtol=0.05)
    timed = [o.op for o in known]
    np.testing.assert_array_equal(MeasuredOps(known).predict(timed), [true_ms(o) for o in timed])


def test_mixed_policies_are_predicted_as_well_as_uniform_ones() -> None:
    rng = np.random.default_rng(0)
    archs = [SPACE.choices.decode(g) for g in SPACE.choices.sample(24, rng)]
    drawn = [c for arch in archs for c in policies(SPACE, arch, PRECISIONS, rng)]
    networks = [timed_network(candidate, 0.0) for candidate in drawn]
    predictor = latency_predictor(profile())
    features = np.array([predictor.op_features(n.workload()).sum(axis=0) for n in networks])
    measured = np.array([n.timing.median_ms for n in networks])
    uniform = np.array([len({p for k, _, p in n.ops if k == "linear"}) == 1 for n in networks])

    def gap(switching: bool) -> float:
        """How much slower the mixed are predicted than the uniform, against the truth."""
        quantizable = MeasuredOps(OPS).quantizable & switching
        half = len(networks) // 2
        model = Calibration(quantizable).fit(features[:half], measured[:half])
        ratio = model.predict(features) / measured
        return float(np.abs(ratio[uniform].mean() - ratio[~uniform].mean()))

    assert MeasuredOps(OPS).quantizable.sum() == len(PRECISIONS)
    assert gap(switching=True) < 0.4 * gap(switching=False)


def test_one_disturbed_network_bends_nothing() -> None:
    rng = np.random.default_rng(0)
    features = np.hstack([rng.uniform(0.1, 1, (40, 2)), np.ones((40, 2))])
    measured = 1.1 * features[:, :2].sum(axis=1)
    measured[3] *= 3
    predicted = Calibration(np.ones(2, dtype=bool)).fit(features, measured).predict(features)
    assert np.median(np.abs(predicted / measured - 1)) < 0.01


def test_drift_between_processes_widens_the_bound() -> None:
    networks = timed_networks(60, 0, 0.02)
    calm = fit_network_model(OPS, networks)
    drifting = fit_network_model(OPS, networks, drift=[-0.1, 0.0, 0.1])
    assert drifting.params["upper_ratio"] > calm.params["upper_ratio"]  # type: ignore[operator]


def test_what_a_profile_does_not_know_is_said() -> None:
    with pytest.raises(ProfileError, match="too few"):
        fit_network_model(OPS, timed_networks(5, 0, 0.01))
    with pytest.raises(ProfileError, match="linear in bf16"):
        latency_predictor(profile()).op_features([Op("linear", (17, 16, 16), "bf16")])
    made = profile()
    assert made.network is not None
    broken = made.network.model_copy(update={"params": {"constant_ms": 0.0}})
    with pytest.raises(ProfileError, match="broken numbers"):
        latency_predictor(made.model_copy(update={"network": broken}))


def test_a_space_that_adds_up_otherwise_has_a_model_of_its_own(tmp_path: Path) -> None:
    made = profile()
    slower = [
        n.model_copy(update={"space": "other", "timing": timing(1.2 * n.timing.median_ms)})
        for n in timed_networks(60, 1, 0.01)
    ]
    few = [n.model_copy(update={"space": "rare"}) for n in timed_networks(5, 2, 0.01)]
    networks = [*made.networks, *slower, *few]
    models = fit_space_models(OPS, networks)
    assert set(models) == {f"{SPACE.name}:{SPACE.preset}", f"other:{SPACE.preset}"}
    both = made.model_copy(
        update={
            "networks": networks,
            "network": fit_network_model(OPS, networks),
            "space_networks": models,
        }
    )
    both.save(tmp_path / "p.json")
    again = load_profile(tmp_path / "p.json")
    for space, factor in ((SPACE.name, 1.0), ("other", 1.2)):
        own = again.calibrated_for(space, SPACE.preset)
        assert {n.space for n in own.networks} == {space}
        predictor = latency_predictor(own)
        others = timed_networks(100, 7, 0.01)
        features = np.array([predictor.op_features(n.workload()).sum(axis=0) for n in others])
        measured = [factor * n.timing.median_ms for n in others]
        assert mape(measured, predictor.predict(features)[0]) < 3
    assert again.calibrated_for("rare", SPACE.preset) is again
    assert fit_space_models(OPS, made.networks) == {}


def test_ops_are_fitted_once_for_all_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []

    class Counted(MeasuredOps):
        def __init__(self, *given: object) -> None:
            fits.append(given)
            super().__init__(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(measured_ops, "MeasuredOps", Counted)
    networks = timed_networks(60, 0, 0.01)
    others = [n.model_copy(update={"space": "other"}) for n in networks]
    assert len(fit_space_models(OPS, [*networks, *others])) == 2
    assert len(fits) == 1
