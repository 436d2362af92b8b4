"""`nas studies`: those of a database, the trials of one, and what goes in and out of it."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.commands.options import AsJson, Storage, StudyName, kept, require_options_after_verb
from nas.paths import DEFAULT_STORAGE
from nas.report.terminal import print_json, print_lines, print_rows, print_studies

studies = typer.Typer(help="List the studies of a database, or look into one.")


@studies.callback(invoke_without_command=True)
def studies_alone(
    context: typer.Context, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False
) -> None:
    """List the studies of a database, or look into one."""
    require_options_after_verb(context)
    if context.invoked_subcommand is None:
        list_studies(storage, as_json)


@studies.command("list")
def list_studies(storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """List the studies, as `nas studies` alone does."""
    from nas import archive

    rows = archive.list_studies(storage)
    print_json(rows) if as_json else print_studies(rows)


@studies.command()
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
        print_json(plain if trial is None else plain[0])
    elif trial is None:
        print_rows(rows, "no failed trials" if failed else "no trials yet")
    else:
        print_lines(lines)


@studies.command("import")
def import_(
    study: StudyName,
    source: Annotated[str, typer.Argument(help="A CSV file, or another study.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Tell a study of trials whose quality is known from a file or another study."""
    from nas import exchange

    print_lines(exchange.import_trials(study, source, storage))


@studies.command()
def publish(
    study: StudyName,
    optuna: Annotated[str, typer.Option("--optuna", help="SQLAlchemy URL of the storage.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Copy a study into an Optuna storage, for optuna-dashboard."""
    from nas import exchange

    print_lines(exchange.publish(study, optuna, storage))


@studies.command()
def delete(
    study: StudyName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Delete a study with its trials; exported networks stay."""
    from nas import archive
    from nas.errors import UsageError

    def agreed(trials: int) -> bool:
        try:
            return yes or typer.confirm(f"Delete {study} with its {trials} trials?", err=True)
        except typer.Abort:  # nobody can answer
            raise UsageError("nothing was deleted.", "Add --yes to delete it unasked.") from None

    print_lines(archive.delete_study(study, storage, agreed))


@studies.command()
def watch(study: StudyName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Show a study that runs in another process, until it is done."""
    from nas import watching
    from nas.report.progress import progress

    kept[:] = ["the search goes on."]
    with progress() as listener:
        lines = watching.watch(study, storage, listener)
    print_lines(lines)
