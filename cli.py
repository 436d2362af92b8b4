"""The `nas` command: its verbs, each of which parses, calls `nas`, prints.

Results go to stdout, progress to stderr. What needs more than a moment to import is imported by
the verb that needs it.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.commands.options import (
    AsJson,
    BatchSize,
    Data,
    Executor,
    Init,
    Out,
    Preset,
    Recipe,
    SearchTime,
    Space,
    Storage,
    StudyName,
    TrainTime,
    WhenFlat,
    Workers,
    flat,
    kept,
    refuse_without_name,
    seconds,
)
from nas.commands.profile import profile
from nas.commands.studies import studies
from nas.commands.targets import targets
from nas.paths import DEFAULT_OUT, DEFAULT_STORAGE
from nas.report.terminal import (
    print_facts,
    print_json,
    print_lines,
    print_recipe,
    print_rows,
    print_space,
    print_study,
)

if TYPE_CHECKING:
    from nas.events import Event, Listener

app = typer.Typer(
    name="nas",
    help="Hardware-aware neural architecture search: a space, a device and a budget in, "
    "a verified Pareto front of quantized subnetworks out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(studies, name="studies")
app.add_typer(targets, name="targets")


@app.command()
def search(
    space: Space = "vit",
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="Device name, `cpu`, or a profile file; see `nas targets`. Repeatable: a network "
            "must run on each, and is evaluated in the arithmetic of the first. Default cpu.",
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            help="Limit, repeatable: 5ms, energy<=20mJ, latency<=0.5*max; a100:5ms on one of "
            "several targets.",
        ),
    ] = None,
    preset: Preset = None,
    data: Data = None,
    trials: Annotated[int, typer.Option(help="Real evaluations in all.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    sampler: Annotated[str, typer.Option(help="How the next candidate is chosen.")] = "guided",
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            help="Repeatable; default quality and latency. Of several targets latency is that on "
            "each, latency@a100 on one.",
        ),
    ] = None,
    schemes: Annotated[
        str | None, typer.Option(help="Only these schemes, comma-separated.")
    ] = None,
    batch_size: BatchSize = 1,
    first_look: Annotated[
        float | None,
        typer.Option(
            "--first-look",
            metavar="SHARE",
            help="Evaluate on this share of the validation data first, such as 0.25, and on the "
            "rest only what may still be on the front.",
        ),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Out = DEFAULT_OUT,
    recipe: Recipe = None,
    init: Init = None,
    supernet_seed: Annotated[
        int, typer.Option("--supernet-seed", help="Of its training, as in `nas train --seed`.")
    ] = 0,
    train_time: TrainTime = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train the supernet anew.")] = False,
    no_export: Annotated[
        bool, typer.Option("--no-export", help="Only search: write no subnets, verify nothing.")
    ] = False,
    workers: Workers = 1,
    executor: Executor = "local",
    search_time: SearchTime = None,
    stop_when_flat: WhenFlat = None,
    as_json: AsJson = False,
) -> None:
    """Search a space for a device under budgets, and export the Pareto front."""
    from nas import service
    from nas.request import RunOptions, SearchRequest

    request = SearchRequest(
        space=space,
        target=tuple(target or ["cpu"]),
        budgets=tuple(budget or ()),
        preset=preset,
        data=data,
        objectives=tuple(objective or ()),
        trials=trials,
        seed=seed,
        sampler=sampler,
        batch_size=batch_size,
        schemes=None if schemes is None else tuple(s.strip() for s in schemes.split(",")),
        supernet_seed=supernet_seed,
        recipe=recipe,
        init=init,
        first_look=first_look,
    )
    options = RunOptions(
        storage=storage,
        study=study,
        out=out,
        train_time_s=seconds(train_time),
        retrain=retrain,
        export=not no_export,
        executor=executor,
        workers=workers,
        time_s=seconds(search_time),
        flat=flat(stop_when_flat),
    )
    with _progress() as listener:
        found = service.search(request, options, listener)
    print_study(found, options, drawn=True, as_json=as_json)


@app.command()
def resume(
    study: StudyName,
    trials: Annotated[
        int | None, typer.Option(help="Real evaluations in all; default as before.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Out = DEFAULT_OUT,
    no_export: Annotated[bool, typer.Option("--no-export", help="Only search.")] = False,
    workers: Workers = 1,
    executor: Executor = "local",
    search_time: SearchTime = None,
    stop_when_flat: WhenFlat = None,
    as_json: AsJson = False,
) -> None:
    """Continue a study where it stood."""
    from nas import service
    from nas.request import RunOptions

    options = RunOptions(
        storage=storage,
        study=study,
        out=out,
        export=not no_export,
        executor=executor,
        workers=workers,
        time_s=seconds(search_time),
        flat=flat(stop_when_flat),
    )
    with _progress() as listener:
        found = service.resume(study, trials, options, listener)
    print_study(found, options, drawn=True, as_json=as_json)


@app.command()
def pareto(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV and nothing else.")] = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Of a study on several targets: the front of this one alone."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Draw front.png and front.html there too.")
    ] = None,
) -> None:
    """Print the Pareto front of a study."""
    from nas import archive
    from nas.errors import UsageError
    from nas.report.table import table_csv
    from nas.request import RunOptions

    if csv and as_json:
        raise UsageError("--csv and --json are two outputs.", "Give one of them.")
    found = archive.open_study(study, storage, target)
    if out is not None:
        archive.draw(found, out)
    if csv:
        sys.stdout.write(table_csv(found))
    else:
        options = RunOptions(storage=storage, out=out or DEFAULT_OUT)
        print_study(found, options, drawn=out is not None, as_json=as_json)


@app.command()
def export(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    out: Out = DEFAULT_OUT,
    as_json: AsJson = False,
) -> None:
    """Write each network of the front: config.json, model.safetensors, model.onnx."""
    from nas import service
    from nas.request import RunOptions

    with _progress() as listener:
        found = service.export(study, RunOptions(storage=storage, out=out), listener)
    folders = (folder for row in found.front for folder in row.folders)
    print_json(found.to_dict()) if as_json else print_lines(folders)


@app.command()
def verify(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    out: Out = DEFAULT_OUT,
    measure_on: Annotated[
        str | None,
        typer.Option(
            "--measure-on",
            metavar="LABEL",
            help="Time on the node of the Ray cluster that offers this resource.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Quantize the front for real, time it on the device, and set it beside the prediction."""
    from nas import service
    from nas.request import RunOptions

    options = RunOptions(storage=storage, out=out, measure_on=measure_on)
    with _progress() as listener:
        found = service.verify(study, options, listener)
    print_study(found, options, drawn=True, as_json=as_json)


