"""A search in two looks, on the real data: cut and resumed, side by side, and told at its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import nas
from nas import service
from nas.archive import open_study
from nas.errors import StudyMismatchError, UsageError
from nas.events import Event
from nas.request import RunOptions
from nas.storage.records import TrialRecord
from nas.study import Study

TRIALS, CUT = 16, 7


def run(place: Path, name: str, trials: int = TRIALS, **more: object) -> Study:
    return nas.search(
        "vit", "a100", trials=trials, sampler="random", storage=f"sqlite:///{place / 'nas.db'}",
        study=name, out=place, export=False, **{"first_look": 0.25, **more},  # type: ignore[arg-type]
    )  # fmt: skip


def figures(trial: TrialRecord) -> TrialRecord:
    """A trial without what is never the same twice."""
    saved = None if trial.seconds_saved is None else 1.0
    moment = {"id": 0, "created_at": None, "seconds": 0.0, "quality_test": None}
    return replace(trial, seconds_saved=saved, **moment)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("looks")


@pytest.fixture(scope="module")
def whole(place: Path) -> Study:
    return run(place, "whole")


def test_some_are_given_up_and_the_front_is_as_without(place: Path, whole: Study) -> None:
    partial = [t for t in whole.trials if t.state == "partial"]
    assert 2 < len(partial) < TRIALS
    plain = run(place, "plain", first_look=None)
    assert [t.key for t in plain.trials] == [t.key for t in whole.trials]
    assert [row.trial for row in plain.front] == [row.trial for row in whole.front]
    assert {t.examples for t in plain.trials} == {4044}
    for trial in whole.trials:
        found = plain.trials[trial.number].quality
        assert trial.quality is not None
        assert found is not None
        within = 5 * (trial.part_noise or 0.0) + 3 / 4044
        assert abs(trial.quality - found) <= within
        assert (trial.examples, trial.part_noise is None) == (
            (1011, False) if trial in partial else (4044, True)
        )
    assert all((t.seconds_saved or 0) > 0 for t in partial)
    (note,) = (line for line in whole.notes if "first look" in line)
    saved = len(partial) * 3033
    assert f"{len(partial)} of 16 trials were given up after it; {saved:,} examples" in note
    assert not any("first look" in line for line in plain.notes)


def test_a_study_that_is_cut_goes_on_as_it_would_have(place: Path, whole: Study) -> None:
    said: list[Event] = []
    options = RunOptions(storage=f"sqlite:///{place / 'nas.db'}", out=place, export=False)
    run(place, "cut", CUT)
    resumed = service.resume("cut", TRIALS, options, said.append)
    assert [figures(t) for t in resumed.trials] == [figures(t) for t in whole.trials]
    assert any("given up at first look" in event.text for event in said)
    with pytest.raises(StudyMismatchError, match=r"first_look was 0.25, now 0.5"):
        run(place, "cut", first_look=0.5)


def test_workers_decide_alone(place: Path, whole: Study) -> None:
    together = run(place, "together", workers=2)
    states = {t.key: t.state for t in together.trials}
    assert set(states) == {t.key for t in whole.trials}  # drawn whatever became of the others
    assert "partial" in states.values()
    assert {row.architecture_short for row in together.front} == {
        row.architecture_short for row in whole.front
    }


def test_a_share_that_cannot_be_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is 40 of 4,044 validation examples"):
        run(tmp_path, "few", first_look=0.01)
    with pytest.raises(UsageError, match=r"between 0 and 1, not 1\.5"):
        run(tmp_path, "much", first_look=1.5)
    assert not (tmp_path / "nas.db").exists()


def test_nothing_that_was_given_up_is_tested_or_exported(place: Path, whole: Study) -> None:
    found = open_study("whole", f"sqlite:///{place / 'nas.db'}")
    tested = {t.number for t in found.trials if t.quality_test is not None}
    assert tested == {row.trial for row in whole.front}
    assert not tested & {t.number for t in found.trials if t.state == "partial"}
