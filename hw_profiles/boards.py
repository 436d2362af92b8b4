"""Boards without an NVIDIA GPU, as their sheets have them: small computers and microcontrollers.

A sheet has a section `board:` with the `name`, `vendor`, `kind` (cpu or mcu) and `runtime` of the
board, `cores`, `threads`, peaks `fp32_flops` and `int8_flops` (2 per MAC), `mem_bw` (B/s),
`mem_capacity`, `flash_capacity` (bytes) where weights stay in flash, `op_overhead` (s), and in W
`idle_power`, `power` under load and `highest_power`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from hw_profiles.errors import ProfileError
from hw_profiles.profile import Device, Runtime, RuntimeName
from hw_profiles.tables import read_sheet_section, read_sheet_values

#: Runtimes of boards that place all tensors before they run, so that an output may take the place
#: of an input.
PLANNING = ("cmsis-nn",)
_TEXTS = ("name", "vendor", "kind", "runtime")
_NUMBERS = ("cores", "fp32_flops", "int8_flops", "mem_bw", "mem_capacity", "op_overhead")
#: Least and largest of a sheet's entries: less or more is in another unit, such as GHz or us.
POSSIBLE = {
    "cores": (1, 1e6),
    "threads": (1, 1e6),
    "fp32_flops": (1e4, 1e20),
    "int8_flops": (1e4, 1e20),
    "mem_bw": (1e4, 1e17),
    "op_overhead": (1e-12, 1),
}


@dataclass(frozen=True, slots=True)
class Board:
    """A board before anything was timed on it.

    Attributes:
        op_overhead_s: that a runtime spends on every op.
        idle_w, power_w, highest_w: what it draws; under load, and at most. None where not stated.
    """

    device: Device
    runtime: Runtime
    op_overhead_s: float
    idle_w: float | None
    power_w: float | None
    highest_w: float | None


def is_board(path: Path) -> bool:
    """Whether a sheet describes a board rather than a GPU.

    Raises:
        ProfileError: if it cannot be read.
    """
    return bool(read_sheet_section(path, "board"))


def read_board(path: Path) -> Board:
    """Read a board's sheet.

    Raises:
        ProfileError: if it cannot be read, lacks an entry, states what no board has, or names a
            kind or runtime that is none.
    """
    texts, values = read_sheet_section(path, "board"), read_sheet_values(path, "board", POSSIBLE)
    missing = [key for key in _TEXTS if not texts.get(key)] + [
        key for key in _NUMBERS if key not in values
    ]
    if missing:
        raise ProfileError(
            f"{path} is not a board's sheet (no {missing[0]} under board).",
            f"It needs {', '.join((*_TEXTS, *_NUMBERS))} under `board:`.",
        )
    kind, runtime = texts["kind"], texts["runtime"]
    if kind not in ("cpu", "mcu"):
        raise ProfileError(f"{path}: a board's kind is not {kind!r}.", "It is cpu or mcu.")
    if runtime not in get_args(RuntimeName):
        raise ProfileError(
            f"{path} names an unknown runtime {runtime!r}.",
            f"Known: {', '.join(get_args(RuntimeName))}.",
        )
    flash = values.get("flash_capacity")
    device = Device(
        name=texts["name"],
        vendor=texts["vendor"],
        kind=kind,
        cores=int(values["cores"]),
        memory_bytes=int(values["mem_capacity"]),
        flash_bytes=None if flash is None else int(flash),
        bandwidth_bytes_per_s=values["mem_bw"],
        peak_flops={"fp32": values["fp32_flops"], "int8": values["int8_flops"]},
        source=f"sheet {path.name}",
    )
    return Board(
        device,
        Runtime(
            name=runtime,
            native="fp32",
            threads=int(values.get("threads", 1)),
            plans_buffers=runtime in PLANNING,
        ),
        values["op_overhead"],
        values.get("idle_power"),
        values.get("power"),
        values.get("highest_power"),
    )
