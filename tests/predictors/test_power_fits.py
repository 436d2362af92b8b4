"""Energy models from metered calls of a made-up GPU whose watts are known."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hw_profiles import registry
from hw_profiles.boards import read_board
from hw_profiles.gpus import Gpu, read_device, read_gpu
from hw_profiles.op import Op
from hw_profiles.profile import Device, NetworkModel
from hw_profiles.tables import TableRow
from predictors.energy import energy_predictor
from predictors.power import PowerModel
from predictors.power_fits import WATTS, board_energy, fit_energy, loads, scaled_energy

TRUE_W = np.array([90.0, 120.0, 350.0, 110.0])
LIMIT_W = 600.0
SHEETS = Path(registry.__file__).parent / "sheets"


def _gpu(folder: Path) -> tuple[Gpu, Device]:
    sheet = folder / "h100_sxm.yaml"
    sheet.write_text(
        "gpu:\n  mem_bw: 3e12\n  mem_capacity: 8e10\n  bfloat16_tc_flops: 9e14\n  power: 600\n"
        "  sm_version: 90\n"
    )
    return read_gpu(sheet), read_device(sheet)


def _metered(device: Device, n: int, attention: float = 1.0) -> list[TableRow]:
    """Products and attention with the true power, 3 % of noise; of attention `attention` of it."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        m, k, h = (int(2 ** rng.uniform(4, 12)) for _ in range(3))
        tokens = int(2 ** rng.uniform(5, 11))
        ms = 0.004 + 2e3 * m * k * h / 6e14 + 2e3 * (m * k + k * h + m * h) / 2e12
        rows.append(TableRow(Op("linear", (m, k, h), "bf16"), ms, "V 1", power_limit_w=LIMIT_W))
        if i % 2:
            shape = (4, 8, tokens, tokens, 64)
            ms = 0.006 + 4e3 * 32 * tokens**2 * 64 / 4e14
            rows.append(
                TableRow(Op("attention", shape, "bf16"), ms, "V 1", kv_heads=8, power_limit_w=600.0)
            )
    truth = PowerModel(LIMIT_W)
    truth.coef_ = TRUE_W
    found = []
    for kind, share in (("linear", 1.0), ("attention", attention)):
        mine = [row for row in rows if row.op.kind == kind]
        watts = truth.steady(loads(mine, device)) * share * np.exp(rng.normal(0, 0.03, len(mine)))
        found += [
            TableRow(r.op, r.latency_ms, r.stack, False, r.kv_heads, float(w), LIMIT_W)
            for r, w in zip(mine, watts, strict=True)
        ]
    return found


def _fit(device: Device, **kinds: float) -> NetworkModel:
    found = fit_energy(_metered(device, 900, **kinds), device, "bf16", "in a test")
    assert found is not None
    return found


def test_watts_are_recovered_and_bounded(tmp_path: Path) -> None:
    _, device = _gpu(tmp_path)
    model = _fit(device)
    found = [model.params[name] for name in WATTS]
    np.testing.assert_allclose(found, TRUE_W, rtol=0.1)
    assert model.provenance == "fitted"
    assert model.error is not None
    assert model.error.mape < 4
    ratio = model.params["upper_ratio"]
    assert isinstance(ratio, float)
    assert np.log(ratio) == pytest.approx(1.28 * 0.03, abs=0.015)


def test_attention_that_draws_more_than_products_say_widens_the_bound(tmp_path: Path) -> None:
    _, device = _gpu(tmp_path)
    plain, hot = _fit(device), _fit(device, attention=1.3)
    assert isinstance(hot.params["upper_ratio"], float)
    assert isinstance(plain.params["upper_ratio"], float)
    assert hot.params["upper_ratio"] > 1.2 * plain.params["upper_ratio"]


def test_too_little_that_was_metered_is_no_model(tmp_path: Path) -> None:
    _, device = _gpu(tmp_path)
    assert fit_energy(_metered(device, 100), device, "bf16", "in a test") is None
    assert fit_energy([], device, "bf16", "in a test") is None


def test_another_gpu_gets_watts_by_its_limit_and_a_wider_bound(tmp_path: Path) -> None:
    _, device = _gpu(tmp_path)
    known = _fit(device)
    t4 = SHEETS / "t4.yaml"
    once = scaled_energy(known, read_gpu(t4), read_device(t4))
    for name in WATTS:
        value, before = once.params[name], known.params[name]
        assert isinstance(value, float)
        assert isinstance(before, float)
        assert value == pytest.approx(before * 70 / 600, rel=0.01)
    assert (once.provenance, once.error) == ("derived", None)
    assert once.params["limit_w"] == 70
    ratios = [float(m.params["upper_ratio"]) for m in (known, once)]  # type: ignore[arg-type]
    assert ratios[1] > 1.5 * ratios[0]
    orin = SHEETS / "jetson_orin.yaml"
    twice = scaled_energy(once, read_gpu(orin), read_device(orin))
    assert twice.params["upper_ratio"] == once.params["upper_ratio"]  # as far from the metered one
    assert twice.source == once.source
    unstated = tmp_path / "t4.yaml"
    unstated.write_text(re.sub(r"\n *power:.*", "", t4.read_text()))
    assert "guessed at 65 W" in scaled_energy(known, read_gpu(unstated), read_device(t4)).source


@pytest.mark.parametrize("name", ["raspberry-pi-4", "stm32f746"])
def test_a_board_draws_what_its_sheet_says(name: str) -> None:
    board = read_board(SHEETS / f"{name}.yaml")
    model = board_energy(board)
    assert model is not None
    assert model.params == {"power_w": board.power_w, "upper_w": board.highest_w}


@pytest.mark.parametrize("name", sorted(registry.shipped()))
def test_every_device_that_ships_has_energy(name: str) -> None:
    predictor = energy_predictor(registry.load(name))
    assert predictor is not None
    profile = registry.load(name)
    ops = [Op("linear", (17, 64, 128), profile.precisions[0]), Op("gelu", (17, 128))]
    mean, upper = predictor.predict(predictor.op_features(ops).sum(axis=0)[None])
    assert 0 < mean[0] < upper[0]
