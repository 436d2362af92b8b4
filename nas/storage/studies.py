"""Studies, trials and what belongs to them: every method is one committed transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from nas.errors import NotFoundError, StorageError, StudyExistsError, UsageError, nearest
from nas.storage.claims import once_free
from nas.storage.holding import Holding
from nas.storage.models import NAME_LENGTH, Artefact, DeviceProfile, Measurement, Study, Trial
from nas.storage.records import (
    ArtefactRecord,
    MeasurementRecord,
    ProfileRecord,
    StudyRecord,
    StudySummary,
    TrialRecord,
)
from nas.storage.rows import finite, insert_record, select_records
from nas.target_names import split

LARGEST_NUMBER = 2**31 - 1
"""Of a trial: what the column holds."""
IN_LIST = 10_000
"""Values in one statement: SQLite takes 32,766, PostgreSQL's driver 65,535."""


def require_name(name: str) -> None:
    """Refuse what cannot name a study.

    Raises:
        UsageError: it is blank, too long or has control characters.
    """
    if not name.isprintable() or not name.strip() or len(name) > NAME_LENGTH:
        raise UsageError(
            f"{name[:40]!r} cannot name a study.", f"Use 1 to {NAME_LENGTH} printable characters."
        )


class Studies(Holding):
    """The studies of one database.

    Every method raises `StorageError` where the database fails, and has then written nothing.
    """

    # Studies

    def create_study(
        self, record: StudyRecord, profiles: Iterable[ProfileRecord] = ()
    ) -> StudyRecord:
        """Store a new study with the profiles that it names.

        Args:
            record: the study.
            profiles: one of a fingerprint that is stored is the same and stays as it is.

        Returns:
            The record with its `id`.

        Raises:
            StudyExistsError: there is one of that name.
            StorageError: the profile is not stored.
            UsageError: as `require_name`.
        """
        require_name(record.name)
        with self._database.write() as connection:
            for profile in sorted(profiles, key=lambda profile: profile.fingerprint):
                _keep_profile(connection, profile)
            try:
                with connection.begin_nested():
                    ident = insert_record(connection, Study, record, active_at=record.created_at)
            except IntegrityError as error:
                same = select(Study.id).where(Study.name == record.name)
                if connection.execute(same).scalar() is not None:
                    raise StudyExistsError(
                        f"there is a study {record.name!r} already.",
                        "Resume it, or give this one another name with --study.",
                    ) from error
                raise StorageError(
                    f"study {record.name!r} cannot be created: its profile is not stored.",
                    "Run the same command again.",
                ) from error
        return replace(record, id=ident)

    def find_study(self, name: str) -> StudyRecord:
        """The study of that name.

        Raises:
            NotFoundError: there is none; the nearest names are given.
        """
        with self._database.read() as connection:
            names = connection.execute(select(Study.name)).scalars().all()
            if name in names:  # what is typed may not even be text that a database takes
                return select_records(connection, StudyRecord, Study, Study.name == name)[0]
        raise nearest(name, names, "study")

    def list_studies(self) -> list[StudySummary]:
        """Every study with its counts, the one that was active last first."""
        counts = select(Trial.study_id, func.count()).group_by(Trial.study_id)
        activity = select(Study.id, Study.active_at, Study.holder)
        with self._database.read() as connection:
            trials = dict(connection.execute(counts).tuples().all())
            active = {study: (at, holder) for study, at, holder in connection.execute(activity)}
            studies = select_records(connection, StudyRecord, Study)
        summaries = []
        for study in studies:
            active_at, holder = active[study.id]
            held_by = self._living(study.id, holder, active_at)
            summaries.append(StudySummary(study, trials.get(study.id, 0), active_at, held_by))
        return sorted(summaries, key=lambda summary: summary.active_at, reverse=True)

    def set_request(self, study_id: int, request: dict[str, Any]) -> None:
        """Replace what a study was asked for, as its total of trials grows.

        Raises:
            NotFoundError: there is no such study.
        """
        change = update(Study).where(Study.id == study_id).values(request=request)
        with self._database.write() as connection:
            if connection.execute(change).rowcount != 1:
                raise NotFoundError("the study does not exist any more.", "See `nas studies`.")

    def delete_study(self, study_id: int) -> None:
        """Delete a study with its trials, measurements and the record of its artefacts.

        Device profiles that no study names any more go with it.

        Raises:
            NotFoundError: there is no such study.
            StorageError: another coordinator runs it.
        """
        once_free(self._database, study_id, self._token, lambda: delete(Study), _free_profiles)
        self._held.discard(study_id)

    # Trials

    def add_trial(self, study_id: int, record: TrialRecord) -> TrialRecord:
        """Store a trial; it is committed when this returns.

        The same record stored again, after a connection that broke in a commit, is one trial.

        Returns:
            The record with its `id`.

        Raises:
            NotFoundError: there is no such study.
            StorageError: the study has that number or that key already, another coordinator
                holds it, or a figure is not finite.
        """
        return self.add_trials(study_id, [record])[0]

    def add_trials(self, study_id: int, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """Store several trials in one transaction; see `add_trial`."""
        records = [replace(r, genome=tuple(int(gene) for gene in r.genome)) for r in records]
        try:
            with self._database.write() as connection:
                self._touch(connection, study_id)
                return [_insert_trial(connection, study_id, record) for record in records]
        except _Taken as taken:
            with self._database.read() as connection:
                before = [_committed_before(connection, study_id, record) for record in records]
            if all(before):
                return [
                    replace(record, id=ident or 0)
                    for record, ident in zip(records, before, strict=True)
                ]
            raise StorageError(
                f"the study already has trial {taken.record.number} or its candidate "
                f"({taken.record.key}); neither is overwritten.",
                "Another process wrote to this study: run the same command again.",
            ) from taken.__cause__

    def trials(
        self,
        study_id: int,
        *,
        feasible: bool | None = None,
        state: str | None = None,
        numbers: Sequence[int] | None = None,
        after_id: int | None = None,
    ) -> list[TrialRecord]:
        """The trials of a study in the order of their numbers.

        Args:
            study_id: of the study.
            feasible: only those that are, or are not, feasible.
            state: only those in it.
            numbers: only these, as far as they are there.
            after_id: only those that were stored after the one with this id.
        """
        wanted = [Trial.study_id == study_id]
        if feasible is not None:
            wanted.append(Trial.feasible.is_(feasible))
        if state is not None:
            wanted.append(Trial.state == state)
        if after_id is not None:
            wanted.append(Trial.id > after_id)
        parts = [wanted]
        if numbers is not None:
            asked = sorted(n for n in set(numbers) if 0 <= n <= LARGEST_NUMBER)
            parts = [
                [*wanted, Trial.number.in_(asked[start : start + IN_LIST])]
                for start in range(0, len(asked), IN_LIST)
            ]
        with self._database.read() as connection:
            found = (
                select_records(connection, TrialRecord, Trial, *part, order=Trial.number)
                for part in parts
            )
            return list(chain.from_iterable(found))

    def counts(self, study_id: int) -> dict[str, int]:
        """Number of trials of a study in each state."""
        counted = (
            select(Trial.state, func.count())
            .where(Trial.study_id == study_id)
            .group_by(Trial.state)
        )
        with self._database.read() as connection:
            return {state: int(n) for state, n in connection.execute(counted)}

    def figures(
        self, study_id: int, columns: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Numbers (n,) and columns (n, k) of the feasible complete trials.

        No row is read whole, unless a column is that on one of several targets.
        """
        wanted = select(Trial.number, *map(_figure, columns)).where(
            Trial.study_id == study_id, Trial.state == "complete", Trial.feasible.is_(True)
        )
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
        flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * (1 + len(columns)))
        table = flat.reshape(len(rows), 1 + len(columns))
        return table[:, 0].astype(np.int64), table[:, 1:]

    def predictions(self, study_id: int, quality: str, latest: int) -> NDArray[np.float64]:
        """What a sampler predicted of the trials that it chose, and what was found, (n, 2).

        Args:
            study_id: of the study.
            quality: name of the metric.
            latest: trials at most, the last ones.
        """
        predicted = Trial.origin["predicted"][quality].as_float()
        wanted = select(predicted, Trial.quality).where(
            Trial.study_id == study_id, Trial.quality.is_not(None), predicted.is_not(None)
        )
        with self._database.read() as connection:
            rows = connection.execute(wanted.order_by(Trial.number.desc()).limit(latest)).all()
        table = np.array([tuple(row) for row in rows], dtype=np.float64).reshape(len(rows), 2)
        return table[::-1]

    def saved(self, study_id: int) -> tuple[int, float]:
        """Of the partial trials: validation examples looked at, and seconds saved."""
        summed = select(func.sum(Trial.examples), func.sum(Trial.seconds_saved)).where(
            Trial.study_id == study_id, Trial.state == "partial"
        )
        with self._database.read() as connection:
            examples, seconds = connection.execute(summed).one()
        return int(examples or 0), float(seconds or 0.0)

    def set_quality_test(self, trial_id: int, value: float) -> None:
        """Keep a trial's quality on the test part.

        Raises:
            NotFoundError: there is no such trial.
        """
        change = update(Trial).where(Trial.id == trial_id).values(quality_test=finite(value))
        with self._database.write() as connection:
            if connection.execute(change).rowcount != 1:
                raise NotFoundError(f"there is no trial with id {trial_id}.", "See `nas studies`.")

    # What belongs to a trial

    def add_measurement(self, record: MeasurementRecord) -> MeasurementRecord:
        """Store a measurement; earlier ones of the same trial stay.

        Raises:
            NotFoundError: there is no such trial.
        """
        with self._database.write() as connection:
            ident = _insert_for_trial(connection, Measurement, record)
        return replace(record, id=ident)

    def measurements(self, study_id: int) -> list[MeasurementRecord]:
        """The measurements of a study's trials, in the order they were made."""
        wanted = Measurement.trial_id.in_(select(Trial.id).where(Trial.study_id == study_id))
        with self._database.read() as connection:
            return select_records(connection, MeasurementRecord, Measurement, wanted)

    def add_artefact(self, record: ArtefactRecord) -> ArtefactRecord:
        """Store what was exported; what the same trial had at the same path is replaced.

        Raises:
            NotFoundError: there is no such trial.
        """
        with self._database.write() as connection:
            connection.execute(
                delete(Artefact).where(
                    Artefact.trial_id == record.trial_id, Artefact.path == record.path
                )
            )
            ident = _insert_for_trial(connection, Artefact, record)
        return replace(record, id=ident)

    def artefacts(self, study_id: int) -> list[ArtefactRecord]:
        """What was exported of a study's trials, in the order of export."""
        wanted = Artefact.trial_id.in_(select(Trial.id).where(Trial.study_id == study_id))
        with self._database.read() as connection:
            return select_records(connection, ArtefactRecord, Artefact, wanted)

    # Device profiles

    def load_profile(self, fingerprint: str) -> ProfileRecord:
        """The profile with that fingerprint.

        Raises:
            NotFoundError: it is not stored here.
        """
        with self._database.read() as connection:
            wanted = DeviceProfile.fingerprint == fingerprint
            found = select_records(connection, ProfileRecord, DeviceProfile, wanted)
        if not found:
            raise NotFoundError(
                f"there is no device profile with fingerprint {fingerprint}.",
                "Give the profile's file with --target.",
            )
        return found[0]


def _keep_profile(connection: Connection, record: ProfileRecord) -> None:
    """Store a profile unless it is there; it stays until the transaction ends."""
    same = select(DeviceProfile.id).where(DeviceProfile.fingerprint == record.fingerprint)
    same = same.with_for_update(read=True)  # or it could go with another study meanwhile
    if connection.execute(same).scalar() is not None:
        return
    try:
        with connection.begin_nested():
            insert_record(connection, DeviceProfile, record)
    except IntegrityError:
        # Another process stored it between the two statements: unless it did not.
        if connection.execute(same).scalar() is None:
            raise


def _free_profiles(connection: Connection) -> None:
    """Delete the profiles that no study names."""
    stored = select(DeviceProfile.fingerprint).order_by(DeviceProfile.fingerprint)
    there = connection.execute(stored.with_for_update()).scalars().all()
    named = set()  # looked at once nobody can begin a study on these
    for first, request in connection.execute(select(Study.profile_fingerprint, Study.request)):
        named |= {first, *(of["profile"] for of in request.get("targets", {}).values())}
    unnamed = [fingerprint for fingerprint in there if fingerprint not in named]
    connection.execute(delete(DeviceProfile).where(DeviceProfile.fingerprint.in_(unnamed)))


def _figure(column: str) -> ColumnElement[float]:
    """A column, also `latency_ms@a100`, that on one of several targets."""
    name, target = split(column)
    if target is None:
        plain: ColumnElement[float] = getattr(Trial, name)
        return plain
    on_target: ColumnElement[float] = Trial.target_costs[target][name].as_float()
    return on_target


class _Taken(Exception):  # caught where it can be found out who stored it
    """A number or key that a study has already."""

    def __init__(self, record: TrialRecord) -> None:
        self.record = record


def _insert_trial(connection: Connection, study_id: int, record: TrialRecord) -> TrialRecord:
    try:
        ident = insert_record(connection, Trial, record, study_id=study_id)
    except IntegrityError as error:
        raise _Taken(record) from error
    return replace(record, id=ident)


def _committed_before(connection: Connection, study_id: int, record: TrialRecord) -> int | None:
    """The id of this very record, if it is stored already."""
    same = (
        Trial.study_id == study_id,
        Trial.number == record.number,
        Trial.key == record.key,
        Trial.created_at == record.created_at,
    )
    found: int | None = connection.execute(select(Trial.id).where(*same)).scalar()
    return found


def _insert_for_trial(
    connection: Connection,
    model: type[Measurement] | type[Artefact],
    record: MeasurementRecord | ArtefactRecord,
) -> int:
    try:
        return insert_record(connection, model, record)
    except IntegrityError as error:
        raise NotFoundError(
            f"there is no trial with id {record.trial_id}.", "See `nas studies`."
        ) from error
