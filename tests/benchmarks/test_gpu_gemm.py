import itertools
import json
import sys

import gpu_gemm
import numpy as np
import pytest

from predictors import gemm_fits
from predictors.gemm_time import RooflineMLP

SHEET = """gpu:
  mem_bw: 2e12
  mem_capacity: 8e10
  bfloat16_tc_flops: 3e14
  int8_tc_flops: 6e14
"""
COLUMNS = "framework,version,gemm_dtype,m,n,k,latency"


def write(path, stack, noise=0.0, slower=1.0, dtypes=("bfloat16",), every=(0, 1, 2, 3)):
    """Products on a lattice of sizes: a floor, arithmetic in whole tiles, bytes."""
    rng = np.random.default_rng(len(stack))
    lines = [COLUMNS]
    sizes = (2**i for i in range(5, 12)), (2**i for i in range(6, 13)), (2**i for i in range(6, 13))
    for i, (m, k, n) in enumerate(itertools.product(*sizes)):
        if i % 4 in every:
            waves = np.ceil(np.ceil(m / 128) * np.ceil(n / 128) / 108)
            arithmetic = waves * 108 * 128 * 128 * k * 2 / 3e14
            true_ms = slower * (0.0025 + 1e3 * (arithmetic + 2 * (m * k + k * n + m * n) / 2e12))
            for dtype in dtypes:
                ms = true_ms * (1.0 if dtype == "bfloat16" else 0.5) * np.exp(rng.normal(0, noise))
                lines.append(f"{stack},1.0,{dtype},{m},{n},{k},{ms}")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    """A sheet, and fits small enough for a test."""
    make = gemm_fits.new_gemm

    def small(precision, device):
        return make(precision, device).set_params(hidden=16, members=2, steps=500)

    monkeypatch.setattr(gpu_gemm, "new_gemm", small)
    path = tmp_path / "spec_a100_sxm.yaml"
    path.write_text(SHEET)
    return path


def run(monkeypatch, sheet, train, test, *more):
    paths = ["--train", *map(str, train), "--test", str(test), "--spec", str(sheet)]
    monkeypatch.setattr(sys, "argv", ["gpu_gemm.py", *paths, *more])
    return gpu_gemm.main()


def test_another_stack_is_predicted_and_has_a_wider_bound(tmp_path, sheet, monkeypatch, capsys):
    train = write(tmp_path / "a.csv", "ours", noise=0.01, every=(0, 1, 2))
    made = []
    for stack in ("ours", "theirs"):
        test = write(tmp_path / f"{stack}.csv", stack, noise=0.01, every=(3,))
        assert run(monkeypatch, sheet, [train], test) == 0
        made.append(json.loads(capsys.readouterr().out))
    ours, theirs = made
    assert ours["rows"] == theirs["rows"] == 85
    assert ours["mape"] < 10
    assert ours["kendall_tau"] > 0.95
    assert theirs["bound_width"] > 1.1 * ours["bound_width"]
    assert theirs["coverage"] > 0.85


def test_each_precision_is_predicted_from_its_own_rows(tmp_path, sheet, monkeypatch, capsys):
    both = ("bfloat16", "int4_wo")
    train = write(tmp_path / "a.csv", "ours", dtypes=both, every=(0, 1, 2))
    test = write(tmp_path / "b.csv", "ours", dtypes=both, every=(3,))
    assert run(monkeypatch, sheet, [train], test) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows"] == 170
    assert figures["mape"] < 10  # a common fit would miss by a third
    assert run(monkeypatch, sheet, [train], test, "--precision", "int4_wo") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 85


@pytest.mark.parametrize(
    ("train", "sheet_name", "more", "message"),
    [
        ("a.csv", "spec_a100_sxm.yaml", ["--precision", "sq"], "hold no row of sq"),
        ("few.csv", "spec_a100_sxm.yaml", [], "a fit needs 200"),
        ("none.csv", "spec_a100_sxm.yaml", [], "cannot read"),
        ("broken.csv", "spec_a100_sxm.yaml", [], "malformed row in line 2"),
    ],
)
def test_files_at_fault_give_one_line(
    tmp_path, sheet, monkeypatch, capsys, train, sheet_name, more, message
):
    write(tmp_path / "a.csv", "ours")
    few = (tmp_path / "a.csv").read_text().splitlines()[:50]
    (tmp_path / "few.csv").write_text("\n".join(few))
    (tmp_path / "broken.csv").write_text(f"{COLUMNS}\nours,1.0,bfloat16,1,2,3,fast")
    (tmp_path / sheet_name).write_text(SHEET)
    test = write(tmp_path / "b.csv", "theirs")
    assert run(monkeypatch, tmp_path / sheet_name, [tmp_path / train], test, *more) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_bound_for_another_stack_covers_it():
    rng = np.random.default_rng(9)
    predicted = np.exp(rng.normal(0, 1, 4000))
    measured = predicted * np.exp(rng.normal(0, 0.01, 4000))
    form = RooflineMLP(100.0, 3e14, 2e12)
    form.calibrate(predicted, gpu_gemm.other_stack(measured), 0.9)
    elsewhere = measured * np.exp(rng.normal(0, 0.05, 4000))
    assert np.mean(elsewhere <= predicted * form.bound_.ratio(predicted)) == pytest.approx(
        0.9, abs=0.03
    )
