"""Energy from metered ops and networks of a made-up device whose truth is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import search_spaces
from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import (
    Device,
    DeviceProfile,
    Energy,
    NetworkTiming,
    OpTiming,
    Runtime,
    Timing,
)
from nas.candidate import CandidateSpace
from nas.probes import Probe, ops_of
from predictors.energy import EnergyPredictor, energy_predictor
from predictors.energy_network import fit_energy_model
from predictors.metrics import coverage, mape
from predictors.network import fit_network_model

SPACE = search_spaces.get("vit", "digits")
PRECISIONS = ("fp32", "int8")
JOINT = CandidateSpace(SPACE, PRECISIONS)
TIMING = Timing(median_ms=1.0, spread_within=0.01, spread_between=0.01, repeats=9, processes=3)
PJ_A_MAC = {"fp32": 8.0, "int8": 2.0}


def true_mj(op: Op) -> float:
    """A microjoule a call, picojoules a MAC by precision, and of memory."""
    return 1e-3 + 1e-9 * (PJ_A_MAC[op.precision] * op.macs + 50 * (op.reads + op.writes))


def energy(mj: float) -> Energy:
    return Energy(energy_mj=mj, power_w=10.0, spread=0.02, window_s=1.5, calls=100)


def metered_network(workload: list[Op], factor: float, held_out: bool) -> NetworkTiming:
    """It takes 20 uJ and 1.1 times what its ops take."""
    mj = (0.02 + sum(1.1 * true_mj(op) for op in workload)) * factor
    return NetworkTiming(
        space="vit",
        preset="digits",
        candidate={},
        batch_size=1,
        ops=[(op.kind, op.shape, op.precision) for op in workload],
        timing=TIMING,
        energy=energy(mj),
        held_out=held_out,
    )


def metered_networks(n: int, seed: int, noise: float) -> list[NetworkTiming]:
    rng = np.random.default_rng(seed)
    drawn = map(JOINT.decode, JOINT.choices.sample(n, rng))
    workloads = [Probe(SPACE, candidate, False).workload(1, "fp32") for candidate in drawn]
    factors = np.exp(noise * rng.standard_normal(n))
    return [
        metered_network(workload, float(factor), i % 4 == 3)
        for i, (workload, factor) in enumerate(zip(workloads, factors, strict=True))
    ]


def timed_ops() -> list[OpTiming]:
    """Every op of the space, a third of each kind metered: as far as time allowed."""
    before: Counter[tuple[str, str]] = Counter()
    timed = []
    for op in ops_of(SPACE, PRECISIONS, 1):
        metered = before[op.kind, op.precision] % 3 == 0
        before[op.kind, op.precision] += 1
        timed.append(
            OpTiming(
                kind=op.kind,
                shape=op.shape,
                precision=op.precision,
                timing=TIMING,
                energy=energy(true_mj(op)) if metered else None,
            )
        )
    return timed


OPS = timed_ops()


def predictor(noise: float, **options: object) -> EnergyPredictor:
    networks = metered_networks(60, 0, noise)
    made = DeviceProfile(
        name="made-up",
        device=Device(name="Made Up", vendor="x", kind="cpu"),
        runtime=Runtime(name="onnxruntime", native="fp32"),
        precisions=list(PRECISIONS),
        ops=OPS,
        networks=networks,
        network=fit_network_model(OPS, networks),
        energy=fit_energy_model(OPS, networks, **options),  # type: ignore[arg-type]
    )
    read = energy_predictor(DeviceProfile.model_validate_json(made.model_dump_json()))
    assert read is not None
    return read


def test_networks_that_were_not_metered_are_predicted_and_bounded() -> None:
    found = predictor(0.03)
    others = metered_networks(300, 7, 0.03)
    features = np.array([found.op_features(n.workload()).sum(axis=0) for n in others])
    mean, upper = found.predict(features)
    truth = [n.energy.energy_mj for n in others if n.energy is not None]
    assert mape(truth, mean) < 4
    assert 0.82 < coverage(truth, upper) <= 0.99
    assert np.all(upper >= mean)
    n_ops = sum(op.energy is not None for op in OPS)
    assert f"{n_ops} ops and 45 networks metered" in found.provenance  # of 60, 15 kept out


def test_what_the_duration_differs_by_elsewhere_widens_the_bound() -> None:
    features = predictor(0.02).op_features([OPS[0].op])
    ratios = []
    for drift in ([], [-0.1, 0.0, 0.1]):
        mean, upper = predictor(0.02, drift=drift).predict(features)
        ratios.append(float(upper[0] / mean[0]))
    assert ratios[1] > ratios[0] + 0.02


def test_too_little_is_said() -> None:
    networks = metered_networks(60, 0, 0.01)
    with pytest.raises(ProfileError, match="8 networks are too few"):
        fit_energy_model(OPS, networks[:10])
    few = fit_energy_model(OPS, networks[:13])  # of ten fitted, eight were predicted unseen
    assert few.coverage == pytest.approx(8 / 9, abs=1e-3)
    blind = [op if op.kind != "gelu" else op.model_copy(update={"energy": None}) for op in OPS]
    classes = {(op.kind, op.precision) for op in OPS}
    with pytest.raises(ProfileError, match=f"1 of {len(classes)} kinds of op were not metered"):
        fit_energy_model(blind, networks)
