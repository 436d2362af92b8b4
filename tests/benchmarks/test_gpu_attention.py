import itertools
import json
import sys

import gpu_attention
import numpy as np
import pytest

from predictors import attention_fits

HEAD = "framework,version,batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,latency"
PLAIN = "framework,version,batch_size,isl,num_heads,head_dim,attn_dtype,latency"
SHEETS = {
    "a100_sxm": (2.039e12, 312e12, 80),
    "h100_sxm": (3.35e12, 989e12, 90),
    "l40s": (0.864e12, 362.05e12, 89),
}


@pytest.fixture
def tables(tmp_path):
    """Context tables of three GPUs and an encoder table of one; times of a launch and FLOPs."""
    for name, (bandwidth, flops, version) in SHEETS.items():
        lines = ["gpu:", f"  mem_bw: {bandwidth}", "  mem_capacity: 1e10"]
        lines.append(f"  sm_version: {version}")
        sheet = tmp_path / f"spec_{name}.yaml"
        sheet.write_text("\n".join([*lines, f"  bfloat16_tc_flops: {flops}"]))
        rng = np.random.default_rng(len(name))
        context, encoder = [HEAD], [PLAIN]
        for batch, tokens, heads in itertools.product(
            (1, 2, 4, 8, 16), (16, 64, 200, 512, 1024, 2048), (1, 4, 12, 16)
        ):
            full = 4e3 * batch * heads * tokens**2 * 64 / flops / 0.5
            noise = np.exp(rng.normal(0, 0.01))
            shown = f"{0.008 * noise + full / 2}"
            context.append(f"V,1,{batch},{tokens},{heads},{heads},64,bfloat16,{shown}")
            encoder.append(f"V,1,{batch},{tokens},{heads},64,bfloat16,{0.006 * noise + full}")
        (tmp_path / f"{name}_context_attention.csv").write_text("\n".join(context))
        (tmp_path / f"{name}_encoder_attention.csv").write_text("\n".join(encoder))
    return tmp_path


def run(monkeypatch, folder, train, test, sheets=tuple(SHEETS)):
    paths = [str(folder / f"{name}_attention.csv") for name in (*train, "", *test)]
    specs = [str(folder / f"spec_{name}.yaml") for name in sheets]
    given = ["--train", *paths[: len(train)], "--test", *paths[len(train) + 1 :], "--spec", *specs]
    monkeypatch.setattr(sys, "argv", ["gpu_attention.py", *given])
    monkeypatch.setattr(attention_fits.fit_known, "__defaults__", (600,))
    return gpu_attention.main()


def test_a_known_gpu_is_predicted_from_its_own_times(monkeypatch, tables, capsys):
    assert run(monkeypatch, tables, ["l40s_context"], ["l40s_context"]) == 0
    shown = capsys.readouterr()
    made = json.loads(shown.out)
    assert made["rows"] == 120
    assert made["mape"] < 5
    assert shown.err.startswith("NVIDIA L40S context V 1:")


def test_a_gpu_left_out_is_predicted_from_the_others(monkeypatch, tables, capsys):
    train = ["a100_sxm_context", "h100_sxm_context", "a100_sxm_encoder", "h100_sxm_encoder"]
    assert run(monkeypatch, tables, train, ["l40s_context", "l40s_encoder"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["rows"] == 240
    assert made["mape"] < 60
    assert made["kendall_tau"] > 0.7
    assert made["bound_width"] > 0


def test_its_own_context_attention_helps_with_the_encoder(monkeypatch, tables, capsys):
    others = ["a100_sxm_context", "a100_sxm_encoder"]
    errors = []
    for train in (others, [*others, "l40s_context"]):
        assert run(monkeypatch, tables, train, ["l40s_encoder"]) == 0
        errors.append(json.loads(capsys.readouterr().out)["mape"])
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    ("train", "test", "sheets", "message"),
    [
        (["l40s_context"], ["a100_sxm_context"], ("l40s",), "none fits"),
        (["l40s_context"], ["l40s_encoder"], ("l40s",), "no other GPU"),
        (["l40s_context"], ["missing"], ("l40s",), "none fits"),
        (["l40s_context"], ["l40s_missing"], ("l40s",), "cannot read"),
    ],
)
def test_what_makes_no_sense_is_one_line(monkeypatch, tables, capsys, train, test, sheets, message):
    assert run(monkeypatch, tables, train, test, sheets) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1
