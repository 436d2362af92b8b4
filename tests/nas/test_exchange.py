"""Trials that come from elsewhere and go elsewhere, on a real study."""

from __future__ import annotations

import csv
import json
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import pytest

import nas
from nas import archive, service, watching
from nas.errors import ExecutorError, NotFoundError, StorageError, UsageError
from nas.events import Event
from nas.exchange import import_trials, publish
from nas.request import RunOptions
from nas.storage.database import open_database
from nas.storage.records import TrialRecord
from nas.storage.studies import Studies
from nas.study import Study

BUDGET = "latency<=0.4*max"


@dataclass
class Place:
    """A database with a study of six trials, `full`, and an empty one under less, `empty`."""

    storage: str
    folder: Path
    full: Study

    def trials(self, name: str) -> list[TrialRecord]:
        with open_database(self.storage) as database:
            studies = Studies(database)
            return studies.trials(studies.find_study(name).id)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("exchange")
    storage = f"sqlite:///{folder / 'nas.db'}"
    full = nas.search(
        "vit", "a100", BUDGET, trials=6, storage=storage, study="full", out=folder, export=False
    )
    return Place(storage, folder, full)


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Place:
    """A copy of it, with an `empty` study under a smaller budget."""
    (tmp_path / "nas.db").write_bytes((made.folder / "nas.db").read_bytes())
    copied = Place(f"sqlite:///{tmp_path / 'nas.db'}", tmp_path, made.full)
    record = made.full.record
    limits = [{**limit, "limit": limit["limit"] / 2} for limit in record.request["limits"]]
    with open_database(copied.storage) as database:
        request = {**record.request, "limits": limits}
        Studies(database).create_study(replace(record, name="empty", request=request, id=0))
    return copied


def test_more_trials_than_were_asked_for_are_all_of_them(place: Place) -> None:
    with open_database(place.storage) as database:
        studies = Studies(database)
        study = studies.find_study("empty")
        request = {**study.request, "asked": {**study.request["asked"], "trials": 2}}
        studies.set_request(study.id, request)
    import_trials("empty", "full", place.storage)
    rows = archive.list_studies(place.storage)
    listed = {row["study"]: (row["trials"], row["asked"]) for row in rows}
    assert listed == {"empty": (6, 6), "full": (6, 6)}


def test_another_study_s_trials_are_told_as_known(place: Place) -> None:
    lines = import_trials("empty", "full", place.storage)
    assert lines[0].startswith("6 trials imported into empty, ")
    assert "among its trials, 6 now: evaluate more with nas resume empty --trials 12" in lines[-1]
    told = place.trials("empty")
    limit = place.full.record.request["limits"][0]["limit"] / 2
    for before, now in zip(place.full.trials, told, strict=True):
        assert (now.key, now.genome, now.quality) == (before.key, before.genome, before.quality)
        assert now.latency_ms_upper == pytest.approx(before.latency_ms_upper)
        assert now.feasible == (float(now.latency_ms_upper or 0) <= limit)
        assert now.origin["kind"] == "imported"
    assert {t.feasible for t in told} == {True, False}
    assert import_trials("empty", "full", place.storage)[1] == "6 are in the study already"
    assert len(place.trials("empty")) == 6


def test_every_row_that_is_left_out_is_counted(place: Place) -> None:
    path = place.folder / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["accuracy", "architecture", "policy", "state"])
        for trial in (place.full.trials[0], *place.full.trials[:3]):  # the first one twice
            words = [json.dumps(trial.architecture), json.dumps(trial.policy)]
            writer.writerow([trial.quality, *words, "failed" if trial.number == 2 else "complete"])
        writer.writerow(["", "{}", "{}", "complete"])
    lines = import_trials("empty", str(path), place.storage)
    assert lines[0].startswith("2 trials imported")
    assert lines[1:-1] == [
        "1 stands there more than once: the first counts",
        "2 were not evaluated, or not on all of the data",
    ]


