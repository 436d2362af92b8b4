import itertools
import json
import sys

import gpu_energy
import numpy as np
import pytest

PEAK, BANDWIDTH, CORES = 989e12, 4.8e12, 132


def watts(busy, tensor, memory):
    return min(700.0, 130 + 180 * busy + 500 * tensor + 100 * memory)


@pytest.fixture
def tables(tmp_path):
    """Products and attention of a device whose power is a sum of three shares."""
    sheet = f"gpu:\n  mem_bw: {BANDWIDTH}\n  mem_capacity: 1\n  bfloat16_tc_flops: {PEAK}\n"
    (tmp_path / "spec_h200_sxm.yaml").write_text(sheet)
    rng = np.random.default_rng(0)
    sizes = (32, 64, 128, 256, 512, 1024, 2048, 4096)
    lines = ["framework,version,gemm_dtype,m,n,k,latency,power,power_limit"]
    for m, n, k in itertools.product((1, 16, 128, 512, 1024, 4096), sizes, sizes):
        moved = 2 * (m * k + k * n + m * n)
        seconds = 3e-6 + 2 * m * n * k / PEAK / 0.7 + moved / BANDWIDTH / 0.8
        tiles = np.ceil(m / 128) * np.ceil(n / 128)
        tiles *= np.clip(np.floor(CORES / tiles), 1, max(1, k / 512))
        busy = min(1, tiles / CORES) * (1 - 2e-6 / seconds)
        power = watts(busy, 2 * m * n * k / seconds / PEAK, moved / seconds / BANDWIDTH)
        power *= np.exp(rng.normal(0, 0.01))
        lines.append(f"V,1,bfloat16,{m},{n},{k},{1e3 * seconds},{power},700.0")
    shuffled = [lines[i + 1] for i in rng.permutation(len(lines) - 1)]
    (tmp_path / "train.csv").write_text("\n".join([lines[0], *shuffled[80:]]))
    (tmp_path / "test.csv").write_text("\n".join([lines[0], *shuffled[:80]]))
    lines = ["framework,version,batch_size,isl,num_heads,head_dim,attn_dtype,latency,power"]
    for batch, tokens, heads in itertools.product((1, 8, 64), (64, 256, 1024, 4096), (2, 16)):
        flops, moved = 4 * batch * heads * tokens**2 * 64, 8 * batch * heads * tokens * 64
        seconds = 8e-6 + flops / PEAK / 0.5
        busy = min(1, batch * heads * np.ceil(tokens / 64) / CORES) * (1 - 5e-6 / seconds)
        power = watts(busy, flops / seconds / PEAK, moved / seconds / BANDWIDTH)
        lines.append(f"V,1,{batch},{tokens},{heads},64,bfloat16,{1e3 * seconds},{power}")
    rows = [lines[i + 1] for i in rng.permutation(len(lines) - 1)]
    (tmp_path / "encoder.csv").write_text("\n".join([lines[0], *rows]))
    return tmp_path


def run(monkeypatch, folder, train, test):
    given = ["--train", *(str(folder / name) for name in train), "--test", str(folder / test)]
    given += ["--spec", str(folder / "spec_h200_sxm.yaml")]
    monkeypatch.setattr(sys, "argv", ["gpu_energy.py", *given])
    return gpu_energy.main()


def test_products_are_predicted_better_than_by_constant_power(monkeypatch, tables, capsys):
    assert run(monkeypatch, tables, ["train.csv"], "test.csv") == 0
    shown = capsys.readouterr()
    made = json.loads(shown.out)
    assert made["rows"] == 80
    assert made["mape"] < 8
    constant = float(shown.err.split("constant power ")[1].split(" ")[0])
    assert constant > 2 * made["mape"]


def test_attention_follows_from_products_alone(monkeypatch, tables, capsys):
    assert run(monkeypatch, tables, ["train.csv"], "encoder.csv") == 0
    shown = capsys.readouterr()
    made = json.loads(shown.out)
    assert made["rows"] == 24
    assert made["mape"] < 6
    assert "linear calls" in shown.err


def test_the_meter_remembers_in_a_sweep_and_less_in_a_thinned_one(tables):
    rows = gpu_energy.metered(tables / "encoder.csv")
    sweep = sorted(rows, key=lambda row: (row.op.shape[1], row.op.shape[2]))
    alternating = [row for pair in zip(sweep[:12], sweep[12:], strict=True) for row in pair]
    assert gpu_energy.persistence(alternating) == 0.0
    assert gpu_energy.persistence(sweep[:1]) == 0.0
    assert gpu_energy.persistence(sweep) == pytest.approx(0.9)
    thinned = [sweep[i] for i in (0, 1, 3, 5, 7, 8, 10, 11, 12, 14, 16, 17, 18, 20, 21, 23)]
    assert gpu_energy.persistence(thinned) == pytest.approx(0.9**1.5)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["encoder.csv"], "test.csv", "too few products"),
        (["encoder.csv"], "encoder.csv", "too few calls"),
        (["train.csv"], "plain.csv", "no power"),
        (["train.csv"], "missing.csv", "cannot read"),
    ],
)
def test_what_makes_no_sense_is_one_line(monkeypatch, tables, capsys, train, test, message):
    (tables / "plain.csv").write_text("gemm_dtype,m,n,k,latency\nbfloat16,1,2,3,0.1\n")
    assert run(monkeypatch, tables, train, test) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1
