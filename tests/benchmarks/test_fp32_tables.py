import gzip
import json

import pytest
from models.fp32_tables import (
    device_slug,
    find_sheet,
    read_gpu_sheets,
    read_op_rows,
)

from hw_profiles.errors import ProfileError

PRODUCTS = "device,latency,b,m,n,k,kernel_name,grid_x,grid_y,grid_z\n"
SHEET = {
    "Device": "NVIDIA A100-PCIE-40GB",
    "Dev_Mem": 40,
    "Mem_Bw": 1555,
    "Num_Sm": 108,
    "Core_Per_SM": 64,
    "SingleFLOPs": 19492,
}


def sheets(path, **entries):
    path.write_text(json.dumps(entries))
    return read_gpu_sheets(path)


def test_products_are_batch_rows_inner_columns(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress((PRODUCTS + "T4,0.5,1,10,20,30,sgemm_tn,1,1,1\n").encode()))
    (table,) = read_op_rows(path)
    assert (table.device, table.kind) == ("T4", "linear")
    assert table.shapes.tolist() == [[1, 10, 20, 30]]
    assert table.latency_ms.tolist() == [0.5]


def test_a_batch_makes_them_bmm_on_every_device(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(PRODUCTS + "T4,0.5,1,10,20,30,x,1,1,1\nP4,0.5,8,10,20,30,x,1,1,1\n")
    assert {(t.device, t.kind) for t in read_op_rows(path)} == {("T4", "bmm"), ("P4", "bmm")}


@pytest.mark.parametrize(
    "row", ["T4,nan,1,10,20,30,x,1,1,1", "T4,0.5,1,0,20,30,x,1,1,1", "T4,0.5", "T4\r"]
)
def test_a_malformed_row_is_named(tmp_path, row):
    path = tmp_path / "t.csv"
    path.write_text(PRODUCTS + row + "\n")
    with pytest.raises(ProfileError, match="malformed row in line 2"):
        read_op_rows(path)


def test_other_columns_and_no_rows_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ProfileError, match="no table of fp32 op times"):
        read_op_rows(path)
    path.write_text(PRODUCTS)
    with pytest.raises(ProfileError, match="holds no row"):
        read_op_rows(path)


def test_sheets_in_si_units_without_those_that_lack_an_fp32_rate(tmp_path):
    found = sheets(tmp_path / "s.json", a=SHEET, b={"Device": "AMD", "SingleFLOPsMM": 1})
    (sheet,) = found.values()
    assert sheet.flops_per_s == pytest.approx(19.492e12)
    assert sheet.bandwidth_bytes_per_s == pytest.approx(1.555e12)
    assert (sheet.cores, sheet.lanes) == (108, 64)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": {"Device": "x", "SingleFLOPs": 1}}', "{}"])
def test_broken_sheets_are_one_error(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(ProfileError):
        read_gpu_sheets(path)


def test_a_device_is_found_however_it_is_written(tmp_path):
    names = ["NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe", "NVIDIA L4", "Tesla T4"]
    found = sheets(tmp_path / "s.json", **{n: SHEET | {"Device": n} for n in names})
    assert find_sheet(found, "NVIDIA_A100_80GB_PCIe").name == names[1]
    assert find_sheet(found, "a100", prefer=[names[1]]).name == names[1]
    assert find_sheet(found, "L4").name == names[2]
    assert find_sheet(found, "NVIDIA A100-SXM4-40GB").name == names[0]  # the same model
    with pytest.raises(ProfileError, match="no sheet of a device 'MI250'"):
        find_sheet(found, "MI250")


def test_slugs():
    assert device_slug("NVIDIA_H100_80GB_HBM3") == "h100"
    assert device_slug("Tesla V100-PCIE-32GB") == "v100"
    assert device_slug("Something Else") == "something_else"
