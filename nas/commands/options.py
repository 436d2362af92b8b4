"""The options that several commands share, and how times and rules are read from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nas.stop import Flat

kept: list[str] = []
"""What an interruption now would leave, and how to go on: lines for the user."""

Storage = Annotated[
    str,
    typer.Option("--storage", envvar="NAS_STORAGE", help="Any SQLAlchemy URL.", show_envvar=True),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for pictures and exported subnets.")]
Space = Annotated[str, typer.Option("--space", help="Search space; see `nas spaces`.")]
Preset = Annotated[str | None, typer.Option("--preset", help="Sizes of the space.")]
Data = Annotated[
    str | None, typer.Option("--data", help="Name of a data set (see `nas datasets`), or a path.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Examples a forward pass.")]
TrainTime = Annotated[
    str | None, typer.Option("--train-time", help="Limit of a training, such as 2m or 90s.")
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME[:FIELD=VALUE,...]",
        help="Of the supernet's training, such as sandwich:batch_size=256,learning_rate=1e-3; see "
        "`nas recipes`, and `nas recipes NAME` for the fields of one.",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init", help="Weights to start from: hf:FOLDER_OR_NAME, timm:NAME, ofa:FILE, ..."
    ),
]
Executor = Annotated[
    str, typer.Option("--executor", help="Where candidates are evaluated: local or ray.")
]
Workers = Annotated[
    int, typer.Option("--workers", help="Candidates side by side, each worker with a supernet.")
]
SearchTime = Annotated[
    str | None, typer.Option("--time", help="Ask for no trial after so long, such as 10m.")
]
WhenFlat = Annotated[
    str | None,
    typer.Option(
        "--stop-when-flat",
        metavar="N[:P%]",
        help="End when N trials together raised the hypervolume by no more than P% (0.1).",
    ),
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name; see `nas studies`.")]


def typed(context: typer.Context) -> dict[str, str]:
    """The parameters that stand on the command line, by how they are typed."""
    sources = {p: context.get_parameter_source(p.name or "") for p in context.command.params}
    return {
        p.name or "": p.opts[0]
        for p, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    }


def refuse_without_name(context: typer.Context, what: str, *fitting: str) -> None:
    """Refuse options of one thing where all of its kind are listed.

    Args:
        context: of the command.
        what: it is that is not named, such as `a space`.
        fitting: names of parameters that a list has too.

    Raises:
        UsageError: if another option was typed.
    """
    from nas.errors import UsageError

    for name, option in typed(context).items():
        if name not in fitting:
            raise UsageError(
                f"{option} needs the name of {what}.",
                f"Type `{context.command_path} NAME {option} ...`; without them for the list.",
            )


def require_options_after_verb(context: typer.Context) -> None:
    """Refuse options between a group and its verb, which the verb would not see.

    Raises:
        UsageError: if one was typed there and a verb follows.
    """
    from nas.errors import UsageError

    verb, options = context.invoked_subcommand, [*typed(context).values()]
    if verb and options:
        raise UsageError(
            f"{options[0]} goes after the verb.",
            f"Type it as in `{context.command_path} {verb} ... {options[0]}`.",
        )


def seconds(text: str | None) -> float | None:
    """What `90s`, `2m` or `1h` are in seconds; None where nothing was typed.

    Raises:
        UsageError: if it does not parse.

    >>> seconds("2m"), seconds("1.5h"), seconds(None)
    (120.0, 5400.0, None)
    """
    from nas.errors import UsageError

    if text is None:
        return None
    factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:].lower())
    try:
        value = float(text[:-1]) * (factor or 0.0)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e7:
        raise UsageError(f"cannot read the time {text!r}.", "Write for instance 90s, 2m or 1h.")
    return value


def flat(text: str | None) -> Flat | None:
    """The rule of `--stop-when-flat`; None where nothing was typed.

    Raises:
        UsageError: if it does not parse.
    """
    from nas.stop import parse_flat

    return None if text is None else parse_flat(text)
