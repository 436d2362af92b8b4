"""What goes in comes out, in order, and nothing is overwritten."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from nas.errors import NotFoundError, StorageError, StudyExistsError, UsageError
from nas.storage.database import Database, open_database
from nas.storage.models import DeviceProfile
from nas.storage.records import (
    ArtefactRecord,
    MeasurementRecord,
    ProfileRecord,
    StudyRecord,
    TrialRecord,
)
from nas.storage.studies import Studies
from nas.target_names import TARGET_FIGURES

NewStudy = Callable[..., StudyRecord]
NewTrial = Callable[..., TrialRecord]

ON_ONE_DATABASE = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
BIG = st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=4)

LABELS = st.from_regex(r"[A-Za-z0-9._-]{1,9}", fullmatch=True)
TRIALS = st.builds(
    TrialRecord,
    number=st.just(0),
    key=st.just(""),
    genome=st.lists(st.integers(0, 2**40)).map(tuple),
    architecture=OBJECTS,
    policy=OBJECTS,
    architecture_short=st.none() | TEXT,
    policy_short=st.none() | TEXT,
    state=st.sampled_from(["complete", "partial", "failed"]),
    reason=st.none() | TEXT,
    quality=st.none() | NUMBERS,
    quality_test=st.none() | NUMBERS,
    quality_noise=st.none() | NUMBERS,
    part_noise=st.none() | NUMBERS,
    examples=st.none() | st.integers(0, 2**31 - 1),
    seconds_saved=st.none() | NUMBERS,
    latency_ms=st.none() | NUMBERS,
    latency_ms_upper=st.none() | NUMBERS,
    energy_mj=st.none() | NUMBERS,
    energy_mj_upper=st.none() | NUMBERS,
    memory_bytes=st.none() | BIG,
    params=st.none() | BIG,
    weight_bytes=st.none() | BIG,
    macs=st.none() | BIG,
    target_costs=st.none()
    | st.dictionaries(LABELS, st.dictionaries(st.sampled_from(TARGET_FIGURES), NUMBERS)),
    feasible=st.booleans(),
    origin=OBJECTS,
    seconds=NUMBERS,
    created_at=MOMENTS,
)
STUDIES = st.builds(
    StudyRecord,
    name=st.just(""),
    space=TEXT,
    preset=TEXT,
    target=TEXT,
    runtime=TEXT,
    batch_size=st.integers(1, 2**31 - 1),
    data=TEXT,
    objectives=st.lists(JSON, max_size=3),
    budgets=st.lists(JSON, max_size=3),
    seed=BIG,
    sampler=TEXT,
    request=OBJECTS,
    supernet_fingerprint=TEXT,
    supernet_digest=TEXT,
    version=TEXT,
    profile_fingerprint=st.none(),
    created_at=MOMENTS,
)


@ON_ONE_DATABASE
@given(data=st.data())
def test_study_comes_back_as_it_went_in(studies: Studies, data: st.DataObject) -> None:
    name = f"étude {len(studies.list_studies())}"
    stored = studies.create_study(replace(data.draw(STUDIES), name=name))
    assert studies.find_study(name) == stored


@ON_ONE_DATABASE
@given(drawn=st.lists(TRIALS, min_size=1, max_size=5))
def test_trials_come_back_as_they_went_in(
    studies: Studies, new_study: NewStudy, drawn: list[TrialRecord]
) -> None:
    study = studies.create_study(new_study(f"study {len(studies.list_studies())}"))
    stored = [
        studies.add_trial(study.id, replace(trial, number=number, key=str(number)))
        for number, trial in enumerate(drawn)
    ]
    assert studies.trials(study.id) == stored
    assert [replace(t, id=0, number=0, key="") for t in stored] == drawn


def test_partial_trials_are_counted_summed_and_never_on_a_front(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    study = studies.create_study(new_study())
    assert studies.saved(study.id) == (0, 0.0)
    studies.add_trial(study.id, new_trial(0, examples=100, seconds=4.0))
    for number in (1, 2):
        partial = {"state": "partial", "part_noise": 0.02, "examples": 25, "seconds_saved": 1.5}
        studies.add_trial(study.id, new_trial(number, quality=0.99, **partial))
    assert studies.saved(study.id) == (50, 3.0)
    assert studies.counts(study.id) == {"complete": 1, "partial": 2}
    numbers, values = studies.figures(study.id, ["quality", "latency_ms"])
    assert (numbers.tolist(), values.tolist()) == ([0], [[0.9, 0.25]])
    assert [t.number for t in studies.trials(study.id, state="partial")] == [1, 2]


def test_trials_come_in_order_of_their_numbers(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    first, second = (studies.create_study(new_study(name)) for name in "ab")
    for number in (3, 0, 2, 1):
        studies.add_trial(first.id, new_trial(number, feasible=number % 2 == 0))
        studies.add_trial(second.id, new_trial(number + 10))
    assert [t.number for t in studies.trials(first.id)] == [0, 1, 2, 3]
    assert [t.number for t in studies.trials(first.id, feasible=True)] == [0, 2]
    assert [t.number for t in studies.trials(first.id, feasible=False)] == [1, 3]


def test_any_numbers_of_trials_may_be_asked_for(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    study = studies.create_study(new_study())
    for number in (3, 0, 2, 69_000):
        studies.add_trial(study.id, new_trial(number))
    asked = [*range(70_000, 0, -1), -1, 2**31, 2**70]  # more than fit into a statement
    assert [t.number for t in studies.trials(study.id, numbers=asked)] == [2, 3, 69_000]
    assert studies.trials(study.id, numbers=[]) == []


@pytest.mark.parametrize("clash", [{"number": 0}, {"key": "key-0"}])
def test_duplicate_trial_is_refused(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial, clash: dict[str, Any]
) -> None:
    study = studies.create_study(new_study())
    first = studies.add_trial(study.id, new_trial(0))
    with pytest.raises(StorageError, match="already has trial"):
        studies.add_trial(study.id, replace(new_trial(1, quality=0.1), **clash))
    assert studies.trials(study.id) == [first]
    studies.add_trial(study.id, new_trial(1))  # the refusal left nothing open
    assert len(studies.trials(study.id)) == 2


def test_same_candidate_in_two_studies(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    ids = [studies.create_study(new_study(name)).id for name in "ab"]
    keys = [studies.add_trial(study, new_trial(0)).key for study in ids]
    assert keys[0] == keys[1]


def test_numpy_figures_are_stored_as_numbers(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    study = studies.create_study(new_study())
    trial: Any = new_trial(
        genome=np.array([1, 2]),
        params=np.int64(7),
        quality=np.float32(0.5),
        feasible=np.bool_(True),
        origin={"gain": np.float32(0.25), "index": np.int64(3)},
    )
    studies.add_trial(study.id, trial)
    (back,) = studies.trials(study.id)
    assert back.genome == (1, 2)
    assert (back.params, back.quality, back.feasible) == (7, 0.5, True)
    assert back.origin == {"gain": 0.25, "index": 3}


@pytest.mark.parametrize(
    "broken",
    [
        {"quality": float("nan")},
        {"latency_ms": float("inf")},
        {"origin": {"gain": float("nan")}},
        {"policy": {"layer": object()}},
        {"params": 2**63},
        {"state": "running"},
    ],
)
def test_what_cannot_be_stored_is_refused(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial, broken: dict[str, Any]
) -> None:
    study = studies.create_study(new_study())
    with pytest.raises(StorageError):
        studies.add_trial(study.id, new_trial(**broken))
    assert studies.trials(study.id) == []


def test_unknown_study_gives_the_nearest_names(studies: Studies, new_study: NewStudy) -> None:
    studies.create_study(new_study("vit-a100-5ms"))
    with pytest.raises(NotFoundError, match="Did you mean 'vit-a100-5ms'"):
        studies.find_study("vit-a100-6ms")
    with pytest.raises(NotFoundError, match="study"):
        studies.find_study("na\udcefve")  # not UTF-8, as a shell passes it


def test_second_study_of_a_name_is_refused(studies: Studies, new_study: NewStudy) -> None:
    first = studies.create_study(new_study(seed=1))
    with pytest.raises(StudyExistsError, match="there is a study 'vit-a100-5ms' already"):
        studies.create_study(new_study(seed=2))
    assert studies.find_study(first.name).seed == 1


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x00b", "a\nb"])
def test_impossible_names_are_refused(studies: Studies, new_study: NewStudy, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a study"):
        studies.create_study(new_study(name))


def test_list_counts_and_sorts_by_activity(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    old = datetime.now(UTC) - timedelta(days=1)
    first = studies.create_study(new_study("first", created_at=old))
    second = studies.create_study(new_study("second", created_at=old + timedelta(hours=1)))
    assert [s.study for s in studies.list_studies()] == [second, first]
    for number in range(3):
        studies.add_trial(first.id, new_trial(number))
    newest, other = studies.list_studies()
    assert (newest.study, newest.trials) == (first, 3)
    assert (other.study, other.trials) == (second, 0)
    assert newest.active_at > other.active_at


def test_profiles_are_stored_once(studies: Studies, new_study: NewStudy) -> None:
    profile = ProfileRecord("a100", "abc", {"peaks": {"bf16": 312e12}, "source": "Maße ∑"})
    with pytest.raises(StorageError, match="profile is not stored"):
        studies.create_study(new_study(profile_fingerprint="abc"))
    study = studies.create_study(new_study(profile_fingerprint="abc"), [profile])
    studies.create_study(new_study("other"), [replace(profile, name="again")])
    assert replace(studies.load_profile("abc"), id=0) == profile
    assert studies.find_study(study.name).profile_fingerprint == "abc"
    with pytest.raises(NotFoundError, match="abd"):
        studies.load_profile("abd")


def test_profiles_go_with_the_last_study_that_names_them(
    studies: Studies, new_study: NewStudy
) -> None:
    profiles = [ProfileRecord(name, name, {"name": name}) for name in ("a100", "pi", "cpu")]
    targets = {label: {"profile": label} for label in ("a100", "pi")}
    request = {"trials": 9, "targets": targets}
    both = studies.create_study(
        new_study("both", request=request, profile_fingerprint="a100"), profiles[:2]
    )
    one = studies.create_study(new_study("one", profile_fingerprint="cpu"), profiles[2:])
    again = studies.create_study(new_study("again", profile_fingerprint="a100"), profiles[:1])

    def there() -> set[str]:
        found = set()
        for name in ("a100", "pi", "cpu"):
            with suppress(NotFoundError):
                found.add(studies.load_profile(name).name)
        return found

    studies.delete_study(one.id)
    assert there() == {"a100", "pi"}
    studies.delete_study(again.id)
    assert there() == {"a100", "pi"}
    studies.delete_study(both.id)
    assert there() == set()


def test_a_study_begun_while_another_is_deleted_keeps_its_profiles(
    database: Database, storage_url: str, new_study: NewStudy
) -> None:
    profiles = [ProfileRecord(name, name, {}) for name in ("a100", "pi")]
    request = {"targets": {name: {"profile": name} for name in ("a100", "pi")}}

    def begin_and_delete(worker: int) -> None:
        with open_database(storage_url) as opened:
            studies = Studies(opened)
            for turn in range(12):
                name = f"{worker}-{turn}"
                record = new_study(name, request=request, profile_fingerprint="a100")
                made = studies.create_study(record, profiles[:: 1 if worker else -1])
                assert {studies.load_profile(p.name).name for p in profiles} == {"a100", "pi"}
                studies.delete_study(made.id)

    with ThreadPoolExecutor() as workers:
        list(workers.map(begin_and_delete, range(3)))
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(DeviceProfile)).scalar() == 0


def test_what_belongs_to_a_trial(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    study, other = (studies.create_study(new_study(name)) for name in "ab")
    trial = studies.add_trial(study.id, new_trial(0))
    measured = MeasurementRecord(
        trial.id, "latency_ms", 0.31, 0.01, None, 50, 3, "this CPU", "onnxruntime", "int8", 1, 1
    )
    again = replace(measured, value=0.32, agreement=0.998, threads=None)
    exported = ArtefactRecord(trial.id, "subnet", "out/0", "a" * 64, 2**40)
    kept = [studies.add_measurement(record) for record in (measured, again)]
    studies.add_artefact(exported)
    artefact = studies.add_artefact(replace(exported, sha256="b" * 64))
    studies.set_quality_test(trial.id, 0.875)
    assert studies.measurements(study.id) == kept
    assert studies.artefacts(study.id) == [artefact]
    assert studies.trials(study.id) == [replace(trial, quality_test=0.875)]
    assert studies.measurements(other.id) == studies.artefacts(other.id) == []
    studies.delete_study(study.id)
    assert studies.trials(study.id) == []
    assert studies.measurements(study.id) == []
    assert studies.artefacts(study.id) == []
    assert [s.study.name for s in studies.list_studies()] == ["b"]


def test_records_of_what_is_not_there(studies: Studies, new_trial: NewTrial) -> None:
    measured = MeasurementRecord(9, "latency_ms", 1.0, 0.0, 0.0, 1, 1, "d", "r", "fp32", 1, 1)
    for attempt in (
        lambda: studies.add_trial(9, new_trial()),
        lambda: studies.set_quality_test(9, 0.5),
        lambda: studies.add_measurement(measured),
        lambda: studies.add_artefact(ArtefactRecord(9, "subnet", "out", "a" * 64, 1)),
        lambda: studies.delete_study(9),
        lambda: studies.claim(9),
    ):
        with pytest.raises(NotFoundError):
            attempt()


def test_a_study_s_request_can_be_replaced(studies: Studies, new_study: NewStudy) -> None:
    study = studies.create_study(new_study("study"))
    studies.set_request(study.id, {"trials": 9})
    assert studies.find_study("study").request == {"trials": 9}
    with pytest.raises(NotFoundError):
        studies.set_request(study.id + 1, {})


def test_a_record_stored_again_is_one_trial(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    """A connection may break after a commit and before its answer."""
    study = studies.create_study(new_study())
    first, second = new_trial(0), new_trial(1)
    stored = studies.add_trials(study.id, [first, second])
    assert studies.add_trial(study.id, first) == stored[0]
    assert studies.add_trials(study.id, [first, second]) == stored
    with pytest.raises(StorageError, match="already has trial 0"):
        studies.add_trials(study.id, [new_trial(2), first])  # the other was never stored
    assert studies.trials(study.id) == stored


def test_figures_and_predictions_are_read_without_the_rows(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    study, other = (studies.create_study(new_study(name)) for name in "ab")
    predicted = {"kind": "exploit", "predicted": {"accuracy": 0.75}}
    studies.add_trial(other.id, new_trial(9, origin=predicted))
    assert studies.counts(study.id) == {}
    assert studies.figures(study.id, ["quality", "params"])[1].shape == (0, 2)
    assert studies.predictions(study.id, "accuracy", 9).shape == (0, 2)
    for trial in (
        new_trial(0, quality=0.5, params=7),
        new_trial(1, quality=0.6, params=8, feasible=False, origin={"predicted": {"other": 1}}),
        new_trial(2, quality=None, state="failed", feasible=False, origin=predicted),
        new_trial(3, quality=0.8, params=9, origin=predicted),
    ):
        studies.add_trial(study.id, trial)
    assert studies.counts(study.id) == {"complete": 3, "failed": 1}
    numbers, values = studies.figures(study.id, ["quality", "params"])
    found = dict(zip(numbers.tolist(), values.tolist(), strict=True))
    assert found == {0: [0.5, 7.0], 3: [0.8, 9.0]}
    assert studies.predictions(study.id, "accuracy", 9).tolist() == [[0.75, 0.8]]
    for number, quality in ((4, 0.25), (5, 0.5)):
        studies.add_trial(study.id, new_trial(number, quality=quality, origin=predicted))
    latest = studies.predictions(study.id, "accuracy", 2).tolist()
    assert latest == [[0.75, 0.25], [0.75, 0.5]]  # the last ones, in order
    assert [t.number for t in studies.trials(study.id, numbers=[3, 0])] == [0, 3]
    assert [t.number for t in studies.trials(study.id, state="failed")] == [2]
    newest = studies.trials(study.id)[1].id
    assert [t.number for t in studies.trials(study.id, after_id=newest)] == [2, 3, 4, 5]


def test_figures_on_one_of_several_targets_are_read(
    studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    study = studies.create_study(new_study())
    costs = {
        "a100": {"latency_ms": 0.25, "memory_bytes": 9},
        "rpi-4.2": {"latency_ms": 1e-3, "memory_bytes": 2**40},
    }
    studies.add_trial(study.id, new_trial(0, target_costs=costs))
    columns = ["quality", "latency_ms@a100", "latency_ms@rpi-4.2", "memory_bytes@rpi-4.2"]
    _, values = studies.figures(study.id, columns)
    assert values.tolist() == [[0.9, 0.25, 1e-3, 2**40]]
    (trial,) = studies.trials(study.id)
    assert [trial.figure(column) for column in columns] == values[0].tolist()
    assert trial.figure("energy_mj@a100") is None
    assert trial.figure("latency_ms@cpu") is None


def test_who_runs_a_study_is_told_while_it_lives(
    studies: Studies, new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = studies.create_study(new_study())
    assert studies.holder(study.id) is None
    monkeypatch.setattr("nas.storage.claims.RENEWAL_S", 0.05)
    with studies.claimed(study):
        before = studies.list_studies()[0].active_at
        assert "process" in (studies.holder(study.id) or "")
        deadline = time.monotonic() + 10
        while studies.list_studies()[0].active_at == before:  # renewed without a trial
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert studies.holder(study.id) is None