@app.command()
def spaces(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Of a space.")] = None,
    preset: Preset = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Show costs on this device too.")
    ] = None,
    batch_size: BatchSize = 1,
    as_json: AsJson = False,
) -> None:
    """List the search spaces, or show one with its choices, size and extremes."""
    from nas import inquiry

    if name is None:
        refuse_without_name(context, "a space", "as_json")
        rows = inquiry.list_spaces()
        print_json(rows) if as_json else print_rows(rows, "no spaces")
        return
    shown = inquiry.describe_space(name, preset, target, batch_size)
    print_json(shown) if as_json else print_space(shown)


app.command()(profile)


@app.command()
def predict(
    space: Space = "vit",
    target: Annotated[
        str,
        typer.Option("--target", help="Device name, `cpu`, or a profile file; see `nas targets`."),
    ] = "cpu",
    preset: Preset = None,
    arch: Annotated[
        str, typer.Option(help="largest, smallest, or choice=value,... such as depth=3,ffn=M.")
    ] = "largest",
    scheme: Annotated[
        str | None, typer.Option(help="Quantization everywhere; default the native precision.")
    ] = None,
    batch_size: BatchSize = 1,
    as_json: AsJson = False,
) -> None:
    """Predict latency, energy, memory, parameters and MACs of one network."""
    from nas import inquiry

    shown = inquiry.predict(space, preset, target, arch, scheme, batch_size)
    print_json(shown) if as_json else print_lines(shown["lines"])


