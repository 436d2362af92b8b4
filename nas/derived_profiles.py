"""Profiles of devices that are not at hand: from kernel-timing tables, or from a sheet alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hw_profiles import registry
from hw_profiles.boards import is_board
from hw_profiles.gpus import known_gpu, read_gpu, words_of
from hw_profiles.profile import FitError
from nas.errors import UsageError
from nas.events import Event, Listener, silent
from nas.files import require_writable
from nas.targets import require_target_name
from predictors.from_tables import (
    profile_from_sheet,
    profile_from_tables,
    profile_of_board,
    read_timed_gpu,
)

#: A shipped GPU whose model of products is the one that all timed GPUs share.
WITHOUT_RELATIVE = "jetson-orin"


def profile_from_figures(
    tables: Sequence[Path], sheet: Path, out: Path, listener: Listener = silent
) -> tuple[Path, list[str]]:
    """Write the profile of a device that is not at hand; where, and what to say of it.

    Args:
        tables: kernel timings of a GPU; without any, it is derived from its sheet and what other
            GPUs' timings have in common.
        sheet: of the GPU, or of a board.
        out: file to write; its stem is the profile's name.

    Raises:
        UsageError: if there are tables of a board or one twice, or the stem of `out` cannot name a
            target.
        ProfileError: if a file is not sound, or its timings are too few.
        ExportError: if `out` cannot be written.
    """
    require_target_name(out.stem)
    require_writable(out, "--out")

    def tell(what: str, error: FitError) -> None:
        covered = "" if error.coverage is None else f", bound holds for {error.coverage:.0%}"
        text = f"{what}: error {error.mape:.1f}% on {error.rows} rows kept out ({error.kept_out})"
        listener(Event("note", text + covered))

    if len({table.resolve() for table in tables}) < len(tables):
        raise UsageError("a table stands twice.", "Give each --from-table once.")
    board = is_board(sheet)
    if board and tables:
        raise UsageError(
            f"{sheet} is a board's sheet; kernel tables are of GPUs.", "Leave out --from-table."
        )
    if board:
        made = profile_of_board(out.stem, sheet)
    elif not tables:
        made = profile_from_sheet(out.stem, sheet, registry.load(WITHOUT_RELATIVE))
    else:
        name = read_gpu(sheet).name
        for table in tables:
            named = known_gpu(words_of(table))
            if named is not None and named.name != name:
                text = f"{table.name} is by its name of {named.name}, not of {name}"
                listener(Event("note", text))
        listener(Event("note", "fitting the tables; tens of thousands of rows take minutes"))
        made = profile_from_tables(out.stem, read_timed_gpu(sheet, tables), tell=tell)
    made.save(out)
    offered = ", ".join(made.precisions)
    return out, [f"{made.device.name}, {made.runtime.name}, {offered}", *made.notes]
