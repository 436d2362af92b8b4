import json
import sys

import numpy as np
import pytest
import throughput_a100


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Networks of two stages whose time is a sum of blocks; the val part twice as slow."""
    monkeypatch.setattr("models.stage_time.StageTime.__init__.__defaults__", (20, 0))
    rng = np.random.default_rng(0)
    names = [f"block{stage}_{choice}" for stage in range(2) for choice in ("e", "k", "l", "se")]
    lines = [",".join(["id", *names, "throughput_a100_mean", "authors_split"])]
    for row in range(500):
        split = "val" if row % 5 == 4 else "train"
        cells, time = [], 30.0
        for _ in range(2):
            e, k, blocks, squeeze = (rng.choice(c) for c in ([1, 4, 6], [3, 5], [1, 2, 3], [0, 1]))
            cells += [e, k, blocks, bool(squeeze)]
            time += (3 * e + 0.1 * e * k * k + squeeze) * blocks
        time *= 2 if split == "val" else 1
        rate = "" if row == 7 else 1e6 / time
        lines.append(",".join(map(str, [row, *cells, rate, split])))
    path = tmp_path / "all.csv"
    path.write_text("\n".join(lines))
    for part in ("train", "val"):
        kept = [lines[0], *(line for line in lines if line.endswith(part))]
        (tmp_path / f"{part}.csv").write_text("\n".join(kept))
    return tmp_path


def run(monkeypatch, train, test):
    argv = ["throughput_a100.py", "--train", str(train), "--test", str(test)]
    monkeypatch.setattr(sys, "argv", argv)
    return throughput_a100.main()


def test_one_file_is_split_where_it_says(table, monkeypatch, capsys):
    assert run(monkeypatch, table / "all.csv", table / "all.csv") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["rows"] == 100
    assert made["mape"] == pytest.approx(100, abs=4)  # half the throughput, so twice as predicted
    assert made["kendall_tau"] > 0.95


def test_two_files_are_taken_whole(table, monkeypatch, capsys):
    assert run(monkeypatch, table / "train.csv", table / "all.csv") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["rows"] == 499  # one has no throughput
    assert made["median_error"] < 2
    assert run(monkeypatch, table / "train.csv", table / "val.csv") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 100


def test_a_file_of_another_kind_is_one_line_and_code_2(table, monkeypatch, capsys):
    other = table / "other.csv"
    other.write_text("a,b\n1,2\n")
    assert run(monkeypatch, other, other) == 2
    assert capsys.readouterr().err.count("\n") == 1
