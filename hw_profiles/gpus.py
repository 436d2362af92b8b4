"""What vendor sheets of NVIDIA GPUs leave out: multiprocessors, second-level cache, clock.

The table was entered by hand and not checked against the vendor's documents row by row. Sure are
the multiprocessors of the A100, H100 and L40S. Second sources disagree on the L4's multiprocessors
(58 or 60), the L40S's cache (48 or 96 MiB; its timings show over 48) and that of the B200 and its
kin (62 or 126 MiB): check a row before a profile rests on it. A GPU is found by the name of its
sheet; of one that is not in the table the three are estimated from its sheet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hw_profiles.errors import ProfileError
from hw_profiles.profile import Device
from hw_profiles.tables import read_sheet_values

MIB = 2**20


@dataclass(frozen=True, slots=True)
class KnownGpu:
    """What is known of a GPU beside the peaks of its sheet.

    Attributes:
        name: the full product name.
        cores: streaming multiprocessors switched on.
        l2_bytes: second-level cache.
        clock_hz: highest clock of the multiprocessors.
    """

    name: str
    cores: int
    l2_bytes: float
    clock_hz: float


# words of a sheet's name, product first -> the GPU
KNOWN = {
    "v100_sxm": KnownGpu("NVIDIA V100-SXM2", 80, 6 * MIB, 1.53e9),
    "v100_pcie": KnownGpu("NVIDIA V100-PCIE", 80, 6 * MIB, 1.38e9),
    "t4": KnownGpu("NVIDIA T4", 40, 4 * MIB, 1.59e9),
    "a100_sxm": KnownGpu("NVIDIA A100-SXM4-80GB", 108, 40 * MIB, 1.41e9),
    "a100_pcie": KnownGpu("NVIDIA A100-PCIE-80GB", 108, 40 * MIB, 1.41e9),
    "a30": KnownGpu("NVIDIA A30", 56, 24 * MIB, 1.44e9),
    "a10": KnownGpu("NVIDIA A10", 72, 6 * MIB, 1.695e9),
    "a40": KnownGpu("NVIDIA A40", 84, 6 * MIB, 1.74e9),
    "rtx3090": KnownGpu("NVIDIA GeForce RTX 3090", 82, 6 * MIB, 1.695e9),
    "orin": KnownGpu("NVIDIA Jetson AGX Orin", 16, 4 * MIB, 1.3e9),
    "rtx4090": KnownGpu("NVIDIA GeForce RTX 4090", 128, 72 * MIB, 2.52e9),
    "l4": KnownGpu("NVIDIA L4", 58, 48 * MIB, 2.04e9),
    "l40": KnownGpu("NVIDIA L40", 142, 96 * MIB, 2.49e9),
    "l40s": KnownGpu("NVIDIA L40S", 142, 96 * MIB, 2.52e9),
    "h100_sxm": KnownGpu("NVIDIA H100-SXM5-80GB", 132, 50 * MIB, 1.98e9),
    "h100_pcie": KnownGpu("NVIDIA H100-PCIE-80GB", 114, 50 * MIB, 1.755e9),
    "h20": KnownGpu("NVIDIA H20", 78, 60 * MIB, 1.98e9),
    "h200_sxm": KnownGpu("NVIDIA H200-SXM-141GB", 132, 50 * MIB, 1.98e9),
    "gh200": KnownGpu("NVIDIA GH200", 132, 50 * MIB, 1.98e9),
    "b200_sxm": KnownGpu("NVIDIA B200", 148, 126 * MIB, 1.965e9),
    "gb200": KnownGpu("NVIDIA GB200", 148, 126 * MIB, 1.965e9),
    "b300_sxm": KnownGpu("NVIDIA B300", 148, 126 * MIB, 1.92e9),
    "gb300": KnownGpu("NVIDIA GB300", 148, 126 * MIB, 1.92e9),
}


class CycleFlops(NamedTuple):
    """What one multiprocessor does in a cycle (2 FLOPs per multiply-accumulate).

    Attributes:
        matrix: dense 16-bit products summed in float32 by its matrix units.
        plain: float32 by its cores, each one multiply-accumulate.
    """

    matrix: int
    plain: int


# by compute capability x 10 (whitepapers of V100, T4, A100, GA102, Orin, Ada, H100, B200)
CYCLE_FLOPS = {
    70: CycleFlops(1024, 128),
    75: CycleFlops(1024, 128),
    80: CycleFlops(2048, 128),
    86: CycleFlops(1024, 256),
    87: CycleFlops(2048, 256),
    89: CycleFlops(1024, 256),
    90: CycleFlops(4096, 256),
    100: CycleFlops(8192, 256),
    103: CycleFlops(8192, 256),
}
# Entries of a sheet -> precisions whose dense peak they state.
PEAKS = {
    "bfloat16_tc_flops": "bf16",
    "float16_tc_flops": "fp16",
    "int8_tc_flops": "int8",
    "fp8_tc_flops": "fp8",
}
# Numbers that a sheet must state as such, and their least and largest: a rate that is less or more
# is in another unit, such as TFLOP/s.
POSSIBLE = dict.fromkeys(PEAKS, (1e9, 1e20)) | {
    "mem_bw": (1e7, 1e17),
    **dict.fromkeys(("mem_capacity", "power", "sm_version"), (0.0, math.inf)),
}
# of a GPU of which nothing else is known
USUAL_CLOCK_HZ = 1.8e9
USUAL_L2_BYTES = 48 * MIB
USUAL_WATTS_PER_FLOPS = 1e-12
USUAL_CAPABILITY = 80


@dataclass(frozen=True, slots=True)
class Gpu:
    """What is known of a GPU before anything was timed on it.

    Attributes:
        name: the product, or the sheet's name.
        capability: compute capability x 10; 90 is Hopper.
        flops_per_s: dense peak of 16-bit products (2 FLOPs per MAC).
        bandwidth_bytes_per_s: memory rate.
        power_w: power limit.
        cores, l2_bytes, clock_hz: as `KnownGpu` has them, or estimated.
        estimated: whether the last three are.
        power_stated: whether the sheet has the power limit; else it is guessed from the FLOP/s.
    """

    name: str
    capability: float
    flops_per_s: float
    bandwidth_bytes_per_s: float
    power_w: float
    cores: int
    l2_bytes: float
    clock_hz: float
    estimated: bool = False
    power_stated: bool = True

    @property
    def flops_per_cycle(self) -> int:
        """What the matrix units of a multiprocessor do in a cycle, in 16 bits: a power of two.

        By its own peak, for products of one generation differ: GeForce cards, the L40 and the H20
        have units at a part of its rate. Sheets and table disagree on the clock by some percent.
        """
        return int(2 ** round(math.log2(self.flops_per_s / self.cores / self.clock_hz)))

    @property
    def stated_clock_hz(self) -> float:
        """The clock at which the peak is stated."""
        return self.flops_per_s / self.cores / self.flops_per_cycle


def cycle_flops(name: str, capability: float) -> CycleFlops | None:
    """What a multiprocessor does in a cycle where no peak is stated; None of an unknown generation.

    GeForce cards sum products in float32 at half the rate of their generation.

    >>> cycle_flops("NVIDIA A10", 86), cycle_flops("NVIDIA GeForce RTX 3080", 86)
    (CycleFlops(matrix=1024, plain=256), CycleFlops(matrix=512, plain=256))
    """
    flops = CYCLE_FLOPS.get(round(capability))
    if flops is None or "geforce" not in name.lower():
        return flops
    return flops._replace(matrix=flops.matrix // 2)


def words_of(path: Path) -> list[str]:
    """The words of a file's name, lower case, without its endings.

    >>> words_of(Path("data/spec_h200_sxm.yaml"))
    ['spec', 'h200', 'sxm']
    """
    return [word for word in re.split(r"[^a-z0-9]+", path.name.lower().partition(".")[0]) if word]


def known_gpu(words: Iterable[str]) -> KnownGpu | None:
    """The GPU of the table whose words are all among these, else the first of its product's name.

    >>> known_gpu(["spec", "l40s"]).cores
    142
    >>> known_gpu(["a100", "gemm"]).name
    'NVIDIA A100-SXM4-80GB'
    """
    words = set(words)
    whole = [key for key in KNOWN if words.issuperset(key.split("_"))]
    part = [key for key in KNOWN if key.split("_")[0] in words]
    keys = sorted(whole, key=len, reverse=True) or part
    return KNOWN[keys[0]] if keys else None


def read_gpu(path: Path) -> Gpu:
    """Read a vendor's sheet and complete it from the table, or by estimates.

    An unknown GPU is given the clock 1.8 GHz, as many multiprocessors as its peak needs at that
    clock with its generation's FLOPs per cycle, and 48 MiB of cache.

    Raises:
        ProfileError: if the file cannot be read or lacks the bandwidth or the peak of bf16 (of
            fp16 where the GPU has no bf16).
    """
    return read_sheet(path)[0]


def read_device(path: Path) -> Device:
    """The device of a sheet, its name and multiprocessors as `read_gpu` has them.

    The first of its peaks is that of its native type: bf16, or fp16 where it has no bf16.

    Raises:
        ProfileError: as `read_gpu`.
    """
    return read_sheet(path)[1]


def read_sheet(path: Path) -> tuple[Gpu, Device]:
    """The GPU of a sheet as `read_gpu` has it, and its device as `read_device` has it.

    Raises:
        ProfileError: as `read_gpu`.
    """
    values = read_sheet_values(path, possible=POSSIBLE)
    gpu = _gpu(path, values)
    memory = values.get("mem_capacity")
    device = Device(
        name=gpu.name,
        vendor="NVIDIA",
        kind="cuda",
        cores=gpu.cores,
        memory_bytes=None if memory is None else int(memory),
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s,
        peak_flops={name: values[entry] for entry, name in PEAKS.items() if entry in values},
        source=f"vendor sheet {path.name}",
    )
    return gpu, device


def _gpu(path: Path, values: dict[str, float]) -> Gpu:
    flops = values.get("bfloat16_tc_flops", values.get("float16_tc_flops"))
    bandwidth = values.get("mem_bw")
    if flops is None or bandwidth is None:
        missing = "bfloat16_tc_flops" if flops is None else "mem_bw"
        raise ProfileError(
            f"{path} is not a GPU's sheet (no {missing} under gpu).",
            "It needs mem_bw and bfloat16_tc_flops (or float16_tc_flops) under `gpu:`.",
        )
    capability = values.get("sm_version", USUAL_CAPABILITY)
    known = known_gpu(words_of(path))
    name = known.name if known else path.name.partition(".")[0]
    usual = cycle_flops(name, capability) or CYCLE_FLOPS[USUAL_CAPABILITY]
    return Gpu(
        name=name,
        capability=capability,
        flops_per_s=flops,
        bandwidth_bytes_per_s=bandwidth,
        power_w=values.get("power", USUAL_WATTS_PER_FLOPS * flops),
        cores=known.cores if known else max(1, round(flops / usual.matrix / USUAL_CLOCK_HZ)),
        l2_bytes=known.l2_bytes if known else USUAL_L2_BYTES,
        clock_hz=known.clock_hz if known else USUAL_CLOCK_HZ,
        estimated=known is None,
        power_stated="power" in values,
    )


def sheet_of(table: Path, sheets: Iterable[Path]) -> Path:
    """The sheet that belongs to a kernel-timing table, by the words of both names.

    The sheet whose device name starts with the table's first word; of several (`a100_sxm`,
    `a100_pcie` for `a100_gemm`) the one that shares most words with the table, then the one of the
    usual form factor, SXM.

    Raises:
        ProfileError: if none fits, or several fit equally.
    """
    sheets = list(sheets)
    words = words_of(table)
    names = {sheet: [word for word in words_of(sheet) if word != "spec"] for sheet in sheets}
    fitting = [sheet for sheet in sheets if names[sheet] and names[sheet][0] in words]

    def rank(sheet: Path) -> tuple[int, int, int]:
        extra = [word for word in names[sheet] if word not in words]
        return len(names[sheet]) - len(extra), -sum(word != "sxm" for word in extra), -len(extra)

    fitting.sort(key=rank, reverse=True)
    if not fitting or (len(fitting) > 1 and rank(fitting[0]) == rank(fitting[1])):
        several = f"{', '.join(s.name for s in fitting)} all fit" if fitting else "none fits"
        raise ProfileError(
            f"cannot tell which sheet is that of {table.name}: {several}.",
            "Say it as TABLE=SHEET, for example a100_gemm.csv.gz=spec_a100_sxm.yaml.",
        )
    return fitting[0]
