"""Kernel-timing tables and vendor sheets, read from small files and from broken ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hw_profiles.errors import ProfileError
from hw_profiles.gpus import POSSIBLE
from hw_profiles.op import Op
from hw_profiles.tables import read_sheet_values, read_table

GEMM = """framework,version,kernel_source,gemm_dtype,m,n,k,latency
TRTLLM,1.0.0,a,bfloat16,17,256,64,0.0031
VLLM,0.14.0,b,sq,8,48,16,0.0072
VLLM,0.14.0,b,fp8,8,48,16,0.0050
"""
CONTEXT = """framework,version,kernel_source,batch_size,isl,num_heads,num_key_value_heads,\
head_dim,attn_dtype,kv_cache_dtype,step,latency,window_size
TRTLLM,1.0.0,a,4,128,12,2,128,bfloat16,bfloat16,0,0.02,0.0
TRTLLM,1.0.0,a,4,128,12,2,128,bfloat16,bfloat16,0,0.01,1024
TRTLLM,1.0.0,a,4,128,12,2,128,bfloat16,fp8,0,0.01,
VLLM,0.14.0,a,4,128,12,2,128,bfloat16,bfloat16,0,0.03,
"""
ENCODER = """framework,version,kernel_source,batch_size,isl,num_heads,head_dim,attn_dtype,latency
VLLM,0.24.0,a,2,197,3,64,bfloat16,0.0076
"""


def _write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_products(tmp_path: Path, name: str) -> None:
    table = read_table(_write(tmp_path, GEMM, name))
    assert table.skipped == 1  # fp8
    assert [row.op for row in table.rows] == [
        Op("linear", (17, 64, 256), "bf16"),
        Op("linear", (8, 16, 48), "int8"),
    ]
    assert [(row.latency_ms, row.stack) for row in table.rows] == [
        (0.0031, "TRTLLM 1.0.0"),
        (0.0072, "VLLM 0.14.0"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_may_come_from_any_system(tmp_path: Path, mark: str, end: str) -> None:
    text = mark + GEMM.replace("\n", end)
    assert read_table(_write(tmp_path, text)) == read_table(_write(tmp_path, GEMM, "plain.csv"))
    sheet = mark + "gpu:\n  mem_bw: '2e12' # B/s\n".replace("\n", end)
    assert read_sheet_values(_write(tmp_path, sheet)) == {"mem_bw": 2e12}


def test_a_number_with_its_unit_is_refused_where_it_is_read(tmp_path: Path) -> None:
    sheet = _write(tmp_path, 'gpu:\n  mem_bw: 2e12\n  power: "400 W"\n  maker: some\n')
    with pytest.raises(ProfileError, match=r"states power '400 W', which is no number"):
        read_sheet_values(sheet, possible=POSSIBLE)
    assert read_sheet_values(sheet) == {"mem_bw": 2e12}


def test_fp8_products_are_read_on_request(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path, GEMM + "V,1,b,fp8_block,8,48,32,0.004\n"), fp8=True)
    assert table.skipped == 0
    assert [row.op for row in table.rows[2:]] == [
        Op("linear", (8, 16, 48), "fp8"),
        Op("linear", (8, 32, 48), "fp8"),
    ]


def test_power_is_read_where_it_was_metered(tmp_path: Path) -> None:
    for text in (GEMM, CONTEXT, ENCODER):
        head, *lines = text.splitlines()
        with_power = "\n".join([f"{head},power,power_limit", *(f"{x},412.5,700.0" for x in lines)])
        for row in read_table(_write(tmp_path, with_power)).rows:
            assert (row.power_w, row.power_limit_w) == (412.5, 700.0)
        for row in read_table(_write(tmp_path, text)).rows:
            assert row.power_w is row.power_limit_w is None
    with pytest.raises(ProfileError, match="line 2"):
        read_table(_write(tmp_path, with_power.replace("412.5", "-1")))


def test_context_attention_is_causal_and_shares_keys(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path, CONTEXT))
    assert table.skipped == 2  # a window, a quantized cache
    assert {row.op for row in table.rows} == {Op("attention", (4, 12, 128, 128, 128), "bf16")}
    assert all(row.causal and row.kv_heads == 2 for row in table.rows)


def test_encoder_attention_is_not_causal(tmp_path: Path) -> None:
    (row,) = read_table(_write(tmp_path, ENCODER)).rows
    assert row.op == Op("attention", (2, 3, 197, 197, 64), "bf16")
    assert (row.causal, row.kv_heads) == (False, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "not a kernel-timing table"),
        ("", "not a kernel-timing table"),
        (GEMM.replace("latency", "time"), "not a kernel-timing table"),
        (GEMM.replace("0.0072", "quick"), "malformed row in line 3"),
        (GEMM.replace("0.0072", "-1"), "malformed row in line 3"),
        (GEMM.replace("0.0072", "nan"), "malformed row in line 3"),
        (GEMM.replace("0.0072", "1e300"), "malformed row in line 3"),
        (GEMM.replace("0.0072", "1e-300"), "malformed row in line 3"),
        (GEMM.replace("8,48,16,0.0072", "0,48,16,0.0072"), "malformed row in line 3"),
        (GEMM.replace(",48,16,0.0072", ""), "malformed row in line 3"),
        (GEMM.splitlines()[0] + "\n", "no usable row"),
        (GEMM + 'V,1,"' + "b,sq,8,48,16,0.0072\n" * 10_000, "malformed row"),  # never closed
        ("x" * 200_000 + GEMM, "not a text table"),
        (GEMM.replace("kernel_source", "m"), "two columns of one name"),
        (CONTEXT.replace("12,2,128", "12,0,128"), "malformed row in line 2"),
        (CONTEXT.replace("12,2,128", "12,24,128"), "malformed row in line 2"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        read_table(_write(tmp_path, text))


def test_files_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot read"):
        read_table(tmp_path / "missing.csv")
    whole = _write(tmp_path, GEMM, "table.csv.gz")
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(ProfileError, match="not a whole file"):
        read_table(whole)
    whole.write_bytes(gzip.compress(GEMM.encode())[:10] + b"\xff" * 200)
    with pytest.raises(ProfileError, match="not a whole file"):
        read_table(whole)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="not a text table"):
        read_table(tmp_path / "binary.csv")