def test_a_search_goes_on_from_what_was_imported(place: Place) -> None:
    for trial in place.trials("full")[3:]:
        with open_database(place.storage) as database, database.write() as connection:
            connection.exec_driver_sql(f"DELETE FROM nas_trials WHERE id = {trial.id}")
    rows = [
        [t.quality, json.dumps(t.architecture), json.dumps(t.policy)] for t in place.full.trials
    ]
    path = place.folder / "known.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["accuracy", "architecture", "policy"], *rows])
    lines = import_trials("full", str(path), place.storage)
    assert lines[0].startswith("3 trials imported")
    options = RunOptions(storage=place.storage, out=place.folder, export=False)
    found = service.resume("full", 8, options)
    assert len({t.key for t in found.trials}) == 8
    assert [t.number for t in found.trials] == list(range(8))


def test_a_column_a_choice_is_read_too(place: Place) -> None:
    trial = place.full.trials[0]
    values = {**trial.architecture, **trial.policy, "accuracy": 0.5, "accuracy_noise": 0.01}
    path = place.folder / "columns.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*values, "state"])
        writer.writeheader()
        writer.writerow({**values, "accuracy": 0.3, "state": "partial"})
        writer.writerow({**values, "state": "complete"})
        writer.writerow({**values, "accuracy": ""})  # a failed one
    import_trials("empty", str(path), place.storage)
    (told,) = place.trials("empty")
    _, _, lines = archive.show("empty", told.number, False, place.storage)
    assert f"chosen    known from elsewhere ({path}, line 3)" in lines
    assert import_trials("empty", str(path), place.storage)[2] == "1 is in the study already"
    assert (told.key, told.quality, told.quality_noise) == (trial.key, 0.5, 0.01)


def test_integers_that_pandas_wrote_with_a_point_are_read(place: Place) -> None:
    trial = place.full.trials[0]
    values = {**trial.architecture, **trial.policy}
    row = {k: float(v) if isinstance(v, int) else v for k, v in values.items()}
    path = place.folder / "columns.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["accuracy", *row])
        writer.writeheader()
        writer.writerow({"accuracy": 0.5, **row})
    import_trials("empty", str(path), place.storage)
    assert [told.key for told in place.trials("empty")] == [trial.key]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column accuracy"),
        ("accuracy\n0.5\n", "does not say which networks"),
        ("accuracy,embed\nhalf,16\n", "line 2 cannot be read"),
        ("accuracy,embed\nnan,16\n", "accuracy is nan"),
        ("accuracy,embed\n91.2,16\n", "accuracy is 91.2"),
        ("accuracy,embed\n0.5,17\n", "embed cannot be 17"),
        ("accuracy,embed\n0.5,16.5\n", "embed cannot be 16.5"),
        ("accuracy,embed\n0.5,16\n", "is no candidate"),
        ('accuracy,architecture\n0.5,"{""wings"": 2}"\n', "is no candidate"),
        ("accuracy,architecture\n0.5,{\n", "line 2 cannot be read"),
        ("accuracy,accuracy_noise,embed\n0.5,-1,16\n", "accuracy_noise is -1"),
        (f"accuracy,architecture\n0.5,{' ' * 200_000}\n", "cannot be read: field larger"),
    ],
)
def test_files_that_cannot_be_understood_change_nothing(place: Place, text: str, says: str) -> None:
    path = place.folder / "broken.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        import_trials("empty", str(path), place.storage)
    assert place.trials("empty") == []


def test_what_is_not_alike_is_refused(place: Place) -> None:
    with open_database(place.storage) as database:
        studies = Studies(database)
        other = replace(place.full.record, name="other", supernet_digest="else", id=0)
        studies.create_study(other)
        stored = studies.load_profile(str(other.profile_fingerprint))
        document = json.loads(json.dumps(stored.document).replace('"bf16"', '"fp16"'))
        profile = replace(stored, fingerprint="fp16", document=document, id=0)
        in_fp16 = replace(place.full.record, name="fp16", profile_fingerprint="fp16", id=0)
        studies.create_study(in_fp16, [profile])
        studies.claim(studies.find_study("empty").id)
        watch = f"nas studies watch empty --storage {place.storage}"
        with pytest.raises(StorageError, match=f"being run by process .*`{watch}`"):
            import_trials("empty", "full", place.storage)
        studies.release(studies.find_study("empty").id)
    with pytest.raises(UsageError, match="supernet digest is else there"):
        import_trials("empty", "other", place.storage)
    with pytest.raises(UsageError, match="native type is fp16 there, bf16 here"):
        import_trials("empty", "fp16", place.storage)
    with pytest.raises(UsageError, match="into itself"):
        import_trials("full", "full", place.storage)
    with pytest.raises(NotFoundError, match="no file"):
        import_trials("full", "nothing.csv", place.storage)


