"""The `nas` command: parses, calls `nas`, prints. Results on stdout, progress on stderr."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nas.events import Event
    from nas.report.columns import Table
    from nas.stop import Flat
    from nas.study import Study

app = typer.Typer(
    name="nas",
    help="Hardware-aware neural architecture search: a space, a device and a budget in, "
    "a verified Pareto front of quantized subnetworks out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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
Target = Annotated[
    str, typer.Option("--target", help="Device name, `cpu`, or a profile file; see `nas targets`.")
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

DEFAULT_STORAGE = "sqlite:///nas.db"
DEFAULT_OUT = Path("nas-out")


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
    seed: Annotated[int, typer.Option(help="Of search and training.")] = 0,
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
        schemes=tuple(s.strip() for s in schemes.split(",")) if schemes else None,
        recipe=recipe,
        init=init,
        first_look=first_look,
    )
    options = RunOptions(
        storage=storage,
        study=study,
        out=out,
        train_time_s=_seconds(train_time),
        retrain=retrain,
        export=not no_export,
        executor=executor,
        workers=workers,
        time_s=_seconds(search_time),
        flat=_flat(stop_when_flat),
    )
    with _progress() as listener:
        found = service.search(request, options, listener)
    _print_study(found, out, storage, as_json)


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
        time_s=_seconds(search_time),
        flat=_flat(stop_when_flat),
    )
    with _progress() as listener:
        found = service.resume(study, trials, options, listener)
    _print_study(found, out, storage, as_json)


studies_app = typer.Typer(help="List the studies of a database, or look into one.")
app.add_typer(studies_app, name="studies")


@studies_app.callback(invoke_without_command=True)
def studies(
    context: typer.Context, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False
) -> None:
    """List the studies of a database, or look into one."""
    from nas import archive

    if context.invoked_subcommand is not None:
        return
    rows = archive.list_studies(storage)
    if as_json:
        _print_json(rows)
        return
    _print_rows(rows, "no studies yet: start one with `nas search`")


@studies_app.command()
def show(
    study: StudyName,
    trial: Annotated[int | None, typer.Argument(help="Number of one trial.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only failed evaluations, with the reason.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Print the trials of a study, or one with why it was chosen."""
    from nas import archive

    plain, rows, lines = archive.show(study, trial, failed, storage)
    if as_json:
        _print_json(plain if trial is None else plain[0])
    elif trial is None:
        _print_rows(rows, "no failed trials" if failed else "no trials yet")
    else:
        typer.echo("\n".join(lines))


