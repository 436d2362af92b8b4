"""Cost tables: array sums over blocks equal the plain sum over a network's ops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
from hw_profiles.op import PRECISIONS, Op
from nas.candidate import CandidateSpace
from predictors.cost_columns import COLUMNS, ENERGY_COLUMNS
from predictors.costs import CostModel
from predictors.energy import EnergyPredictor
from predictors.latency import LatencyPredictor

SCHEMES = ("fp32", "int8", "int4_wo")


class AnalyticLatency(LatencyPredictor):
    """A device whose latency is known exactly: MACs by precision, bytes, and one launch an op."""

    n_features = 2
    coverage = 0.9
    provenance = "an analytic device"

    def op_features(self, ops: Sequence[Op]) -> np.ndarray:
        bits = [PRECISIONS[op.precision].weight_bits for op in ops]
        work = [op.macs * b / 32e6 + op.reads / 1e6 for op, b in zip(ops, bits, strict=True)]
        return np.stack([work, np.ones(len(ops))], axis=1)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        latency = features[:, 0] + 0.002 * features[:, 1]
        return latency, 1.1 * latency


class AnalyticEnergy(EnergyPredictor):
    """Two millijoules a million MACs, and a tenth of that a launch."""

    n_features = 2
    coverage = 0.9
    provenance = "an analytic device"

    def op_features(self, ops: Sequence[Op]) -> np.ndarray:
        return np.array([[2e-6 * op.macs, 0.2] for op in ops])

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        energy = features.sum(axis=1)
        return energy, 1.2 * energy


JOINT = CandidateSpace(search_spaces.get("vit", "digits"), SCHEMES)
PARTS = (JOINT.space, JOINT.choices, SCHEMES, AnalyticLatency())
MODEL = CostModel(*PARTS, batch_size=3)
METERED = CostModel(*PARTS, batch_size=3, energy=AnalyticEnergy())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_tables_add_up_to_the_sum_over_ops(seed: int) -> None:
    genomes = JOINT.choices.sample(3, np.random.default_rng(seed))
    costs = METERED.costs(genomes)
    assert tuple(costs) == METERED.columns == COLUMNS + ENERGY_COLUMNS
    alone = MODEL.costs(genomes)
    assert tuple(alone) == MODEL.columns == COLUMNS
    for name, values in alone.items():
        np.testing.assert_array_equal(values, costs[name])  # energy beside it changes nothing
    for row, genome in enumerate(genomes):
        candidate = JOINT.decode(genome)
        work = JOINT.space.workload(candidate.architecture, 3)
        calls = []
        stored = 0
        for block, item in work:
            scheme = candidate.policy.get(f"{block.name}.{item.group}", "fp32")
            call = item.op.at(scheme)
            calls.append(call)
            stored += call.weight_bytes + 4 * item.extra
        expected = AnalyticLatency().predict(
            AnalyticLatency().op_features(calls).sum(axis=0, keepdims=True)
        )
        assert costs["latency_ms"][row] == pytest.approx(expected[0][0])
        assert costs["latency_ms_upper"][row] == pytest.approx(expected[1][0])
        features = AnalyticEnergy().op_features(calls).sum(axis=0, keepdims=True)
        energy, upper = AnalyticEnergy().predict(features)
        assert costs["energy_mj"][row] == pytest.approx(energy[0])
        assert costs["energy_mj_upper"][row] == pytest.approx(upper[0])
        assert costs["weight_bytes"][row] == stored
        assert costs["params"][row] == sum(item.params for _, item in work)
        assert costs["macs"][row] == sum(item.op.macs for _, item in work)
        assert costs["memory_bytes"][row] == stored + 4 * max(item.live for _, item in work)


def test_inactive_genes_cost_nothing() -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, JOINT.choices.sizes, size=(50, len(JOINT.choices)))
    for ours, theirs in zip(
        MODEL.costs(raw).values(), MODEL.costs(JOINT.choices.canonical(raw)).values(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("column", COLUMNS + ENERGY_COLUMNS)
def test_extremes_bound_every_sample(column: str) -> None:
    sample = METERED.costs(JOINT.choices.sample(5000, np.random.default_rng(1)))[column]
    low, smallest = METERED.extreme(column, largest=False)
    high, largest = METERED.extreme(column, largest=True)
    assert low <= sample.min() <= sample.max() <= high
    assert METERED.costs(smallest[None, :])[column][0] == pytest.approx(low)
    assert METERED.costs(largest[None, :])[column][0] == pytest.approx(high)


def test_int8_stores_fewer_bytes_than_fp32() -> None:
    arch = JOINT.space.largest()

    def stored(scheme: str) -> float:
        candidate = JOINT.uniform(arch, scheme)
        genome = JOINT.encode(candidate.architecture, candidate.policy)
        return float(MODEL.costs(genome[None, :])["weight_bytes"][0])

    assert stored("int4_wo") < stored("int8") < 0.4 * stored("fp32")


@pytest.mark.parametrize("name", sorted(search_spaces.names()))
def test_a_runtime_that_plans_buffers_needs_less_and_never_under_its_inputs(name: str) -> None:
    joint = CandidateSpace(search_spaces.get(name), SCHEMES)

    def memory(**kinds: bool) -> np.ndarray:
        model = CostModel(joint.space, joint.choices, SCHEMES, AnalyticLatency(), **kinds)
        return model.costs(genomes)["memory_bytes"]

    genomes = joint.choices.sample(30, np.random.default_rng(0))
    usual, planned = (
        memory(weights_in_flash=True),
        memory(plans_buffers=True, weights_in_flash=True),
    )
    assert (planned <= usual).all()
    for row, genome in enumerate(genomes):
        work = joint.space.workload(joint.decode(genome).architecture)
        live = [
            item.live - item.op.writes * (item.op.kind in ("gelu", "add", "relu", "mul", "silu",
                                                           "rotary", "hardswish", "hardsigmoid"))
            for _, item in work
        ]  # fmt: skip
        assert planned[row] == 4 * max(live)
        # an op's input and its output, unless they share a place
        assert planned[row] >= 4 * max(min(item.op.reads, item.op.writes) for _, item in work)


def test_weights_in_flash_take_no_memory() -> None:
    genomes = JOINT.choices.sample(50, np.random.default_rng(0))
    flash = CostModel(
        JOINT.space, JOINT.choices, SCHEMES, AnalyticLatency(), 3, weights_in_flash=True
    )
    costs, usual = flash.costs(genomes), MODEL.costs(genomes)
    np.testing.assert_allclose(costs["memory_bytes"] + costs["weight_bytes"], usual["memory_bytes"])
