"""Tables of one network a row, as the benchmarks of whole networks read them."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hw_profiles.errors import ProfileError
from hw_profiles.tables import read_text


@dataclass(frozen=True)
class NetworkTable:
    """A table's cells as text, by column.

    Attributes:
        columns: name -> one text a row, all of one length.
    """

    path: Path
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def texts(self, name: str) -> list[str]:
        """A column as it stands.

        Raises:
            ProfileError: if there is none of that name.
        """
        if name not in self.columns:
            raise ProfileError(
                f"{self.path} has no column {name}.",
                f"It has {', '.join(list(self.columns)[:12])}.",
            )
        return self.columns[name]

    def numbers(self, name: str, positive: bool = False) -> NDArray[np.float64]:
        """A column of numbers, (rows,); `True` and `False` count as 1 and 0.

        Raises:
            ProfileError: if there is none of that name, or a cell is not finite, or not positive
                where it has to be.
        """
        words = {"True": 1.0, "False": 0.0}
        values = np.empty(len(self))
        for row, text in enumerate(self.texts(name)):
            try:
                values[row] = words[text] if text in words else float(text)
            except ValueError:
                values[row] = np.nan
            if not np.isfinite(values[row]) or (positive and values[row] <= 0):
                raise ProfileError(
                    f"{self.path} has {text!r} under {name} in line {row + 2}.",
                    "Each network needs a positive number there."
                    if positive
                    else "Each network needs a number there.",
                )
        return values


def read_networks(path: Path) -> NetworkTable:
    """Read a CSV file, plain or gzipped, with a line of names.

    Raises:
        ProfileError: if it cannot be read, has no row, or a row of another length.
    """
    names, *rows = list(csv.reader(io.StringIO(read_text(path)))) or [[]]
    if not names or not rows or len(set(names)) < len(names):
        raise ProfileError(
            f"{path} is not a table of networks.", "It needs a line of names and a row a network."
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise ProfileError(
                f"{path} has {len(row)} cells in line {number}, not {len(names)}.",
                "Check that the file is complete.",
            )
    return NetworkTable(path, {name: [row[i] for row in rows] for i, name in enumerate(names)})