@studies_app.command("import")
def import_(
    study: StudyName,
    source: Annotated[str, typer.Argument(help="A CSV file, or another study.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Tell a study of trials whose quality is known from a file or another study."""
    from nas import exchange

    typer.echo("\n".join(exchange.import_trials(study, source, storage)))


@studies_app.command()
def publish(
    study: StudyName,
    optuna: Annotated[str, typer.Option("--optuna", help="SQLAlchemy URL of the storage.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Copy a study into an Optuna storage, for optuna-dashboard."""
    from nas import exchange

    typer.echo("\n".join(exchange.publish(study, optuna, storage)))


@studies_app.command()
def watch(study: StudyName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Show a study that runs in another process, until it is done."""
    from nas import watching

    with _progress() as listener:
        lines = watching.watch(study, storage, listener)
    typer.echo("\n".join(lines))


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

    if csv and as_json:
        raise UsageError("--csv and --json are two outputs.", "Give one of them.")
    found = archive.open_study(study, storage, target)
    if out is not None:
        archive.draw(found, out)
    if csv:
        sys.stdout.write(table_csv(found))
    else:
        _print_study(found, out, storage, as_json)


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
    if as_json:
        _print_json(found.to_dict())
        return
    for row in found.front:
        for folder in row.folders:
            typer.echo(folder)


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
    _print_study(found, out, storage, as_json)


@app.command()
def spaces(
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
        rows = inquiry.list_spaces()
        _print_json(rows) if as_json else _print_rows(rows, "no spaces")
        return
    shown = inquiry.describe_space(name, preset, target, batch_size)
    if as_json:
        _print_json(shown)
        return
    typer.echo(f"{name} ({shown['preset']}): {shown['title']}")
    typer.echo(f"{shown['architectures']:,} distinct architectures\n")
    _print_rows(shown["choices"], "no choices")
    typer.echo("")
    _print_rows(shown["extremes"], "")


targets = typer.Typer(help="Devices and runtimes: list, show, add, compare.")
app.add_typer(targets, name="targets", invoke_without_command=True)
TargetName = Annotated[str, typer.Argument(help="Name of a target, or a profile file.")]


@targets.callback()
def list_targets(context: typer.Context, as_json: AsJson = False) -> None:
    """List the targets; `show`, `add` and `compare` say more."""
    from nas import inquiry

    if context.invoked_subcommand is None:
        rows = inquiry.list_targets()
        _print_json(rows) if as_json else _print_rows(rows, "no targets")


@targets.command("show")
def show_target(
    target: TargetName,
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
    if as_json:
        _print_json(shown)
        return
    for key, value in shown.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            typer.echo(f"\n{key}:")
            _print_rows(value, "")
        else:
            typer.echo(f"{key}: {', '.join(value) if isinstance(value, list) else value}")


@targets.command("add")
def add_target(
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


@targets.command("compare")
def compare_targets(
    first: TargetName,
    second: TargetName,
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
        _print_json({"spaces": compared.rows(), "left_out": compared.left_out, "picture": picture})
        return
    typer.echo(f"latency on {second} relative to {first}, unquantized, batch {batch_size}:")
    _print_rows(compared.rows(), "")
    for line in compared.left_out:
        typer.echo(f"left out: {line}")
    if picture is not None:
        typer.echo(f"drawn in {picture}")


FromTable = Annotated[
    list[Path] | None,
    typer.Option(
        "--from-table",
        help="Repeatable. Do not measure: fit kernel timings of a GPU, a CSV with the columns "
        "gemm_dtype,m,n,k,latency (ms), or attn_dtype,batch_size,isl,num_heads,head_dim,latency.",
    ),
]
Sheet = Annotated[
    Path | None,
    typer.Option(
        "--spec",
        help="Sheet of that GPU: YAML with mem_bw, bfloat16_tc_flops, power, sm_version under "
        "gpu:. Alone: derive the profile from it, or from a board's sheet.",
    ),
]


@app.command()
def profile(
    device: Annotated[str, typer.Option(help="What to measure: cpu, cuda or cuda:1.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; default is target `cpu` itself.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="cpu: onnxruntime (default), eager, openvino; cuda: cudagraph (default), eager, "
            "compile."
        ),
    ] = None,
    native: Annotated[
        str | None,
        typer.Option(help="Float type; cpu: fp32; cuda: bf16 (default), fp16 or fp32."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Of the runtime, on a CPU.")] = 1,
    flush_l2: Annotated[
        bool, typer.Option("--flush-l2", help="Overwrite a GPU's cache before every call.")
    ] = False,
    batch_size: BatchSize = 1,
    space: Annotated[
        list[str] | None, typer.Option("--space", help="Repeatable; default all spaces.")
    ] = None,
    time_limit: Annotated[
        str, typer.Option("--time", help="For the measurements, such as 90s.")
    ] = "110s",
    tables: FromTable = None,
    sheet: Sheet = None,
) -> None:
    """Measure this machine in the runtime that will serve, or fit tables of another device."""
    from hw_profiles.harness import require_harness
    from nas import service

    if tables or sheet:
        _profile_from_figures(tables or [], sheet, out)
        return
    harness = require_harness(device, runtime, native, threads, flush_l2)
    with _progress() as listener:
        path, lines = service.profile(
            harness,
            out,
            batch_size,
            space,
            _seconds(time_limit) or 110.0,
            listener,
        )
    for line in lines:
        typer.echo(line)
    target = "cpu" if out is None and harness.runtime == "onnxruntime" else path
    typer.echo(f"written to {path}; use it with --target {target}")


def _profile_from_figures(tables: list[Path], sheet: Path | None, out: Path | None) -> None:
    from nas.derived_profiles import profile_from_figures
    from nas.errors import UsageError

    if sheet is None:
        raise UsageError("a table does not say what its GPU is.", "Give its sheet with --spec.")
    if out is None:
        raise UsageError("the profile needs a file.", "Give one with --out, such as mygpu.json.")
    with _progress() as listener:
        path, lines = profile_from_figures(tables, sheet, out, listener)
    for line in lines:
        typer.echo(line)
    typer.echo(
        f"written to {path}; use it with --target {path}, or keep it: nas targets add {path}"
    )


@app.command()
def predict(
    space: Space = "vit",
    target: Target = "cpu",
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
    if as_json:
        _print_json(shown)
        return
    for line in shown["lines"]:
        typer.echo(line)


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
    options = RunOptions(train_time_s=_seconds(train_time), retrain=retrain)
    with _progress() as listener:
        lines = service.train(request, options, listener, epochs=epochs)
    for line in lines:
        typer.echo(line)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Of a recipe.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the ways to train a supernet, or show one with the fields that may be set."""
    from nas import inquiry

    if name is None:
        rows = inquiry.list_recipes()
        _print_json(rows) if as_json else _print_rows(rows, "no recipes")
        return
    shown = inquiry.describe_recipe(name)
    if as_json:
        _print_json(shown)
        return
    typer.echo(f"{name}: {shown['what']}\n")
    _print_rows(shown["fields"], "no fields")
    typer.echo(f"\nset fields as in --recipe {shown['example']}")


@app.command()
def datasets() -> None:
    """List the data sets that need no path."""
    from nas import inquiry

    _print_rows(inquiry.list_data(), "no data sets")


@app.command()
def samplers() -> None:
    """List the ways to choose the next candidate."""
    from nas import inquiry

    _print_rows(inquiry.list_samplers(), "no samplers")


@app.command()
def doctor(storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """Print what matters for a bug report."""
    from nas import inquiry

    shown = inquiry.doctor(storage)
    if as_json:
        _print_json(shown)
        return
    width = max(map(len, shown))
    for key, value in shown.items():
        typer.echo(f"{key:<{width}}  {value}")


# --- printing -----------------------------------------------------------------------------------


def _seconds(text: str | None) -> float | None:
    """`90s`, `2m` or `1h` in seconds."""
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


def _flat(text: str | None) -> Flat | None:
    from nas.stop import parse_flat

    return None if text is None else parse_flat(text)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def _print_rows(rows: list[dict[str, Any]], empty: str) -> None:
    from nas.report.columns import Column, Table

    if not rows:
        typer.echo(empty)
        return
    names = dict.fromkeys(name for row in rows for name in row)
    texts = [{k: "-" if v is None else str(v) for k, v in row.items()} for row in rows]
    _print_table(Table([Column(name, [text.get(name, "") for text in texts]) for name in names]))


def _print_table(table: Table) -> None:
    """To a terminal's width; a pipe gets lines wide enough for a table."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 160
    head, body = table.lines(width)
    for line in head:
        typer.secho(line, bold=True)
    sys.stdout.writelines(f"{line}\n" for line in body)


def _print_study(study: Study, out: Path | None, storage: str, as_json: bool) -> None:
    from nas import archive
    from nas.report.table import front_table

    if as_json:
        _print_json(study.to_dict())
        return
    _print_table(front_table(study, archive.describer(study)))
    for line in archive.summary(study, None if out is None else out, storage):
        typer.echo(line)


@contextmanager
def _progress() -> Iterator[Any]:
    """Progress on stderr: bars on a terminal, plain lines elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class _Bars(Progress):
        """Bars, and the further lines of the last event under them."""

        detail: tuple[str, ...] = ()

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            yield from (Text(f"  {line}", style="dim") for line in self.detail)

    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _PlainLines()
        return
    columns = (
        TextColumn("{task.fields[stage]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with _Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def listen(event: Event) -> None:
            if event.total is None:
                _remember(event)
                bars.console.print(event.text, soft_wrap=True)
                return
            if event.stage not in tasks:
                tasks[event.stage] = bars.add_task("", total=event.total, stage=event.stage)
            bars.update(
                tasks[event.stage],
                completed=event.done,
                total=event.total,
                description=event.text,
                visible=(event.done or 0) < event.total,
            )
            bars.detail = event.detail

        yield listen


class _PlainLines:
    """Progress for logs: every note, and a line at each tenth of a stage or each ten seconds."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[int, float]] = {}

    def __call__(self, event: Event) -> None:
        if event.total is None or event.done is None:
            _remember(event)
            print(event.text, file=sys.stderr, flush=True)
            return
        now, tenth = time.monotonic(), int(10 * event.done / event.total) if event.total else 10
        before, at = self._shown.get(event.stage, (-1, now))
        if tenth != before or now - at >= 10:
            self._shown[event.stage] = (tenth, now)
            share = 100 * event.done / max(event.total, 1e-9)
            print(f"{event.stage} {share:.0f}% {event.text}", file=sys.stderr, flush=True)


_running: list[str] = []


def _remember(event: Event) -> None:
    """Keep the command that resumes the running study, for an interruption."""
    if event.stage == "study":
        _running[:] = [event.text.rpartition("resume with: ")[2]]


class _Interrupted(BaseException):
    """Ctrl-C; not KeyboardInterrupt, which the command parser would turn into its own abort."""


def _interrupt(signum: int, frame: object) -> None:
    raise _Interrupted


def main() -> None:
    """Run the command; errors of the program's own become one line and an exit code."""
    from hw_profiles.errors import NasError

    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except NasError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except _Interrupted:
        print("\ninterrupted; every finished evaluation is kept.", file=sys.stderr)
        if _running:
            print(f"resume with: {_running[0]}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(130)  # worker threads of the numeric libraries must not hold the exit up
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
