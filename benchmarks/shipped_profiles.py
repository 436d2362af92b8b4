"""Make the profiles that ship, and print the errors of every fit on timings kept out of it.

    python benchmarks/shipped_profiles.py --data DIR --out hw_profiles/data [--only NAME ...]

DIR holds the public kernel-timing tables of ai-dynamo/aiconfigurator (commit 095f58a5, Apache-2.0)
for the A100, the H200 and the L40S, and their sheets with the H100's. The sheets of all other
devices are in hw_profiles/sheets.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import cache
from importlib.resources import files
from pathlib import Path

from hw_profiles.profile import DeviceProfile, FitError, NetworkModel, load_profile
from predictors.from_tables import (
    TimedGpu,
    fit_unseen,
    profile_from_others,
    profile_from_tables,
    profile_of_board,
    read_timed_gpu,
)
from predictors.gemm_time import RooflineMLP
from predictors.power_fits import fit_energy, scaled_energy
from predictors.unseen_gemm import UnseenGemm

SOURCE = "in the public tables of ai-dynamo/aiconfigurator 095f58a5 (Apache-2.0)"
SHEETS = Path(str(files("hw_profiles"))) / "sheets"
# GPU -> its sheet and its tables
TABLES = {
    "a100": ("spec_a100_sxm", ["a100_gemm", "a100_context_attention"]),
    "h200": (
        "spec_h200_sxm",
        [
            "h200_sxm_gemm_bf16_fp8",
            "h200_sxm_context_attention_bf16",
            "h200_sxm_encoder_attention",
        ],
    ),
    "l40s": (
        "spec_l40s",
        ["l40s_gemm_bf16_fp8", "l40s_context_attention_bf16", "l40s_encoder_attention"],
    ),
}
# of the GPU whose power was read, under calls of other stacks than those that its times are of
METERED = ("h200", ["h200_power_gemm", "h200_power_context_attention"])
# GPU without tables -> its sheet, the profile that its quantized products come from, and these
UNSEEN = {
    "h100": ("spec_h100_sxm", "h200", ["fp8"]),
    "t4": ("t4", "a100", ["int8", "int8_wo"]),
    "v100": ("v100_sxm", "a100", ["int8_wo"]),
    "rtx3090": ("rtx3090", "a100", ["int8", "int8_wo"]),
    "jetson-orin": ("jetson_orin", "a100", ["int8", "int8_wo"]),
}
BOARDS = ("raspberry-pi-4", "stm32f746")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[*TABLES, *UNSEEN, *BOARDS], default=None)
    args = parser.parse_args()
    print(f"{'op':34s} {'kept out':44s} {'MAPE':>6s} {'median':>7s} {'tau':>6s} {'cover':>6s} rows")
    for name in args.only or [*TABLES, *UNSEEN, *BOARDS]:
        started = time.perf_counter()
        print(name)
        profile = make(name, args.data, args.out)
        path = args.out / f"{name}.json"
        profile.save(path)
        size, seconds = path.stat().st_size / 1024, time.perf_counter() - started
        print(f"{path.name}: {size:.0f} KiB, {seconds:.0f} s", file=sys.stderr, flush=True)


def make(name: str, data: Path, out: Path) -> DeviceProfile:
    """The profile of that name; those of quantized products it rests on are read from `out`."""
    if name in BOARDS:
        return profile_of_board(name, SHEETS / f"{name}.yaml")
    timed = {gpu: read_timed(gpu, data) for gpu in TABLES}
    if name in TABLES:
        mine = timed.pop(name)
        made = profile_from_tables(name, mine, list(timed.values()), tell=show)
        return made if made.energy else made.model_copy(update={"energy": elsewhere(mine, data)})
    sheet, donor, precisions = UNSEEN[name]
    own = SHEETS / f"{sheet}.yaml"
    mine = read_timed_gpu(own if own.exists() else data / f"{sheet}.yaml", [])
    others = list(timed.values())
    alike = any(other.gpu.capability == mine.gpu.capability for other in others)
    product = fit_unseen(mine.gpu, others) if alike else without_relative(data)
    given = load_profile(out / f"{donor}.json")
    donated = {p: product_of(given, p) for p in precisions}
    energy = metered_energy(data)
    return profile_from_others(
        name, mine, product, others, timed[donor].gpu, donated, energy, tell=show
    )


@cache
def metered_energy(data: Path) -> NetworkModel:
    """The energy model of the GPU whose power was read."""
    timed = read_timed(METERED[0], data)
    found = fit_energy(timed.metered, timed.device, timed.native, SOURCE)
    assert found is not None
    return found


def elsewhere(timed: TimedGpu, data: Path) -> NetworkModel:
    """The energy model of a GPU of which no power was read."""
    return scaled_energy(metered_energy(data), timed.gpu, timed.device)


@cache
def read_timed(gpu: str, data: Path) -> TimedGpu:
    """A GPU with its tables."""
    sheet, tables = TABLES[gpu]
    paths = [data / f"{table}.csv.gz" for table in tables]
    metered = METERED[1] if gpu == METERED[0] else []
    power = [data / f"{table}.csv.gz" for table in metered]
    return read_timed_gpu(data / f"{sheet}.yaml", paths, SOURCE, power)


@cache
def without_relative(data: Path) -> UnseenGemm:
    """The fit that all GPUs share whose kernels are those of none that was timed."""
    gpu = read_timed_gpu(SHEETS / "t4.yaml", []).gpu
    return fit_unseen(gpu, [read_timed(name, data) for name in TABLES])


def product_of(profile: DeviceProfile, precision: str) -> RooflineMLP:
    """The fitted product of a profile."""
    model = profile.op_model("linear", precision)
    if model is None:
        raise SystemExit(f"{profile.name} has no products in {precision}; make it first.")
    return RooflineMLP.from_params(model.params)


def show(what: str, error: FitError) -> None:
    """One line of the table of errors."""
    cover = "-" if error.coverage is None else f"{error.coverage:.3f}"
    print(
        f"{what[:34]:34s} {error.kept_out[:44]:44s} {error.mape:6.2f} {error.median_error:7.2f} "
        f"{error.kendall_tau or 0:6.3f} {cover:>6s} {error.rows}",
        flush=True,
    )


if __name__ == "__main__":
    main()
