"""Several targets in one setting: each figure is that of the target alone, in its own words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
from nas.budget import parse_budgets
from nas.errors import BudgetError, NotFoundError, UsageError
from nas.joint_costs import common_schemes
from nas.setting import Setting
from nas.target_names import TARGET_FIGURES, at
from nas.targets import resolve_target

SPACE = search_spaces.get("vit", "digits")
TARGETS = {"a100": resolve_target("a100"), "board": resolve_target("stm32f746")}
JOINT = Setting(SPACE, TARGETS)
ALONE = {label: Setting(SPACE, profile) for label, profile in TARGETS.items()}


def joint(*budgets: str, schemes: list[str] | None = None) -> Setting:
    return Setting(SPACE, TARGETS, 1, parse_budgets(budgets, tuple(TARGETS)), schemes)


def test_schemes_are_what_every_target_runs_its_native_type_first() -> None:
    assert common_schemes(TARGETS) == {"a100": ("bf16", "int8"), "board": ("fp32", "int8")}
    three = {**TARGETS, "v100": resolve_target("v100")}
    assert common_schemes(three) == {"a100": ("bf16",), "board": ("fp32",), "v100": ("fp16",)}
    assert common_schemes({"a100": TARGETS["a100"]}) == {
        "a100": ("bf16", "int8", "int8_wo", "int4_wo")
    }
    only = joint(schemes=["int8"])
    assert only.schemes == {"a100": ("int8",), "board": ("int8",)}
    with pytest.raises(NotFoundError, match=r"scheme on a100 and stm32f746 'int8_wo'"):
        joint(schemes=["int8_wo"])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_figures_are_those_of_each_target_alone(seed: int) -> None:
    genomes = JOINT.candidates.choices.sample(5, np.random.default_rng(seed))
    found = JOINT.costs_of(genomes)
    for label, alone in ALONE.items():
        words = dict(zip(JOINT.candidates.schemes, JOINT.schemes[label], strict=True))
        drawn = [JOINT.candidates.decode(genome) for genome in genomes]
        same = [
            alone.candidates.encode(c.architecture, {g: words[s] for g, s in c.policy.items()})
            for c in drawn
        ]
        expected = alone.costs_of(np.array(same))
        for name in TARGET_FIGURES:
            np.testing.assert_allclose(found[at(name, label)], expected[name], rtol=1e-12)
            if label == "a100":
                assert (found[name] == found[at(name, label)]).all()
        assert (found["macs"] == expected["macs"]).all()


def test_a_trial_keeps_the_figures_on_each_target() -> None:
    genome = JOINT.candidates.choices.sample(1, np.random.default_rng(0))[0]
    costs = {name: float(v[0]) for name, v in JOINT.costs_of(genome[None, :]).items()}
    fields = JOINT.trial_fields(genome)
    assert list(fields["target_costs"]) == ["a100", "board"]
    for label, figures in fields["target_costs"].items():
        assert set(figures) == set(TARGET_FIGURES)
        assert figures["latency_ms"] == costs[at("latency_ms", label)]
        assert figures["weight_bytes"] == round(costs[at("weight_bytes", label)])
    assert fields["latency_ms"] == fields["target_costs"]["a100"]["latency_ms"]
    assert ALONE["a100"].trial_fields(genome)["target_costs"] is None


def test_budgets_are_judged_on_their_targets() -> None:
    made = joint("a100:latency<=0.5*max", "board:100ms", "params<=60k")
    assert [str(b).partition("<=")[0] for b in made.budgets] == [
        "a100:latency", "board:latency", "params", "board:weights",
    ]  # fmt: skip
    assert made.budgets[3].limit == TARGETS["board"].device.flash_bytes  # what the board holds
    alone = Setting(SPACE, {"a100": TARGETS["a100"]}, 1, (), list(common_schemes(TARGETS)["a100"]))
    largest = alone.costs.extreme("latency_ms_upper", largest=True)[0]
    assert made.budgets[0].limit == pytest.approx(largest / 2, rel=0.005)
    genomes = made.candidates.choices.sample(500, np.random.default_rng(1))
    costs = made.costs_of(genomes)
    met = np.all([costs[b.column] <= b.limit for b in made.budgets], axis=0)
    assert 0 < met.sum() < 500
    assert ((made.violation(genomes) <= 0) == met).all()
    assert len(made.require_reachable()) == 4
    again = Setting(SPACE, TARGETS, 1, made.budgets)  # as a study is resumed
    assert again.budgets == made.budgets


def test_what_no_candidate_meets_names_the_target() -> None:
    with pytest.raises(BudgetError, match=r"on board meets board:latency<=1us") as caught:
        joint("board:1us").require_reachable()
    proposed = caught.value.hint.split("Ask for ")[1].split(" or more")[0]
    assert proposed.startswith("board:latency<=")
    joint(proposed).require_reachable()
    low = JOINT.costs.extreme("weight_bytes@board", largest=False)[0]
    fast = JOINT.costs.extreme("latency_ms_upper@a100", largest=False)[0]
    budgets = (f"board:weights<={low * 1.001}B", f"a100:{fast * 1.0001}ms")
    with pytest.raises(BudgetError, match=r"nearest has latency@a100 .*, weights@board "):
        joint(*budgets).require_reachable()


def test_a_target_without_energy_is_named() -> None:
    blind = TARGETS["board"].model_copy(update={"energy": None})
    targets = {"a100": TARGETS["a100"], "board": blind}
    made = Setting(SPACE, targets, 1, parse_budgets(["a100:energy<=0.5*max"], tuple(targets)))
    genome = made.candidates.choices.sample(1, np.random.default_rng(0))[0]
    figures = made.trial_fields(genome)["target_costs"]
    assert "energy_mj" in figures["a100"]
    assert "energy_mj" not in figures["board"]
    with pytest.raises(UsageError, match="the target stm32f746 has no energy figures"):
        made.require_figures(["quality", "energy_mj_upper@a100", "energy_mj_upper@board"])
