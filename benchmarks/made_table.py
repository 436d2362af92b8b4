"""What scripts share that turn public data into a table for search_tables.py."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

from nas.errors import NasError

Rows = list[dict[str, str]]


def run(doc: str | None, read: Callable[[Path], Rows]) -> int:
    """Run a script with `--data` and `--out`.

    Args:
        doc: of the script.
        read: the path of `--data` -> a row a network, one or more.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="PATH")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    given = parser.parse_args()
    try:
        rows = read(given.data)
        with given.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(rows)} networks", file=sys.stderr)
    return 0
