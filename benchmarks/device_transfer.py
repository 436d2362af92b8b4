"""Latency on a new device from ten networks measured there and from other devices.

Tables hold `arch_idx` and a column of latencies, in ms, a device: every column named `lat_...`, or,
where none is, every column of numbers whose name is not that of a size or an accuracy. Train files
are joined by `arch_idx`; an architecture that stands in them as text describes the networks.
Each device of the test files is predicted from the train files' devices but itself: a device that
stands in both is left out in turn. The ten measured networks are chosen from what is known of other
devices, and no other latency of the new one is looked at; they are not judged.

Printed are the means over devices (rows: the sum), and one object a device under `devices`.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass

import judging
import numpy as np
from network_tables import NetworkTable, read_networks
from numpy.typing import NDArray

from hw_profiles.errors import ProfileError
from predictors.transfer import DeviceTransfer

Floats = NDArray[np.float64]

KEY = "arch_idx"
PREFIX = "lat_"
NO_DEVICE = re.compile(r".*idx|.*flops.*|.*params.*|m*macs.*|acc.*|.*top\d", re.IGNORECASE)
MEASURED = 10
# Distinct values that a described choice has at most; more are a size.
CHOICES = 32
# One-hot columns whose products are used too, at most.
PAIRED = 64


def main() -> int:
    return judging.run(judge, judging.arguments(__doc__))


def judge(given: argparse.Namespace) -> dict[str, object]:
    """The figures of every device of the test files, and their means."""
    known = join([read_networks(path) for path in given.train])
    made: dict[str, dict[str, float]] = {}
    for path in given.test:
        table = read_networks(path)
        keys = table.texts(KEY)
        rows = np.array([i for i, key in enumerate(keys) if key in known.rows], np.int64)
        if len(rows) <= MEASURED:
            raise ProfileError(
                f"{path} has {len(rows)} networks of the train files.",
                f"It needs more than {MEASURED}, with the same {KEY}.",
            )
        in_train = np.array([known.rows[keys[i]] for i in rows])
        for device in device_columns(table):
            others = [name for name in known.devices if name != device]
            if len(others) < 2:
                raise ProfileError(
                    f"the train files have {len(others)} devices beside {device}.",
                    "They need two at least.",
                )
            print(device, file=sys.stderr)
            X = np.column_stack([known.devices[name] for name in others])[in_train]
            columns = None if known.columns is None else known.columns[in_train]
            made[device] = transferred(X, columns, table.numbers(device, positive=True)[rows])
    if not made:
        raise ProfileError("the test files have no device.", "They need a column a device.")
    names = list(next(iter(made.values())))
    means = {name: round(float(np.mean([m[name] for m in made.values()])), 4) for name in names}
    rows_in_all = sum(int(figures["rows"]) for figures in made.values())
    return means | {"rows": rows_in_all, "devices": made}


def transferred(X: Floats, columns: Floats | None, latency_ms: Floats) -> dict[str, float]:
    """Figures of a new device on all networks but the ten that were measured.

    Args:
        X: latencies on other devices, (networks, devices).
        columns: what describes the networks, (networks, columns).
        latency_ms: on the new device, (networks,).
    """
    transfer = DeviceTransfer().fit(X, columns=columns)
    rows = transfer.choose(MEASURED)
    adapted = transfer.adapt(rows, latency_ms[rows])
    judged = np.setdiff1d(np.arange(len(X)), rows)
    return judging.figures(latency_ms[judged], adapted.latency_ms[judged], adapted.upper_ms[judged])


@dataclass(frozen=True)
class Known:
    """What train files know of the networks that stand in all of them.

    Attributes:
        rows: `arch_idx` -> row.
        devices: name -> latencies in ms, (rows,).
        columns: what describes the networks, (rows, columns), or none.
    """

    rows: dict[str, int]
    devices: dict[str, Floats]
    columns: Floats | None


def join(tables: list[NetworkTable]) -> Known:
    """Join train files by `arch_idx`.

    Raises:
        ProfileError: if a file has no `arch_idx`, or one twice, or they share no network.
    """
    places = []
    for table in tables:
        keys = table.texts(KEY)
        places.append({key: row for row, key in enumerate(keys)})
        if len(places[-1]) < len(keys):
            raise ProfileError(f"{table.path} has an {KEY} twice.", "Give each network one row.")
    shared = [key for key in places[0] if all(key in place for place in places)]
    if not shared:
        raise ProfileError("the train files share no network.", f"They are joined by {KEY}.")
    devices: dict[str, Floats] = {}
    described = []
    for table, place in zip(tables, places, strict=True):
        rows = np.array([place[key] for key in shared])
        names = device_columns(table)
        devices |= {name: table.numbers(name, positive=True)[rows] for name in names}
        for name, cells in table.columns.items():
            if name not in {*names, KEY}:
                described += describe([cells[row] for row in rows])
    rows_of = {key: row for row, key in enumerate(shared)}
    return Known(rows_of, devices, one_hot_pairs(described))


def device_columns(table: NetworkTable) -> list[str]:
    """Names of the columns of latencies."""
    named = [name for name in table.columns if name.startswith(PREFIX)]
    if named:
        return named
    return [
        name
        for name, cells in table.columns.items()
        if not NO_DEVICE.fullmatch(name) and all(map(_is_number, cells[:100]))
    ]


def describe(cells: list[str]) -> list[Floats]:
    """Columns (n,) of 0 and 1 for a text of as many parts in each row; none for any other.

    >>> [c.tolist() for c in describe(["3_5", "3_7"])]
    [[1.0, 0.0], [0.0, 1.0]]
    """
    separator = "|" if "|" in cells[0] else "_"
    parts = [cell.split(separator) for cell in cells]
    if len({len(part) for part in parts}) > 1:
        return []
    columns = []
    for place in np.array(parts).T:
        values = np.unique(place)
        if 1 < len(values) <= CHOICES:
            columns += [(place == value).astype(np.float64) for value in values]
    return columns


def one_hot_pairs(columns: list[Floats]) -> Floats | None:
    """The distinct columns, with the products of two where they are few, (n, columns)."""
    if not columns:
        return None
    hot = np.unique(np.column_stack(columns), axis=1)
    if hot.shape[1] <= PAIRED:
        left, right = np.triu_indices(hot.shape[1], 1)
        hot = np.unique(np.column_stack([hot, hot[:, left] * hot[:, right]]), axis=1)
    return np.asarray(hot[:, hot.any(axis=0)])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
