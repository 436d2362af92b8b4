"""The benchmark of unseen GPUs, on small tables made from known times."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import judging
import numpy as np
import pytest
import unseen_gpu

from hw_profiles.gpus import read_gpu
from predictors.tile_model import PRIOR, TileModel

SHEETS = {
    "a100_sxm": (2.039e12, 3.12e14, 400, 80),
    "l40s": (8.64e11, 3.62e14, 350, 89),
    "h200_sxm": (4.8e12, 9.89e14, 700, 90),
}


def _made(folder: Path) -> dict[str, Path]:
    model = TileModel()
    model.factors_ = PRIOR
    rng = np.random.default_rng(0)
    shapes = np.round(2 ** rng.uniform([0, 5, 5], [12, 13, 13], (150, 3)))
    tables = {}
    for name, (bandwidth, flops, power, capability) in SHEETS.items():
        sheet = folder / f"spec_{name}.yaml"
        sheet.write_text(
            f"gpu:\n  mem_bw: {bandwidth}\n  bfloat16_tc_flops: {flops}\n"
            f"  power: {power}\n  sm_version: {capability}\n"
        )
        times = model.predict(shapes, read_gpu(sheet))
        rows = [
            f"bfloat16,{m:.0f},{n:.0f},{k:.0f},{t}"
            for (m, k, n), t in zip(shapes, times, strict=True)
        ]
        tables[name] = folder / f"{name}_gemm.csv"
        tables[name].write_text("\n".join(["gemm_dtype,m,n,k,latency", *rows, ""]))
    return tables


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, train: list[str], test: str) -> int:
    sheets = sorted(map(str, folder.glob("spec_*.yaml")))
    command = ["unseen_gpu.py", "--train", *train, "--test", test, "--spec", *sheets]
    monkeypatch.setattr(sys, "argv", command)
    parser = judging.arguments(str(unseen_gpu.__doc__), spec=True, nargs="+")
    return judging.run(unseen_gpu.judge, parser)


def test_it_prints_one_object_of_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unseen_gpu, "STEPS", 15)
    tables = _made(tmp_path)
    odd = tables["l40s"].rename(tmp_path / "mystery.csv")
    named = f"{odd}={tmp_path / 'spec_l40s.yaml'}"
    assert (
        _run(monkeypatch, tmp_path, [str(tables["a100_sxm"]), named], str(tables["h200_sxm"])) == 0
    )
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows"] == 150
    assert figures["mape"] < 10
    assert 0 <= figures["coverage"] <= 1


def test_what_cannot_be_judged_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {name: str(path) for name, path in _made(tmp_path).items()}
    odd = tmp_path / "mystery.csv"
    odd.write_text(Path(tables["l40s"]).read_text())
    fp8 = tmp_path / "l40s_fp8.csv"
    fp8.write_text("gemm_dtype,m,n,k,latency\nsq,1,32,32,0.01\n")
    for train, test, said in (
        ([str(odd)], tables["h200_sxm"], "TABLE=SHEET"),
        ([tables["l40s"]], tables["l40s"], "no row is seen"),
        ([str(fp8)], tables["h200_sxm"], "bf16"),
        ([str(tmp_path / "l40s_none.csv")], tables["h200_sxm"], "cannot read"),
    ):
        assert _run(monkeypatch, tmp_path, train, test) == 2
        printed = capsys.readouterr()
        assert said in printed.err
        assert "Traceback" not in printed.err
        assert not printed.out
