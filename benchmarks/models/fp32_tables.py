"""fp32 op times of several GPUs and the sheets of these and other GPUs.

The layouts are those of sitar-lab/NeuSight (Lee et al., ASPLOS 2025): one CSV for each kind of op,
plain or gzipped, and one JSON object of device sheets. Times are of single calls between two CUDA
events on an idle device, so each holds the time that the host needs to issue the call.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hw_profiles.errors import ProfileError
from hw_profiles.tables import read_records, read_text

Array = NDArray[np.float64]

PRODUCT_COLUMNS = ("device", "latency", "b", "m", "n", "k", "kernel_name")
VECTOR_COLUMNS = ("op", "device", "latency", "b", "h")
SHEET_FIELDS = ("Device", "Dev_Mem", "Mem_Bw", "Num_Sm", "Core_Per_SM", "SingleFLOPs")
_SHEET_HINT = f"A sheet needs {', '.join(SHEET_FIELDS)}."


@dataclass(frozen=True, slots=True)
class GpuSheet:
    """What a vendor says of a GPU.

    Attributes:
        cores: streaming multiprocessors (SMs).
        lanes: fp32 units of each of them.
    """

    name: str
    cores: int
    lanes: int
    flops_per_s: float
    bandwidth_bytes_per_s: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class OpRows:
    """Timed calls of one kind on one device.

    Attributes:
        device: its name, as the table has it.
        kind: `linear`, `bmm`, or the name of an op over (rows, width).
        shapes: of products (batch, m, k, n) for [m, k] times [k, n]; else (rows, width).
        latency_ms: shape (n,).
    """

    device: str
    kind: str
    shapes: Array
    latency_ms: Array


def read_op_rows(path: Path) -> list[OpRows]:
    """Read a table of products (linear or bmm), or one of element-wise and row-wise ops.

    A table of products whose batch is always 1 is of linear layers, any other of bmm: the columns
    are the same.

    Raises:
        ProfileError: if the file cannot be read, has other columns, or holds a row that is no
            valid timing.
    """
    columns, records = read_records(path)
    products = columns.issuperset(PRODUCT_COLUMNS)
    if not products and not columns.issuperset(VECTOR_COLUMNS):
        raise ProfileError(
            f"{path} is no table of fp32 op times.",
            f"It needs the columns {', '.join(PRODUCT_COLUMNS)} or {', '.join(VECTOR_COLUMNS)}.",
        )
    sizes = ("b", "m", "n", "k") if products else ("b", "h")  # their n is what is summed over
    groups: dict[tuple[str, str], list[list[float]]] = {}
    for number, record in records:
        try:
            values = [float(record[name]) for name in (*sizes, "latency")]
            if not all(math.isfinite(value) and value > 0 for value in values):
                raise ValueError(values)
        except (TypeError, ValueError):
            raise ProfileError(
                f"{path} has a malformed row in line {number}.", "Check that the file is complete."
            ) from None
        groups.setdefault((record["device"], record.get("op") or "linear"), []).append(values)
    if not groups:
        raise ProfileError(f"{path} holds no row.", "Check that the file is complete.")
    tables = [(device, kind, np.array(rows)) for (device, kind), rows in groups.items()]
    if products and any(np.any(rows[:, 0] > 1) for _, _, rows in tables):
        tables = [(device, "bmm", rows) for device, _, rows in tables]
    return [OpRows(device, kind, rows[:, :-1], rows[:, -1]) for device, kind, rows in tables]


def read_gpu_sheets(path: Path) -> dict[str, GpuSheet]:
    """Read the sheets of NVIDIA GPUs by their full names; of two with one name, the first.

    Entries that give no plain fp32 rate (`SingleFLOPs`) are left out.

    Raises:
        ProfileError: if the file cannot be read or holds no usable sheet.
    """
    entries = read_json_object(path, "sheets of devices")
    sheets: dict[str, GpuSheet] = {}
    for entry in entries.values():
        if not isinstance(entry, dict) or "SingleFLOPs" not in entry:
            continue
        try:
            numbers = [float(entry[name]) for name in SHEET_FIELDS[1:]]
            if not all(math.isfinite(value) and value > 0 for value in numbers):
                raise ValueError(numbers)
        except (KeyError, TypeError, ValueError):
            raise ProfileError(f"{path} has a broken sheet.", _SHEET_HINT) from None
        memory, bandwidth, cores, lanes, flops = numbers
        name = str(entry["Device"])
        sheet = GpuSheet(name, int(cores), int(lanes), flops * 1e9, bandwidth * 1e9, memory * 1e9)
        sheets.setdefault(name, sheet)
    if not sheets:
        raise ProfileError(f"{path} holds no sheet with an fp32 rate.", _SHEET_HINT)
    return sheets


def find_sheet(sheets: Mapping[str, GpuSheet], name: str, prefer: Sequence[str] = ()) -> GpuSheet:
    """The sheet of a device that may be written shorter or otherwise (`A100`, `NVIDIA_L4`).

    Args:
        prefer: full names to choose first where several fit.

    Raises:
        ProfileError: if none fits.
    """
    words = _words(name)
    fitting = [sheet for full, sheet in sheets.items() if words <= _words(full)]
    fitting += [sheet for full, sheet in sheets.items() if _model(full) == _model(name)]
    if not words or not fitting:
        raise ProfileError(
            f"there is no sheet of a device {name!r}.", f"Known: {', '.join(sorted(sheets))}."
        )
    exact = [sheet for sheet in fitting if _words(sheet.name) == words]
    preferred = [sheet for sheet in fitting if sheet.name in prefer]
    return (exact + preferred + fitting)[0]


def device_slug(name: str) -> str:
    """The short name of a GPU: its model in small letters.

    >>> device_slug("NVIDIA A100-PCIE-40GB"), device_slug("NVIDIA_L4"), device_slug("h100")
    ('a100', 'l4', 'h100')
    """
    return _model(name)


def read_json_object(path: Path, what: str) -> dict[str, object]:
    """Read a JSON file whose top is an object.

    Raises:
        ProfileError: if it cannot be read or holds anything else.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ProfileError):
            raise
        value = None
    if not isinstance(value, dict):
        raise ProfileError(f"{path} holds no {what}.", "It must be one JSON object, name to entry.")
    return value


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower())) - {"nvidia", "tesla"}


def _model(name: str) -> str:
    """The first word with a letter and a digit that is no amount of memory, else the whole."""
    words: list[str] = [
        w for w in re.findall(r"[a-z0-9]+", name.lower()) if not re.fullmatch(r"\d+gb", w)
    ]
    models = [w for w in words if re.fullmatch(r"[a-z]+\d+[a-z]*", w)]
    return (models or ["_".join(words)])[0]
