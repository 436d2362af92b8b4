"""Whether a budget can be met is known before any training, and said with the nearest value."""

from __future__ import annotations

import numpy as np
import pytest

import search_spaces
from hw_profiles.profile import NetworkModel, PowerSource
from nas.budget import Budget, parse_budgets
from nas.errors import BudgetError, NotFoundError, UsageError
from nas.setting import Setting, with_capacities
from nas.targets import resolve_target

SPACE = search_spaces.get("vit", "digits")
A100 = resolve_target("a100")


def setting(*budgets: str, schemes: list[str] | None = None) -> Setting:
    return Setting(SPACE, A100, 1, parse_budgets(budgets), schemes)


def test_a_loose_budget_does_not_bind_and_says_so() -> None:
    (reach,) = setting("5ms").require_reachable()
    assert not reach.binds
    assert reach.share == 1.0
    assert "does not bind" in str(reach)


def test_a_binding_budget_states_its_share() -> None:
    made = setting("params<=60k")
    (reach,) = made.require_reachable()
    genomes = made.candidates.choices.sample(4000, np.random.default_rng(5))
    met = (made.costs.costs(genomes)["params"] <= 60_000).mean()
    assert reach.binds
    assert reach.share == pytest.approx(met, abs=0.03)
    assert "of the space meets it" in str(reach)
    assert ((made.violation(genomes) <= 0) == (made.costs.costs(genomes)["params"] <= 60_000)).all()


def test_a_share_of_the_largest_is_resolved() -> None:
    made = setting("params<=0.5*max")
    largest = made.costs.extreme("params", largest=True)[0]
    assert made.budgets[0].limit == pytest.approx(largest / 2)


