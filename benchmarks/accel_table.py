"""Accel-NASBench as one table for search_tables.py: a list of some networks of a large space.

    python benchmarks/accel_table.py --data train_val.csv --out accel.csv

The columns `block{stage}_{e,k,l,se}` become one column `arch` with a character a choice, its place
among the values that the file has, in order; all other columns are kept.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from pathlib import Path

from nas.errors import NasError, UsageError

_CHOICE = re.compile(r"block\d+_(e|k|l|se)")
DIGITS = "0123456789"


def coded(data: Path) -> list[dict[str, str]]:
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="CSV")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    given = parser.parse_args()
    try:
        rows = coded(given.data)
        with given.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(rows)} networks", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
