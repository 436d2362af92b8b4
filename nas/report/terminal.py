"""Results on stdout: tables to the terminal's width, lines, or one JSON object."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nas.budget import format_quantity
from nas.report.columns import Column, Table

if TYPE_CHECKING:
    from nas.comparison import Compared
    from nas.request import RunOptions
    from nas.study import Study

Row = Mapping[str, Any]
PIPE_WIDTH = 160
"""Of lines that go elsewhere than to a terminal: wide enough for a table."""


def print_json(value: Any) -> None:
    """Plain data as JSON; escaped where stdout does not take every character."""
    escaped = str(sys.stdout.encoding).lower() != "utf-8"
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=escaped, default=str) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """A text that was made line by line."""
    for line in lines:
        typer.echo(line)


def print_table(table: Table) -> None:
    """A table to the terminal's width, its titles bold."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    head, body = table.lines(width)
    for line in head:
        typer.secho(line, bold=True)
    sys.stdout.writelines(f"{line}\n" for line in body)


def print_rows(rows: list[dict[str, Any]], empty: str) -> None:
    """Rows as a table, a column for each key; a line that says what there is none of."""
    if not rows:
        typer.echo(empty)
        return
    names = dict.fromkeys(name for row in rows for name in row)
    texts = [{name: _cell(value) for name, value in row.items()} for row in rows]
    print_table(Table([Column(name, [text.get(name, "") for text in texts]) for name in names]))


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


# --- what the commands show ---------------------------------------------------------------------


def print_study(study: Study, options: RunOptions, drawn: bool, as_json: bool) -> None:
    """The front of a study, and what is to be said of it, or all of it as JSON.

    Args:
        study: whose front.
        options: how it was run, or where it is kept.
        drawn: whether its pictures were drawn.
        as_json: print one JSON object and nothing else.
    """
    if as_json:
        print_json(study.to_dict())
        return
    from nas import archive
    from nas.report.table import front_table

    print_table(front_table(study, archive.describer(study)))
    print_lines(archive.summary(study, options, drawn))


def print_space(shown: Row) -> None:
    """A search space; see `nas.inquiry.describe_space`."""
    typer.echo(f"{shown['space']} ({shown['preset']}): {shown['title']}")
    typer.echo(f"{shown['architectures']:,} distinct architectures\n")
    print_rows(shown["choices"], "no choices")
    typer.echo("")
    print_rows([_extreme(row, shown["target"]) for row in shown["extremes"]], "")


def _extreme(row: Row, target: str | None) -> dict[str, str]:
    """One of a space's networks, its figures to read."""
    titles = {
        "params": ("params", "params"),
        "macs": ("MACs", "macs"),
        "latency_ms": (f"latency on {target}", "latency"),
        "latency_ms_upper": ("bound", "latency"),
        "energy_mj": ("energy", "energy"),
        "energy_mj_upper": ("energy bound", "energy"),
        "memory_bytes": ("memory", "memory"),
    }
    figures = {
        title: format_quantity(quantity, row[name])
        for name, (title, quantity) in titles.items()
        if name in row
    }
    return {"": row["network"], **figures, "architecture": row["architecture"]}


def print_studies(rows: list[dict[str, Any]]) -> None:
    """The studies of a database; see `nas.archive.list_studies`."""
    shown = [
        {
            "study": row["study"],
            "space": f"{row['space']} ({row['preset']})",
            "target": row["target"],
            "budgets": row["budgets"] or "none",
            "trials": f"{row['trials']} of {row['asked']}",
            "last active": f"{datetime.fromisoformat(row['active_at']):%Y-%m-%d %H:%M} UTC",
            "run by": row["holder"],
        }
        for row in rows
    ]
    print_rows(shown, "no studies yet: start one with `nas search`")


def print_target(shown: Row) -> None:
    """A target, a line a figure and a table of its ops; see `nas.inquiry.describe_target`."""
    for key, value in shown.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            typer.echo(f"\n{key}:")
            print_rows(value, "")
        elif key == "notes":  # whole sentences
            print_lines(f"note: {note}" for note in value)
        else:
            typer.echo(f"{key}: {', '.join(value) if isinstance(value, list) else value}")


def print_comparison(compared: Compared, batch_size: int, picture: Path | None) -> None:
    """Two targets, a row a space.

    Args:
        compared: the targets.
        batch_size: examples a forward pass.
        picture: file that they were drawn into.
    """
    first, second = compared.names
    typer.echo(f"latency on {second} relative to {first}, unquantized, batch {batch_size}:")
    print_rows(compared.rows(), "")
    print_lines(f"left out: {line}" for line in compared.left_out)
    if picture is not None:
        typer.echo(f"drawn in {picture}")


def print_recipe(shown: Row) -> None:
    """A training recipe with its fields; see `nas.inquiry.describe_recipe`."""
    typer.echo(f"{shown['recipe']}: {shown['what']}\n")
    print_rows(shown["fields"], "no fields")
    typer.echo(f"\nset fields as in --recipe {shown['example']}")


def print_facts(shown: Row) -> None:
    """Names and values, a line each."""
    width = max(map(len, shown))
    print_lines(f"{key:<{width}}  {value}" for key, value in shown.items())