def test_no_network_of_one_layer_is_below_the_least_latency() -> None:
    made = setting("5ms")  # on the A100 a wider network of one layer is quicker than the narrowest
    choices = made.candidates.choices
    free = [i for i, c in enumerate(choices.choices) if c.name.startswith(("embed", "layers.0."))]
    every = np.stack(np.meshgrid(*(np.arange(choices.sizes[i]) for i in free)), -1)
    genomes = np.zeros((every.size // len(free), len(choices)), dtype=np.int64)
    genomes[:, free] = every.reshape(-1, len(free))
    bounds = made.costs.costs(choices.canonical(genomes))["latency_ms_upper"]
    least, _ = made.costs.extreme("latency_ms_upper", largest=False)
    assert least == pytest.approx(bounds.min(), rel=1e-9)


@pytest.mark.parametrize("budget", ["1us", "params<=1k", "memory<=1KiB", "macs<=100"])
def test_an_impossible_budget_names_one_that_is_met(budget: str) -> None:
    with pytest.raises(BudgetError, match="least it can reach") as caught:
        setting(budget).require_reachable()
    assert caught.value.exit_code == 3
    proposed = caught.value.hint.split("Ask for ")[1].split(" or more")[0]
    (reach,) = setting(proposed).require_reachable()
    assert reach.smallest <= reach.budget.limit


@pytest.mark.parametrize("budgets", [[], ["memory<=100KiB"], ["memory<=400KiB"]])
def test_a_device_that_holds_no_candidate_proposes_no_budget(budgets: list[str]) -> None:
    board, space = resolve_target("stm32f746"), search_spaces.get("matlm", "pydoc")
    with pytest.raises(BudgetError) as caught:
        Setting(space, board, 1, parse_budgets(budgets)).require_reachable()
    text = str(caught.value)
    assert "fits on stm32f746: the smallest needs 504 KiB of memory" in text
    assert "the device holds 320 KiB. Choose another target, space or preset." in text


def test_a_device_s_own_limit_is_not_to_be_loosened() -> None:
    device = A100.device.model_copy(update={"memory_bytes": 12 * 1024})
    board = A100.model_copy(update={"device": device})
    free = Setting(SPACE, board)
    low_ms = free.costs.extreme("latency_ms_upper", largest=False)[0]
    assert [b.quantity for b in free.budgets] == ["memory"]
    free.require_reachable()
    with pytest.raises(BudgetError, match="together") as caught:
        Setting(SPACE, board, 1, parse_budgets([f"{low_ms * 1.0001}ms"])).require_reachable()
    assert caught.value.hint.startswith("Loosen latency<=")
    assert "memory" not in caught.value.hint


def test_budgets_that_exclude_each_other_are_refused_together() -> None:
    lone = setting("params<=2.1k", "weights<=2700B")
    lone.require_reachable()
    # int4 stores fewer bytes and takes longer than bf16: both at their least is impossible
    low_bytes = setting().costs.extreme("weight_bytes", largest=False)[0]
    low_ms = setting().costs.extreme("latency_ms_upper", largest=False)[0]
    with pytest.raises(BudgetError, match="together"):
        setting(f"{low_ms * 1.001}ms", f"weights<={low_bytes * 1.001}B").require_reachable()


def test_schemes_can_be_restricted() -> None:
    made = setting(schemes=["bf16", "int4_wo"])
    assert made.candidates.schemes == ("bf16", "int4_wo")
    only = setting(schemes=["int8"])
    assert only.costs.first.native == "bf16"  # what is not quantized stays native
    with pytest.raises(NotFoundError, match="'int8'"):
        setting(schemes=["int9"])


def test_what_a_microcontroller_holds_is_a_budget() -> None:
    board = resolve_target("stm32f746")
    made = Setting(SPACE, board, 1, parse_budgets(["200ms"]))
    assert {str(b) for b in made.budgets} == {"latency<=200ms", "weights<=1MiB"}
    again = Setting(SPACE, board, 1, made.budgets)  # as a study is resumed
    assert again.budgets == made.budgets
    largest = made.candidates.uniform(SPACE.largest(), "fp32")
    genome = made.candidates.encode(largest.architecture, largest.policy)
    assert made.violation(genome[None, :])[0] > 0


@pytest.mark.parametrize(
    ("asked", "held", "left"), [(100.0, 200.0, 100.0), (300.0, 200.0, 200.0), (None, 200.0, 200.0)]
)
def test_the_smaller_of_budget_and_capacity_counts(
    asked: float | None, held: float, left: float
) -> None:
    budgets = [Budget("latency", 5.0)] + ([Budget("memory", asked)] if asked else [])
    found = {b.quantity: b.limit for b in with_capacities(budgets, [Budget("memory", held)])}
    assert found == {"latency": 5.0, "memory": left}


def test_energy_is_limited_only_where_the_target_has_figures() -> None:
    model = NetworkModel(
        form="constant_power",
        params={"power_w": 200.0, "upper_w": 300.0},
        provenance="derived",
        source="made up",
        coverage=0.9,
    )
    board = A100.model_copy(update={"energy": model})
    made = Setting(SPACE, board, 1, parse_budgets(["energy<=0.5*max"]))
    (reach,) = made.require_reachable()
    assert reach.largest == pytest.approx(300.0 * made.costs.extreme("latency_ms_upper", True)[0])
    assert made.budgets[0].limit == pytest.approx(reach.largest / 2)
    genomes = made.candidates.choices.sample(500, np.random.default_rng(0))
    costs = made.costs_of(genomes)
    assert ((made.violation(genomes) <= 0) == (costs["energy_mj_upper"] <= reach.largest / 2)).all()
    fields = made.trial_fields(genomes[0])
    assert (fields["energy_mj"], fields["energy_mj_upper"]) == (
        costs["energy_mj"][0],
        costs["energy_mj_upper"][0],
    )
    blind = A100.model_copy(
        update={"energy": None, "power": PowerSource(why_not="not measurable here: no counter")}
    )
    with pytest.raises(
        UsageError, match=r"objective: not measurable here: no counter\. "
    ) as caught:
        Setting(SPACE, blind, 1, parse_budgets(["energy<=20mJ"]))
    assert caught.value.exit_code == 2
    plain = Setting(SPACE, blind)
    plain.require_figures(["quality", "latency_ms_upper", "macs"])
    assert plain.trial_fields(genomes[0])["energy_mj"] is None
