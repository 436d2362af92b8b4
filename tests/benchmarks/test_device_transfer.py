import json
import sys

import device_transfer
import numpy as np
import pytest


@pytest.fixture
def tables(tmp_path):
    """Six devices of two kinds on 120 networks; `arch` is text, `flops` no device."""
    rng = np.random.default_rng(0)
    choices = rng.integers(0, 3, (120, 5))
    costs = rng.uniform(0.2, 2, (2, 5))
    share = np.linspace(0, 1, 6)
    work = choices @ (np.outer(1 - share, costs[0]) + np.outer(share, costs[1])).T
    latencies = (2 + work) * np.exp(0.02 * rng.standard_normal(work.shape))
    names = [f"d{i}" for i in range(6)]

    def write(name, devices, rows, more=()):
        lines = [",".join(["arch_idx", *more, *devices])]
        for row in rows:
            cells = {"arch": "|".join(map(str, choices[row])), "flops": str(1e6 * row + 1)}
            numbers = [latencies[row, names.index(d)] for d in devices]
            lines.append(",".join(map(str, [row, *(cells[m] for m in more), *numbers])))
        (tmp_path / name).write_text("\n".join(lines))

    write("all.csv", names, range(120), ("arch", "flops"))
    write("known.csv", names[:4], range(120))
    write("archs.csv", [], range(120), ("arch", "flops"))
    write("new.csv", names[4:], reversed(range(20, 120)))
    write("few.csv", names[4:], range(5))
    return tmp_path


def run(monkeypatch, train, test):
    paths = ["--train", *map(str, train), "--test", *map(str, test)]
    monkeypatch.setattr(sys, "argv", ["device_transfer.py", *paths])
    return device_transfer.main()


def test_each_device_is_left_out_in_turn(tables, monkeypatch, capsys):
    assert run(monkeypatch, [tables / "all.csv"], [tables / "all.csv"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made["devices"]) == {f"d{i}" for i in range(6)}
    assert {d["rows"] for d in made["devices"].values()} == {110}
    assert made["rows"] == 660
    assert made["spearman"] > 0.97
    mean = np.mean([d["mape"] for d in made["devices"].values()])
    assert made["mape"] == pytest.approx(mean, abs=1e-4)


def test_new_devices_are_joined_by_their_networks(tables, monkeypatch, capsys):
    train = [tables / "known.csv", tables / "archs.csv"]
    assert run(monkeypatch, train, [tables / "new.csv"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made["devices"]) == {"d4", "d5"}
    assert {d["rows"] for d in made["devices"].values()} == {90}
    assert made["spearman"] > 0.95


def test_no_prediction_knows_its_own_device(tables, monkeypatch):
    seen = []
    real = device_transfer.transferred

    def spy(X, columns, latency_ms):
        seen.append(X.shape[1])
        assert not any(np.array_equal(latency_ms, x) for x in X.T)
        return real(X, columns, latency_ms)

    monkeypatch.setattr(device_transfer, "transferred", spy)
    assert run(monkeypatch, [tables / "all.csv"], [tables / "all.csv"]) == 0
    assert seen == [5] * 6


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [("known.csv", "few.csv", "more than 10"), ("archs.csv", "new.csv", "0 devices")],
)
def test_too_little_is_one_line_and_code_2(tables, monkeypatch, capsys, train, test, said):
    assert run(monkeypatch, [tables / train], [tables / test]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err


def test_sizes_and_accuracies_are_no_devices(tmp_path):
    names = ["arch_idx", "rep_arch_idx", "mmacs_c10_calc", "params_calc", "acc12_cifar10_val"]
    names += ["1080ti_1", "pixel3", "arch_str"]
    path = tmp_path / "t.csv"
    path.write_text(",".join(names) + "\n1,1,2,3,4,5,6,|a|b|\n")
    table = device_transfer.read_networks(path)
    assert device_transfer.device_columns(table) == ["1080ti_1", "pixel3"]
