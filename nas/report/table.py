"""The front as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable

from nas.budget import format_quantity
from nas.report.columns import Column, Table
from nas.study import ENERGY_FIGURES, FrontRow, Study, judged_column
from nas.target_names import at, split


def front_table(study: Study, describe: Callable[[FrontRow], tuple[str, str]]) -> Table:
    """One row a network, from least to most of the first cost.

    Every objective and what is limited has a column; measured ones only where something was
    measured. Of several targets each has columns of its own: latency, and what it is judged by
    beside.

    Args:
        study: whose front.
        describe: a network's architecture and policy, shortly.
    """
    columns = {"trial": lambda row: str(row.trial), **_quality(study)}
    columns |= _on_targets(study) if study.record.targets else _on_target(study)
    columns["params"] = _cell("params", "params")
    if "macs" in study.judged:
        columns["macs"] = _cell("macs", "macs")
    figures = [
        Column(name, [cell(row) for row in study.front], figures=True)
        for name, cell in columns.items()
    ]
    described = [describe(row) for row in study.front]
    words = [
        Column(name, [texts[i] for texts in described])
        for i, name in enumerate(("architecture", "policy"))
    ]
    return Table([*figures, *words])


Cell = Callable[[FrontRow], str]


def _quality(study: Study) -> dict[str, Cell]:
    show = study.metric.format
    return {
        "val": lambda row: show(row.quality),
        "test": lambda row: "-" if row.quality_test is None else show(row.quality_test),
    }


def _on_target(study: Study) -> dict[str, Cell]:
    """Of one target its latency and memory, what was measured, and what else is judged."""
    columns = {
        "latency": _cell("latency", "latency_ms"),
        "bound": _cell("latency", "latency_ms_upper"),
    }
    if any(row.latency_ms_measured is not None for row in study.front):
        columns["measured"] = _cell("latency", "latency_ms_measured")
        columns["agree"] = _agreement(None)
    if study.asks_energy:
        columns["energy"] = _cell("energy", "energy_mj")
        columns["energy bound"] = _cell("energy", "energy_mj_upper")
    columns["memory"] = _cell("memory", "memory_bytes")
    if "weights" in study.judged:
        columns["weights"] = _cell("weights", "weight_bytes")
    return columns


def _on_targets(study: Study) -> dict[str, Cell]:
    """Of each target its latency, what was measured, and what is an objective or limited."""
    columns: dict[str, Cell] = {}
    for label in study.record.targets:
        columns[f"{label}\nlatency"] = _cell("latency", at("latency_ms", label))
        columns[f"{label}\nbound"] = _cell("latency", at("latency_ms_upper", label))
        if any(_value(row, at("latency_ms_measured", label)) is not None for row in study.front):
            columns[f"{label}\nmeasured"] = _cell("latency", at("latency_ms_measured", label))
            columns[f"{label}\nagree"] = _agreement(label)
        for name in ("energy", "memory", "weights"):
            if at(name, label) in study.judged:
                columns[f"{label}\n{name}"] = _cell(name, judged_column(at(name, label)))
    return columns


def _value(row: FrontRow, name: str) -> float | None:
    """A figure of a row; `latency_ms@a100` is that on one of several targets."""
    figure, target = split(name)
    value: float | None = (
        getattr(row, figure) if target is None else (row.target_costs or {})[target].get(figure)
    )
    return value


def _cell(quantity: str, name: str) -> Cell:
    def cell(row: FrontRow) -> str:
        value = _value(row, name)
        return "-" if value is None else format_quantity(quantity, value)

    return cell


def _agreement(target: str | None) -> Cell:
    def cell(row: FrontRow) -> str:
        value = _value(row, at("agreement", target))
        return "-" if value is None else f"{value:.1%}"

    return cell


def table_csv(study: Study) -> str:
    """The front as CSV, one row a network, the fields of `FrontRow` with the metric's name.

    Energy has columns only where the target has it; of several targets each has columns of its
    own after them, such as `latency_ms@a100`.
    """
    import csv
    import io
    import json
    from dataclasses import fields

    out = io.StringIO()
    names = [
        f.name.replace("quality", study.metric.name)
        for f in fields(FrontRow)
        if f.name != "target_costs" and (study.has_energy or f.name not in ENERGY_FIGURES)
    ]
    rows = [row.to_dict(study.metric) for row in study.front]
    names = list(dict.fromkeys([*names, *(name for row in rows for name in row)]))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for plain in rows:
        plain["architecture"] = json.dumps(plain["architecture"])
        plain["policy"] = json.dumps(plain["policy"])
        writer.writerow({k: "" if v is None else v for k, v in plain.items()})
    return out.getvalue()
