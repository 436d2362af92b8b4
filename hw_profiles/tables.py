"""Kernel-timing tables and vendor sheets, read into rows of ops with their times.

The layouts are those of the public tables of ai-dynamo/aiconfigurator: one CSV (plain or gzipped)
for each op of a device, latencies in milliseconds per call, and one small YAML file of peaks.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hw_profiles.errors import ProfileError
from hw_profiles.op import Op

GEMM_COLUMNS = ("gemm_dtype", "m", "n", "k", "latency")
ATTENTION_COLUMNS = ("attn_dtype", "batch_size", "isl", "num_heads", "head_dim", "latency")
GEMM_PRECISIONS = {
    "bfloat16": "bf16",
    "int8_wo": "int8_wo",
    "int4_wo": "int4_wo",
    "sq": "int8",  # SmoothQuant: int8 weights and activations
}
# read on request; in fp8_block blocks of numbers share one scale
FP8_PRECISIONS = {"fp8": "fp8", "fp8_block": "fp8"}
MAX_TABLE_BYTES = 256 * 2**20
MAX_SHEET_BYTES = 2**16
POSSIBLE = 1e-9, 1e9
"""Of a figure in a row: no call takes a picosecond or days in ms, and no GPU a gigawatt."""
_HINT = "It needs the columns of a GEMM or attention table; see `nas profile --help`."


@dataclass(frozen=True, slots=True)
class TableRow:
    """One timed call.

    Attributes:
        stack: software that made it, as `FRAMEWORK version`.
        causal: whether an attention looked only backwards (a context attention).
        kv_heads: key and value heads of an attention; 0 for other ops.
        power_w: mean power of the device under this load; None where it was not read.
        power_limit_w: what the device may draw; None where it was not read.
    """

    op: Op
    latency_ms: float
    stack: str
    causal: bool = False
    kv_heads: int = 0
    power_w: float | None = None
    power_limit_w: float | None = None


@dataclass(frozen=True, slots=True)
class KernelTable:
    """The usable rows of a table, and how many it held of kinds that no op describes."""

    rows: tuple[TableRow, ...]
    skipped: int


def read_table(path: Path, fp8: bool = False) -> KernelTable:
    """Read a GEMM, context-attention or encoder-attention table.

    Rows of number types without a precision here, and attention with a sliding window, an earlier
    context or a quantized cache, are counted in `skipped`.

    Args:
        fp8: whether products of fp8 numbers are read too, which no scheme offers.

    Raises:
        ProfileError: if the file cannot be read, has other columns, or holds a row that is no
            valid timing.
    """
    columns, records = read_records(path)
    read: Callable[[dict[str, str]], TableRow | None]
    if columns.issuperset(GEMM_COLUMNS):
        read = partial(_gemm_row, GEMM_PRECISIONS | (FP8_PRECISIONS if fp8 else {}))
    elif columns.issuperset(ATTENTION_COLUMNS):
        read = _attention_row
    else:
        raise ProfileError(f"{path} is not a kernel-timing table.", _HINT)
    rows: list[TableRow] = []
    skipped = 0
    for number, record in records:
        try:
            row = read(record)
        except (KeyError, TypeError, ValueError):
            raise ProfileError(f"{path} has a malformed row in line {number}.", _HINT) from None
        if row is None:
            skipped += 1
        else:
            rows.append(row)
    if not rows:
        raise ProfileError(f"{path} holds no usable row.", _HINT)
    return KernelTable(tuple(rows), skipped)


def read_records(path: Path) -> tuple[set[str], Iterator[tuple[int, dict[str, str]]]]:
    """The columns of a CSV file, and its rows, each with the number of its line.

    Raises:
        ProfileError: if the file cannot be read or names a column twice, or a row is none,
            such as one with a quote that is never closed.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=None))

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        try:
            for record in reader:
                yield reader.line_num, record
        except csv.Error:
            raise ProfileError(
                f"{path} has a malformed row in line {reader.line_num}.",
                "Check that the file is complete.",
            ) from None

    try:
        names = reader.fieldnames or ()
    except csv.Error:
        raise ProfileError(f"{path} is not a text table.", "Check the path.") from None
    if len(set(names)) != len(names):
        raise ProfileError(f"{path} has two columns of one name.", "Rename or remove one.")
    return set(names), rows()


