"""Sheets of GPUs completed from the table of known ones, and tables matched to their sheets."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw_profiles import registry
from hw_profiles.errors import ProfileError
from hw_profiles.gpus import KNOWN, cycle_flops, read_device, read_gpu, sheet_of

SHEET = """gpu:
  mem_bw: 2.039e12
  bfloat16_tc_flops: 3.12e14 # 312 TFLOPS
  power: 400
  sm_version: 80
"""
SHEETS = [
    Path(f"spec_{name}.yaml")
    for name in ("a100_pcie", "a100_sxm", "h100_sxm", "h200_sxm", "l4", "l40s", "b200", "gb200")
]


def _write(folder: Path, name: str, text: str = SHEET) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_known_gpu_is_completed_from_the_table(tmp_path: Path) -> None:
    gpu = read_gpu(_write(tmp_path, "spec_a100_sxm.yaml"))
    assert (gpu.cores, gpu.l2_bytes, gpu.clock_hz) == (108, 40 * 2**20, 1.41e9)
    assert (gpu.capability, gpu.power_w, gpu.estimated) == (80, 400, False)


def test_the_device_of_a_sheet(tmp_path: Path) -> None:
    text = SHEET + "  mem_capacity: 85899345920 # 80 GiB\n  int8_tc_flops: 6.24e14\nnode:\n  x: 0\n"
    device = read_device(_write(tmp_path, "spec_a100_sxm.yaml", text))
    assert (device.name, device.cores, device.kind) == ("NVIDIA A100-SXM4-80GB", 108, "cuda")
    assert (device.bandwidth_bytes_per_s, device.memory_bytes) == (2.039e12, 80 * 2**30)
    assert device.peak_flops == {"bf16": 3.12e14, "int8": 6.24e14}


def test_a_gpu_without_bf16_has_the_peak_of_fp16(tmp_path: Path) -> None:
    path = _write(tmp_path, "t4.yaml", SHEET.replace("bfloat16", "float16"))
    assert next(iter(read_device(path).peak_flops)) == "fp16"
    assert read_gpu(path).flops_per_s == 3.12e14


def test_a_sheet_without_its_peak(tmp_path: Path) -> None:
    path = _write(tmp_path, "spec.yaml", SHEET.replace("bfloat16", "other"))
    with pytest.raises(ProfileError, match="no bfloat16_tc_flops under gpu"):
        read_device(path)


SHIPPED = Path(registry.__file__).parent / "sheets"


@pytest.mark.parametrize("name", ["t4", "v100_sxm", "rtx3090", "jetson_orin"])
def test_a_peak_is_stated_at_a_clock_that_the_gpu_has(name: str) -> None:
    gpu = read_gpu(SHIPPED / f"{name}.yaml")
    assert gpu.stated_clock_hz == pytest.approx(gpu.clock_hz, 0.01)
    flops = cycle_flops(gpu.name, gpu.capability)
    assert flops is not None
    assert gpu.flops_per_cycle == flops.matrix  # as of a GPU at hand, whose peak no sheet states


@pytest.mark.parametrize(
    ("name", "peak", "capability", "flops_per_cycle"),
    [
        ("a100_sxm", 312e12, 80, 2048),
        ("l40", 181e12, 89, 512),
        ("l40s", 362e12, 89, 1024),
        ("rtx4090", 165e12, 89, 512),
        ("h20", 148e12, 90, 1024),
        ("h200_sxm", 989e12, 90, 4096),
        ("b200_sxm", 2250e12, 100, 8192),
    ],
)
def test_products_of_one_generation_differ_in_what_they_do_in_a_cycle(
    tmp_path: Path, name: str, peak: float, capability: int, flops_per_cycle: int
) -> None:
    text = f"gpu:\n  mem_bw: 1e12\n  bfloat16_tc_flops: {peak}\n  sm_version: {capability}\n"
    gpu = read_gpu(_write(tmp_path, f"{name}.yaml", text))
    assert gpu.flops_per_cycle == flops_per_cycle
    assert gpu.stated_clock_hz == pytest.approx(gpu.clock_hz, 0.1)


def test_an_unknown_gpu_is_estimated_from_its_sheet(tmp_path: Path) -> None:
    gpu = read_gpu(_write(tmp_path, "spec_x900.yaml", SHEET.replace("  power: 400\n", "")))
    assert gpu.estimated
    assert gpu.cores == round(3.12e14 / 2048 / 1.8e9)
    assert gpu.power_w > 0
    half = read_gpu(_write(tmp_path, "geforce_x900.yaml"))  # at half the rate has twice as many
    assert half.cores == pytest.approx(2 * gpu.cores, abs=1)


@pytest.mark.parametrize(
    ("table", "sheet"),
    [
        ("a100_gemm.csv.gz", "spec_a100_sxm.yaml"),
        ("a100_pcie_gemm.csv", "spec_a100_pcie.yaml"),
        ("h200_sxm_gemm_bf16_fp8.csv.gz", "spec_h200_sxm.yaml"),
        ("H100-gemm.csv", "spec_h100_sxm.yaml"),
        ("l40s_gemm_bf16_fp8.csv.gz", "spec_l40s.yaml"),
        ("gemm_l4.csv", "spec_l4.yaml"),
        ("gb200_gemm.csv", "spec_gb200.yaml"),
        ("b200_sxm_gemm.csv", "spec_b200.yaml"),
    ],
)
def test_a_table_finds_its_sheet(table: str, sheet: str) -> None:
    assert sheet_of(Path("data") / table, SHEETS).name == sheet


@pytest.mark.parametrize("names", ["h100_sxm l4", "a100_40g a100_80g"])
def test_a_table_without_one_clear_sheet_is_refused(names: str) -> None:
    sheets = [Path(f"spec_{name}.yaml") for name in names.split()]
    with pytest.raises(ProfileError, match="TABLE=SHEET"):
        sheet_of(Path("a100_gemm.csv"), sheets)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpu:\n  mem_bw: 1\n",
        SHEET.replace("3.12e14", "-1"),
        SHEET.replace("3.12e14", "312"),  # TFLOP/s
        SHEET.replace("2.039e12", "2039"),  # GB/s
        SHEET.replace("2.039e12", "nan"),
        SHEET.replace("power: 400", "power: -400"),
        SHEET.replace("sm_version: 80", "sm_version: nan"),
    ],
)
def test_a_broken_sheet_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProfileError):
        read_gpu(_write(tmp_path, "spec_a100_sxm.yaml", text))


def test_every_known_gpu_is_found_by_its_own_key() -> None:
    for key, known in KNOWN.items():
        assert sheet_of(Path(f"{key}_gemm.csv"), [Path(f"spec_{k}.yaml") for k in KNOWN]).name == (
            f"spec_{key}.yaml"
        ), known.name
