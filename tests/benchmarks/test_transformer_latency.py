import json
import sys

import numpy as np
import pytest
import transformer_latency
from models.translation import FEATURES


def write(path, slow, rows=500, factor=1.3, seed=0):
    """Transformers whose time is their layers' work; a run of rows is slow."""
    rng = np.random.default_rng(seed)
    lines = [",".join([*FEATURES, *transformer_latency.PARTS])]
    for row in range(rows):
        width, layers, hidden = rng.choice([512, 640]), rng.integers(1, 7), rng.uniform(512, 3072)
        heads = rng.uniform(2, 8, 3)
        encoder = 4 + 0.001 * hidden
        decoder = layers * (12 + 4e-6 * hidden * width + 0.6 * heads[1])
        noise = np.exp(0.01 * rng.standard_normal()) * (factor if row in slow else 1)
        cells = [640, 6, hidden, heads[0], width, layers, hidden, heads[1], heads[2], 2]
        lines.append(",".join(map(str, [*cells, encoder * noise, decoder * noise])))
    path.write_text("\n".join(lines))
    return path


def run(monkeypatch, train, test, *more):
    paths = ["--train", *map(str, train), "--test", *map(str, test)]
    monkeypatch.setattr(sys, "argv", ["transformer_latency.py", *paths, *more])
    return transformer_latency.main()


def test_a_file_is_split_by_blocks_and_its_drift_stated(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "a.csv", range(150, 250))
    assert run(monkeypatch, [path], [path], "--block", "50") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["rows"] == 500
    assert made["median_error"] < 1.5
    assert made["median_error_steady"] < made["median_error"]
    assert made["median_error_levelled"] < 1.2
    assert made["drifted"] == pytest.approx(0.2, abs=0.03)
    assert made["drifted_test"] == pytest.approx(0.2, abs=0.03)
    assert 0.85 <= made["coverage"] <= 0.97


def test_other_files_are_judged_by_a_fit_on_all_train_files(tmp_path, monkeypatch, capsys):
    train = [write(tmp_path / f"{seed}.csv", (), seed=seed) for seed in (1, 2)]
    test = [write(tmp_path / "slow.csv", range(500), seed=3), write(tmp_path / "fast.csv", (), 100)]
    assert run(monkeypatch, train, test, "--block", "50") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["rows"] == 600
    assert made["files"]["slow"]["drifted_test"] == 1.0
    assert made["files"]["fast"]["drifted_test"] == 0.0
    assert made["files"]["fast"]["median_error"] < 1.5
    assert made["files"]["slow"]["median_error"] > 15
    assert made["files"]["slow"]["median_error_steady"] is None
    assert made["drifted"] == 0.0


@pytest.mark.parametrize("block", ["0", "400"])
def test_blocks_that_do_not_fit_are_one_line_and_code_2(tmp_path, monkeypatch, capsys, block):
    path = write(tmp_path / "a.csv", ())
    assert run(monkeypatch, [path], [path], "--block", block) == 2
    assert "--block" in capsys.readouterr().err
