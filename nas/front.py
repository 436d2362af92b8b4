"""What is done with a study's front: its quality on the test part, its files, and their times."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hw_profiles.profile import DeviceProfile
from nas.archive import read_study
from nas.command_line import command
from nas.equipment import Equipment, equip_for
from nas.events import Event, Listener
from nas.one_target import on_target
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies
from nas.study import Study
from nas.target_names import at
from nas.trials import waited, with_test_quality

if TYPE_CHECKING:
    from nas.verification import Measure


def finish_front(
    studies: Studies,
    record: StudyRecord,
    equipment: Equipment,
    profiles: Mapping[str, DeviceProfile],
    out: Path | None,
    listener: Listener,
    timed: Collection[str],
    measure: Measure | None = None,
) -> None:
    """Test quality of every network of the front, and its files for each target if wanted.

    A front without networks is said to be so.

    Args:
        studies: of the database.
        record: the study.
        equipment: of its first target, in whose arithmetic networks are evaluated.
        profiles: of the targets to write files for.
        out: folder for them; None writes none and measures nothing.
        listener: told of the progress.
        timed: targets of these on which networks are timed.
        measure: that times them; this machine does unless given.

    Raises:
        StorageError: if it cannot be kept; a database that only does not answer is waited for.
    """

    def read() -> Study:  # anew each time: with what was found out meanwhile
        return waited(partial(read_study, studies, record), listener)

    def seen_on(label: str) -> Study:
        return on_target(read(), label) if record.targets else read()

    begun = read()
    if not begun.front:
        text = f"no network of {record.name} is on the front yet: there is nothing to test or write"
        go_on = command(["resume", record.name], studies.url)
        listener(Event("note", f"{text}. `{go_on}` goes on with it."))
        return
    if out is None or record.targets:
        _test_front(studies, begun, equipment, listener)
    if out is None:
        return
    for label, profile in profiles.items():
        target, mine, folder = None, equipment, out / record.name / "subnets"
        if record.targets:
            schemes = record.request["targets"][label]["schemes"]
            target, mine, folder = label, equip_for(equipment, profile, schemes), folder / label
        _export(studies, seen_on(label), mine, folder, target, listener)
        if label in timed:
            _verify(studies, seen_on(label), mine, target, listener, measure)


def _test_front(studies: Studies, study: Study, equipment: Equipment, listener: Listener) -> None:
    """Test quality of every network of the front."""
    front = study.front_trials()
    for done, trial in enumerate(front, 1):
        with_test_quality(studies, trial, equipment, listener)
        text = f"{study.metric.title} on the test part"
        listener(Event("test", text, done, len(front)))


def _export(
    studies: Studies,
    study: Study,
    equipment: Equipment,
    folder: Path,
    target: str | None,
    listener: Listener,
) -> None:
    """Write the front's networks, with their test quality where it is not known yet."""
    from nas.export.front import FrontExporter

    def complete(trial: TrialRecord) -> TrialRecord:
        return with_test_quality(studies, trial, equipment, listener)

    front = study.front_trials()
    exporter = FrontExporter(study, equipment, folder)
    for done, artefact in enumerate(exporter.write(front, complete), 1):
        kept = replace(artefact, kind=at(artefact.kind, target))
        waited(partial(studies.add_artefact, kept), listener)
        listener(Event("export", f"subnet {done} of {len(front)}", done, len(front)))
    if left := exporter.left(front):
        text = f"{folder} also holds {len(left)} that left the front: {', '.join(left)}"
        listener(Event("note", f"{text}. Delete them if you do not need them."))


def _verify(
    studies: Studies,
    study: Study,
    equipment: Equipment,
    target: str | None,
    listener: Listener,
    measure: Measure | None,
) -> None:
    from nas.verification import verify_front

    for record in verify_front(study, equipment, listener, measure):
        kept = replace(record, quantity=at(record.quantity, target))
        waited(partial(studies.add_measurement, kept), listener)