def read_sheet_section(path: Path, section: str) -> dict[str, str]:
    """The entries under `section:` of a device sheet, as written, by their names there.

    A sheet is plain enough to need no YAML library: names and values, indented, with comments.

    Raises:
        ProfileError: if the file cannot be read, or states something twice.
    """
    values: dict[str, str] = {}
    inside = False
    for line in read_text(path, MAX_SHEET_BYTES).splitlines():
        line = line.partition("#")[0].rstrip()
        if not line:
            continue
        if not line[0].isspace():
            inside = line == f"{section}:"
            continue
        key, colon, value = line.strip().partition(":")
        if inside and colon:
            if key in values:
                raise ProfileError(f"{path} states {key} twice.", "Correct the sheet.")
            values[key] = value.strip().strip("\"'")
    return values


def read_sheet_values(
    path: Path, section: str = "gpu", possible: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, float]:
    """The numbers of a section of a device sheet, by their names there; text is left out.

    Args:
        possible: the least and the largest that some of them can be, in the sheet's units, so that
            TFLOP/s or GB/s are not taken for FLOP/s or B/s.

    Raises:
        ProfileError: if the file cannot be read, or a number is not finite and positive, or not
            possible.
    """
    values: dict[str, float] = {}
    for key, text in read_sheet_section(path, section).items():
        try:
            values[key] = float(text)
        except ValueError:
            if key in (possible or {}):
                raise ProfileError(
                    f"{path} states {key} {text!r}, which is no number.",
                    "Correct the sheet: its numbers stand without units.",
                ) from None
            continue
        if not 0 < values[key] < math.inf:
            raise ProfileError(
                f"{path} states {key} {text}, which is no positive number.", "Correct the sheet."
            )
        least, largest = (possible or {}).get(key, (0.0, math.inf))
        if not least <= values[key] <= largest:
            raise ProfileError(
                f"{path} states {key} {text}, which no device has: it must be from {least:g} to "
                f"{largest:g}.",
                "Sheets are in FLOP/s, B/s, bytes, s and W, without prefixes: 312e12, not 312.",
            )
    return values


def _gemm_row(precisions: dict[str, str], record: dict[str, str]) -> TableRow | None:
    precision = precisions.get(record["gemm_dtype"])
    if precision is None:
        return None
    shape = (int(record["m"]), int(record["k"]), int(record["n"]))
    return TableRow(
        Op("linear", shape, precision),
        _positive(record["latency"]),
        _stack(record),
        power_w=_positive_or_none(record.get("power")),
        power_limit_w=_positive_or_none(record.get("power_limit")),
    )


def _attention_row(record: dict[str, str]) -> TableRow | None:
    plain = (
        record["attn_dtype"] == "bfloat16"
        and (record.get("kv_cache_dtype") or "bfloat16") == "bfloat16"
        and not float(record.get("window_size") or 0)
        and not float(record.get("step") or 0)
    )
    if not plain:
        return None
    heads, tokens = int(record["num_heads"]), int(record["isl"])
    shape = (int(record["batch_size"]), heads, tokens, tokens, int(record["head_dim"]))
    grouped = record.get("num_key_value_heads")  # only context tables group queries
    kv_heads = heads if grouped is None else int(grouped)
    if not 1 <= kv_heads <= heads:
        raise ValueError(kv_heads)
    return TableRow(
        Op("attention", shape, "bf16"),
        _positive(record["latency"]),
        _stack(record),
        causal=grouped is not None,
        kv_heads=kv_heads,
        power_w=_positive_or_none(record.get("power")),
        power_limit_w=_positive_or_none(record.get("power_limit")),
    )


def _positive(text: str) -> float:
    value = float(text)
    if not POSSIBLE[0] <= value <= POSSIBLE[1]:
        raise ValueError(value)
    return value


def _positive_or_none(text: str | None) -> float | None:
    return _positive(text) if text else None


def _stack(record: dict[str, str]) -> str:
    return f"{record.get('framework', '')} {record.get('version', '')}".strip()


def read_text(path: Path, limit: int = MAX_TABLE_BYTES) -> str:
    """The text of a file, unpacked where its name ends in `.gz`; a byte order mark is no part.

    Raises:
        ProfileError: if it cannot be read, is no text, or is longer than `limit` bytes.
    """
    hint = "Check the path, and that the file is complete."
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(limit + 1)  # bounds what a hostile gzip unpacks to
        if len(raw) > limit:
            raise ProfileError(f"{path} is too large.", hint)
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "not a whole file"
        raise ProfileError(f"cannot read {path}: {reason}.", hint) from None
    except UnicodeDecodeError:
        raise ProfileError(f"{path} is not a text table.", hint) from None
