"""Accel-NASBench as one table for search_tables.py: a list of some networks of a large space.

    python benchmarks/accel_table.py --data train_val.csv --out accel.csv

The columns `block{stage}_{e,k,l,se}` become one column `arch` with a character a choice, its place
among the values that the file has, in order; all other columns are kept.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import made_table
from made_table import Rows

from nas.errors import UsageError

_CHOICE = re.compile(r"block\d+_(e|k|l|se)")
DIGITS = "0123456789"


def coded(data: Path) -> Rows:
    """One row a network.

    Raises:
        UsageError: if the file has no such columns, or a choice too many values.
    """
    with data.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    choices = [name for name in rows[0] if _CHOICE.fullmatch(name)] if rows else []
    if not choices:
        raise UsageError(f"{data} has no columns such as block0_e.", "Give train_val.csv.")
    values = {name: sorted({row[name] for row in rows}) for name in choices}
    for name, found in values.items():
        if len(found) > len(DIGITS):
            raise UsageError(f"{name} has {len(found)} values.", "It is no choice.")
    return [
        {"arch": "".join(DIGITS[values[name].index(row[name])] for name in choices)}
        | {name: value for name, value in row.items() if name not in values}
        for row in rows
    ]


def main() -> int:
    """Run as a script."""
    return made_table.run(__doc__, coded)


if __name__ == "__main__":
    raise SystemExit(main())