def test_only_the_study_that_was_asked_about_is_deleted(place: Place) -> None:
    def agreed(trials: int) -> bool:
        archive.delete_study("empty", place.storage)  # another process does, while one is asked
        with open_database(place.storage) as database:  # SQLite gives its id to the next
            Studies(database).create_study(replace(place.full.record, name="next", id=0))
        return True

    with pytest.raises(NotFoundError, match="does not exist any more"):
        archive.delete_study("empty", place.storage, agreed)
    assert {row["study"] for row in archive.list_studies(place.storage)} == {"full", "next"}


def test_a_study_is_published_to_optuna(place: Place) -> None:
    failed = replace(
        place.full.trials[0], number=6, key="k", state="failed", reason="out of memory",
        quality=None, feasible=False,
    )  # fmt: skip
    with open_database(place.storage) as database:
        studies = Studies(database)
        studies.add_trial(studies.find_study("full").id, failed)
    url = f"sqlite:///{place.folder / 'optuna.db'}"
    assert publish("full", url, place.storage)[0].startswith("7 trials of full published")
    assert publish("full", url, place.storage)[0].startswith("0 trials of full published")
    there = optuna.load_study(study_name="full", storage=url)
    assert [d.name for d in there.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert there.metric_names == ["accuracy", "latency"]
    for ours, theirs in zip(place.full.trials, there.trials, strict=False):
        assert theirs.values == [ours.quality, ours.latency_ms_upper]
        assert theirs.params == {**ours.architecture, **ours.policy}
        assert theirs.user_attrs["nas_trial"] == ours.number
        limit = place.full.record.request["limits"][0]["limit"]
        excess = float(ours.latency_ms_upper or 0) / limit - 1
        # Under the old key: Optuna 5 reads it, and optuna-dashboard 0.21 reads no other.
        assert theirs.system_attrs["constraints"] == pytest.approx([excess])
        assert list(theirs.constraints.values()) == pytest.approx([excess])
    assert there.trials[6].state.name == "FAIL"
    front = {t.user_attrs["nas_trial"] for t in there.best_trials}
    assert front == {row.trial for row in place.full.front}
    with pytest.raises(StorageError, match=r"cannot be used: unable to open database file\."):
        publish("full", "sqlite:////proc/none/o.db", place.storage)
    with pytest.raises(UsageError, match="is not a database URL"):
        publish("full", "optuna.db", place.storage)
    optuna.create_study(storage=url, study_name="empty", directions=["minimize", "minimize"])
    with pytest.raises(StorageError, match="another study 'empty'"):
        publish("empty", url, place.storage)
    anew = f"sqlite:///{place.folder / 'anew.db'}"  # another search under the same name
    nas.search("vit", "a100", trials=3, seed=1, storage=anew, study="full", export=False,
               out=place.folder)  # fmt: skip
    with pytest.raises(
        StorageError, match=r"another study 'full'.*--study-name full --storage sqlite"
    ):
        publish("full", url, anew)


def test_partial_trials_are_published_as_pruned_and_imported_nowhere(place: Place) -> None:
    first = place.full.trials[0]
    partial = replace(
        first, id=0, number=6, key="k", state="partial", quality=0.4, part_noise=0.01, examples=99,
        origin={"kind": "exploit", "goal": 0.5},
    )  # fmt: skip
    with open_database(place.storage) as database:
        studies = Studies(database)
        studies.add_trial(studies.find_study("full").id, partial)
    _, rows, lines = archive.show("full", 6, False, place.storage)
    assert rows[0]["state"] == "partial"
    assert lines[0] == "trial 6 of full: partial"
    assert import_trials("empty", "full", place.storage)[0].startswith("6 trials imported")
    assert partial.key not in {t.key for t in place.trials("empty")}
    url = f"sqlite:///{place.folder / 'optuna.db'}"
    publish("full", url, place.storage)
    there = optuna.load_study(study_name="full", storage=url).trials[6]
    assert (there.state.name, there.values) == ("PRUNED", None)
    attributes = {k: there.user_attrs[k] for k in ("quality", "part_noise", "examples", "goal")}
    assert attributes == {"quality": 0.4, "part_noise": 0.01, "examples": 99, "goal": 0.5}


def test_the_dashboard_reads_the_constraints(place: Place) -> None:
    serializer = pytest.importorskip("optuna_dashboard._serializer")
    url = f"sqlite:///{place.folder / 'optuna.db'}"
    publish("full", url, place.storage)
    there = optuna.load_study(study_name="full", storage=url)
    for trial in there.trials:
        shown = serializer.serialize_frozen_trial(there._study_id, trial, {})
        assert shown["constraints"] == list(trial.constraints.values())
        assert len(shown["constraints"]) == 1


def test_a_study_of_failures_alone_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> tuple[float, float]:
        raise MemoryError("tried to allocate 1 TiB")

    monkeypatch.setattr("nas.evaluation.Evaluator.quality", full)
    with pytest.raises(ExecutorError, match="all 2 evaluations failed, the last"):
        nas.search(
            "vit",
            "a100",
            trials=2,
            storage=place.storage,
            study="none",
            out=place.folder,
            export=False,
        )
    trials, rows, _ = archive.show("none", None, True, place.storage)
    assert [(t["state"], t["feasible"]) for t in trials] == [("failed", False)] * 2
    assert [row["tries"] for row in rows] == [2, 2]
    _, _, lines = archive.show("none", 1, False, place.storage)
    assert "failed    out of memory: tried to allocate 1 TiB (tried 2 times)" in lines
    monkeypatch.undo()
    options = RunOptions(storage=place.storage, out=place.folder, export=False)
    said: list[Event] = []
    assert service.export("none", options, said.append).front == []
    go_on = f"`nas resume none --storage {place.storage}` goes on with it."
    assert any("nothing to test or write" in e.text and go_on in e.text for e in said)
    found = service.resume("none", 4, options)
    assert (found.n_failed, len(found.trials), bool(found.front)) == (2, 4, True)


def test_one_trial_says_why_it_was_chosen(place: Place) -> None:
    _, _, lines = archive.show("full", 2, False, place.storage)
    assert any(line.startswith("chosen    of the first design") for line in lines)
    import_trials("empty", "full", place.storage)
    _, rows, _ = archive.show("empty", None, False, place.storage)
    assert {row["state"] for row in rows} == {"complete", "over budget"}
    assert {row["seconds"] for row in rows} == {None}
    _, _, lines = archive.show("empty", 2, False, place.storage)
    assert "chosen    known from elsewhere (full, trial 2)" in lines
    assert any(line.startswith("imported  ") for line in lines)
    assert not any(line.startswith("evaluated ") for line in lines)
    with pytest.raises(NotFoundError, match="no trial 99"):
        archive.show("full", 99, False, place.storage)


def test_a_running_study_is_watched_to_its_end(place: Place) -> None:
    said: list[Event] = []
    trial = place.full.trials[0]

    def coordinate(studies: Studies, study_id: int) -> None:
        for number in range(6, 9):
            time.sleep(0.3)
            studies.add_trial(study_id, replace(trial, number=number, key=f"k{number}", id=0))
        studies.release(study_id)

    with open_database(place.storage) as database:
        studies = Studies(database)
        study = studies.find_study("full")
        asked = {**study.request["asked"], "trials": 20}
        studies.set_request(study.id, {**study.request, "asked": asked})
        studies.claim(study.id)
        running = threading.Thread(target=coordinate, args=(studies, study.id))
        running.start()
        lines = watching.watch("full", place.storage, said.append, every_s=0.01)
        running.join()
    assert "trial 6 of 20" in said[0].text
    assert "trial 9 of 20" in said[-1].text
    assert lines[-1] == f"nobody runs it; go on with: nas resume full --storage {place.storage}"
    unfinished = archive.summary(
        archive.open_study("full", place.storage), RunOptions(storage=place.storage), drawn=False
    )
    assert unfinished[-1] == f"more trials: nas resume full --storage {place.storage}"
    assert lines[0].startswith("full: 9 of 20 trials")
