"""`nas targets`: the devices and runtimes that networks are searched for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.commands.options import AsJson, BatchSize, require_options_after_verb
from nas.report.terminal import print_comparison, print_json, print_rows, print_target

targets = typer.Typer(help="Devices and runtimes: list, show, add, compare.")
Target = Annotated[str, typer.Argument(help="Name of a target, or a profile file.")]


@targets.callback(invoke_without_command=True)
def targets_alone(context: typer.Context, as_json: AsJson = False) -> None:
    """List the targets; `show`, `add` and `compare` say more."""
    require_options_after_verb(context)
    if context.invoked_subcommand is None:
        list_targets(as_json)


@targets.command("list")
def list_targets(as_json: AsJson = False) -> None:
    """List the targets, as `nas targets` alone does."""
    from nas import inquiry

    rows = inquiry.list_targets()
    print_json(rows) if as_json else print_rows(rows, "no targets")


@targets.command()
def show(
    target: Target,
    out: Annotated[
        Path | None, typer.Option("--out", help="Draw TARGET.png there: errors, bounds, drift.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a target with where each figure came from, and its errors."""
    from nas import inquiry

    shown = inquiry.describe_target(target)
    if out is not None:
        shown["picture"] = str(inquiry.draw_target(target, out))
    print_json(shown) if as_json else print_target(shown)


@targets.command()
def add(
    file: Annotated[Path, typer.Argument(help="A profile file, as `nas profile` writes it.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the target; default the profile's own.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Over one that was added before.")
    ] = False,
) -> None:
    """Keep a profile under a name, for `--target NAME` from now on."""
    from nas.targets import add_target

    typer.echo(f"use it with --target {add_target(file, name, replace)}")


@targets.command()
def compare(
    first: Target,
    second: Target,
    space: Annotated[
        list[str] | None, typer.Option("--space", help="Repeatable, NAME or NAME:PRESET.")
    ] = None,
    batch_size: BatchSize = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Draw FIRST-SECOND.png there too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the same networks on two targets: ratios, and whether they order alike."""
    from nas import inquiry
    from nas.comparison import compare_targets

    compared = compare_targets(first, second, tuple(space or ()), batch_size)
    picture = None if out is None else inquiry.draw_comparison(compared, out)
    if as_json:
        print_json({"spaces": compared.rows(), "left_out": compared.left_out, "picture": picture})
    else:
        print_comparison(compared, batch_size, picture)
