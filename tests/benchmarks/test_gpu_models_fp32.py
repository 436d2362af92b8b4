import csv
import json

import fp32_world as world
import gpu_models_fp32
import pytest

GPT = {"model_type": "gpt2", "n_layer": 2, "n_embd": 256, "n_head": 4, "vocab_size": 1000}
HEADER = "device,model,mode,seq,batch,variant,meas_e2e_latency\n"
ROWS = "NVIDIA_A100,gpt,inf,128,4,,3.0\nNVIDIA_A100,gpt,train,128,4,,9.0\nL4,gpt,inf,128,2,tp2,4\n"


@pytest.fixture
def files(tmp_path):
    gpus = [world.sheet("NVIDIA A100", 1.5e12, 40e9), world.sheet("Tesla T4", 0.3e12, 16e9)]
    unseen = world.sheet("NVIDIA L4", 0.3e12, 24e9, lanes=128)
    entries = {
        g.name: {
            "Device": g.name,
            "Dev_Mem": g.memory_bytes / 1e9,
            "Mem_Bw": g.bandwidth_bytes_per_s / 1e9,
            "Num_Sm": g.cores,
            "Core_Per_SM": g.lanes,
            "SingleFLOPs": g.flops_per_s / 1e9,
        }
        for g in [*gpus, unseen]
    }
    (tmp_path / "device_configs.json").write_text(json.dumps(entries))
    for kind in ("linear", "bmm", "vector"):
        with (tmp_path / f"{kind}.csv").open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(
                ["op", "device", "latency", "b", "h"]
                if kind == "vector"
                else ["device", "latency", "b", "m", "n", "k", "kernel_name"]
            )
            for gpu in gpus:
                for table in world.tables(gpu, 0.8, rows=120):
                    for shape, time in zip(table.shapes, table.latency_ms, strict=True):
                        if kind == "vector" and len(shape) == 2:
                            out.writerow([table.kind, gpu.name, time, *shape])
                        elif kind == table.kind:
                            out.writerow([gpu.name, time, *shape, "sgemm"])
    (tmp_path / "configs.json").write_text(json.dumps({"gpt": GPT}))
    (tmp_path / "test.csv").write_text(HEADER + ROWS)
    return tmp_path


def run(files, monkeypatch, capsys, test="test.csv"):
    tables = [str(files / f"{kind}.csv") for kind in ("linear", "bmm", "vector")]
    argv = ["x", "--train", *tables, "--test", str(files / test)]
    monkeypatch.setattr("sys.argv", [*argv, "--configs", str(files / "configs.json")])
    code = gpu_models_fp32.main()
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_one_object_a_device_with_the_sheets_beside_the_tables(files, monkeypatch, capsys):
    code, out, _ = run(files, monkeypatch, capsys)
    figures = json.loads(out)
    assert code == 0
    assert {slug: f["rows"] for slug, f in figures.items()} == {"a100": 2, "l4": 1}
    assert all(f["bound_width"] > 0 for f in figures.values())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("L4,gpt,both,1,1,,1", "malformed row in line 2"),
        ("L4,gpt,inf,1,1,,-1", "malformed row in line 2"),
        ("L4,other,inf,1,1,,1", "no model 'other'"),
        ("MI250,gpt,inf,1,1,,1", "no sheet of a device 'MI250'"),
        ("", "holds no row"),
    ],
)
def test_a_file_at_fault_is_one_line_and_code_2(files, monkeypatch, capsys, row, message):
    (files / "bad.csv").write_text(HEADER + row + "\n")
    code, out, err = run(files, monkeypatch, capsys, "bad.csv")
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_variants():
    read = gpu_models_fp32.read_variant
    assert read("fusion").fused
    assert (read("dp4").data, read("tp2").tensor, read("pp4_1").pipeline) == (4, 2, 4)
    assert read("something") == read("") == gpu_models_fp32.Variant()
