"""The front as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from nas.budget import format_quantity
from nas.study import ENERGY_FIGURES, FrontRow, Study


def front_table(study: Study, describe: Callable[[FrontRow], tuple[str, str]]) -> Table:
    """One row a network, fastest first.

    Measured columns only where something was measured, those of energy where it was asked for.

    Args:
        study: whose front.
        describe: a network's architecture and policy, shortly.
    """
    rows = study.front
    measured = any(row.latency_ms_measured is not None for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("trial", "val", "test", "latency", "bound"):
        table.add_column(name, justify="right", no_wrap=True)
    if measured:
        table.add_column("measured", justify="right", no_wrap=True)
        table.add_column("agree", justify="right", no_wrap=True)
    costs = ["memory", "params"]
    if study.asks_energy:
        costs = ["energy", "energy bound", *costs]
    for name in costs:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("architecture", overflow="fold")
    table.add_column("policy", overflow="fold")
    for row in rows:
        cells = [
            str(row.trial),
            study.metric.format(row.quality),
            "-" if row.quality_test is None else study.metric.format(row.quality_test),
            format_quantity("latency", row.latency_ms),
            format_quantity("latency", row.latency_ms_upper),
        ]
        if measured:
            value, agreement = row.latency_ms_measured, row.agreement
            cells.append("-" if value is None else format_quantity("latency", value))
            cells.append("-" if agreement is None else f"{agreement:.1%}")
        if study.asks_energy:
            cells += [
                "-" if value is None else format_quantity("energy", value)
                for value in (row.energy_mj, row.energy_mj_upper)
            ]
        cells += [
            format_quantity("memory", row.memory_bytes),
            format_quantity("params", row.params),
            *describe(row),
        ]
        table.add_row(*cells)
    return table


def table_csv(study: Study) -> str:
    """The front as CSV, one row a network, the fields of `FrontRow` with the metric's name.

    Energy has columns only where the target has it.
    """
    import csv
    import io
    import json
    from dataclasses import fields

    out = io.StringIO()
    names = [
        f.name.replace("quality", study.metric.name)
        for f in fields(FrontRow)
        if study.has_energy or f.name not in ENERGY_FIGURES
    ]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in study.front:
        plain = row.to_dict(study.metric)
        plain["architecture"] = json.dumps(plain["architecture"])
        plain["policy"] = json.dumps(plain["policy"])
        writer.writerow({k: "" if v is None else v for k, v in plain.items()})
    return out.getvalue()
