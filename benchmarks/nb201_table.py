"""NAS-Bench-201 as one table for search_tables.py.

    python benchmarks/nb201_table.py --data DIR --out nb201.csv

DIR holds `archs_accuracy_12epoch.csv.gz` (an `arch_str` a cell, accuracies in percent) and
`latency_ms.csv.gz` (a column a device setting), joined by `arch_idx`. The new column `arch` has one
character for the operation of each of the six edges; all other columns are kept.
"""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path

import made_table
from made_table import Rows

from nas.errors import UsageError

LETTERS = {
    "none": "0",
    "skip_connect": "1",
    "nor_conv_1x1": "2",
    "nor_conv_3x3": "3",
    "avg_pool_3x3": "4",
}
_EDGE = re.compile(r"(\w+)~\d")


def code(arch: str) -> str:
    """Six characters, in the order in which the cell's string names its edges.

    Raises:
        UsageError: if the string is no cell of NAS-Bench-201.

    >>> code("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|none~1|none~2|")
    '421000'
    """
    found = "".join(LETTERS.get(name, "?") for name in _EDGE.findall(arch))
    if len(found) != 6 or "?" in found:
        raise UsageError(f"{arch!r} is no cell of NAS-Bench-201.")
    return found


def _rows(path: Path) -> Rows:
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "arch_idx" not in rows[0]:
        raise UsageError(f"{path} has no column 'arch_idx'.")
    return rows


def joined(data: Path) -> Rows:
    """One row a cell.

    Raises:
        UsageError: if a column is missing, or a cell has no latency.
    """
    archs = _rows(data / "archs_accuracy_12epoch.csv.gz")
    latency = {row["arch_idx"]: row for row in _rows(data / "latency_ms.csv.gz")}
    if "arch_str" not in archs[0]:
        raise UsageError("the accuracies have no column 'arch_str'.")
    missing = [row["arch_idx"] for row in archs if row["arch_idx"] not in latency]
    if missing:
        raise UsageError(f"cell {missing[0]} has no latency.")
    return [{"arch": code(row["arch_str"]), **row, **latency[row["arch_idx"]]} for row in archs]


def main() -> int:
    """Run as a script."""
    return made_table.run(__doc__, joined)


if __name__ == "__main__":
    raise SystemExit(main())