@app.command()
def train(
    space: Space = "vit",
    preset: Preset = None,
    data: Data = None,
    recipe: Recipe = None,
    init: Init = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and subnets.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default the recipe's own number.")
    ] = None,
    train_time: Annotated[
        str | None, typer.Option("--time", help="Limit, such as 10m; default all epochs.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Even if it was trained before.")
    ] = False,
) -> None:
    """Train a supernet and keep it for later searches. Runs under torchrun too."""
    from nas import service
    from nas.request import RunOptions, SearchRequest

    request = SearchRequest(
        space, preset=preset, data=data, supernet_seed=seed, recipe=recipe, init=init
    )
    options = RunOptions(train_time_s=seconds(train_time), retrain=retrain)
    with _progress() as listener:
        lines = service.train(request, options, listener, epochs=epochs)
    print_lines(lines)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Of a recipe.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the ways to train a supernet, or show one with the fields that may be set."""
    from nas import inquiry

    if name is None:
        rows = inquiry.list_recipes()
        print_json(rows) if as_json else print_rows(rows, "no recipes")
        return
    shown = inquiry.describe_recipe(name)
    print_json(shown) if as_json else print_recipe(shown)


@app.command()
def datasets(as_json: AsJson = False) -> None:
    """List the data sets that need no path."""
    from nas import inquiry

    rows = inquiry.list_data()
    print_json(rows) if as_json else print_rows(rows, "no data sets")


@app.command()
def samplers(as_json: AsJson = False) -> None:
    """List the ways to choose the next candidate."""
    from nas import inquiry

    rows = inquiry.list_samplers()
    print_json(rows) if as_json else print_rows(rows, "no samplers")


@app.command()
def doctor(storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """Print what matters for a bug report."""
    from nas import inquiry

    shown = inquiry.doctor(storage)
    print_json(shown) if as_json else print_facts(shown)


# --- running ------------------------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[Listener]:
    """Progress on stderr; what an interruption would leave is noted."""
    from nas.report.progress import progress

    kept[:] = ["what was finished is kept."]
    with progress() as show:

        def listen(event: Event) -> None:
            if event.stage == "train":
                kept[:] = ["every finished epoch is kept: the same command goes on."]
            if event.stage == "study":
                resume_with = event.text.rpartition("resume with: ")[2]
                kept[:] = ["every finished evaluation is kept.", f"resume with: {resume_with}"]
            show(event)

        yield listen


class _Interrupted(BaseException):
    """A signal; not KeyboardInterrupt, which the command parser would turn into its own abort."""

    def __init__(self, signum: int) -> None:
        self.signal = signal.Signals(signum)


def _interrupt(signum: int, frame: object) -> None:
    for once in (signal.SIGTERM, signal.SIGHUP):  # shells and systemd send more than one
        signal.signal(once, signal.SIG_IGN)
    raise _Interrupted(signum)


def _handle_signals() -> None:
    """End by Ctrl-C, SIGTERM and SIGHUP through every `finally`: nothing is left behind."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        signal.signal(signal.SIGHUP, _interrupt)


def main() -> None:
    """Run the command; errors of the program's own become one line and an exit code."""
    from hw_profiles.errors import NasError

    _handle_signals()
    try:
        os.getcwd()
    except FileNotFoundError:  # numeric libraries abort there
        print("error: the folder that this runs in is gone. Change to another.", file=sys.stderr)
        raise SystemExit(1) from None
    if sys.stdout is None:  # closed by who called
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name need not be of the terminal's alphabet
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except NasError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except _Interrupted as by:
        ended = "interrupted" if by.signal == signal.SIGINT else f"ended by {by.signal.name}"
        with suppress(OSError):  # of a terminal that is gone
            said = [f"{ended}; {kept[0]}", *kept[1:]] if kept else [f"{ended}."]
            print("", *said, sep="\n", file=sys.stderr, flush=True)
        os._exit(128 + by.signal)  # threads of the numeric libraries must not hold the exit up
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
            raise
        print(f"error: the output cannot be written: {error.strerror}.", file=sys.stderr)
        os._exit(1)  # what is buffered would fail again


if __name__ == "__main__":
    main()
