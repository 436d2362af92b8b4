"""A real study on two targets: its front over both, and what each of them sees of it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import pytest

import nas
from nas import archive, service
from nas.errors import NotFoundError, StudyMismatchError, UsageError
from nas.exchange import import_trials, publish
from nas.report.picture import save_png
from nas.report.table import front_table, table_csv
from nas.report.trial import trial_json, trial_lines, trial_row
from nas.request import RunOptions
from nas.storage.database import open_database
from nas.storage.records import MeasurementRecord, TrialRecord
from nas.storage.studies import Studies
from nas.study import Study
from nas.target_names import TARGET_FIGURES

PI = "raspberry-pi-4"
TARGETS = ("a100", PI)
BUDGETS = ("a100:latency<=0.5*max", f"{PI}:3ms", "params<=0.9*max")
OBJECTIVES = ["accuracy", "latency@a100", f"latency@{PI}"]


@dataclass
class Place:
    """A database with the study `both` of eight trials."""

    storage: str
    folder: Path

    def open(self, target: str | None = None) -> Study:
        return archive.open_study("both", self.storage, target)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("both")
    made = Place(f"sqlite:///{folder / 'nas.db'}", folder)
    where = {"storage": made.storage, "study": "both", "out": folder, "export": False}
    nas.search("vit", TARGETS, BUDGETS, trials=5, **where)  # type: ignore[arg-type]
    with pytest.raises(StudyMismatchError, match="target was a100, raspberry-pi-4, now a100"):
        nas.search("vit", "a100", "5ms", trials=8, **where)  # type: ignore[arg-type]
    service.resume("both", 8, RunOptions(storage=made.storage, out=folder, export=False))
    return made


def _dominated(one: TrialRecord, other: TrialRecord, columns: list[str]) -> bool:
    a, b = ([float(t.figure(c) or 0.0) for c in columns] for t in (one, other))
    a[0], b[0] = -a[0], -b[0]
    return b != a and all(y <= x for x, y in zip(a, b, strict=True))


def test_a_resumed_search_is_the_one_that_was_not_stopped(place: Place, tmp_path: Path) -> None:
    whole = nas.search(
        "vit", TARGETS, BUDGETS, trials=8, storage=f"sqlite:///{tmp_path / 'nas.db'}",
        study="both", out=tmp_path, export=False,
    )  # fmt: skip
    assert whole.to_dict() == place.open().to_dict()


@pytest.mark.parametrize("target", [None, *TARGETS])
def test_the_front_is_over_all_targets_or_of_one(place: Place, target: str | None) -> None:
    both = place.open()
    assert both.objectives == OBJECTIVES
    of = TARGETS if target is None else (target,)
    columns = ["quality", *(f"latency_ms_upper@{label}" for label in of)]
    done = [t for t in both.trials if t.feasible]
    expected = {t.number for t in done if not any(_dominated(t, other, columns) for other in done)}
    assert {row.trial for row in place.open(target).front} == expected


def test_a_target_sees_its_own_figures_words_and_budgets(place: Place) -> None:
    both, seen = place.open(), place.open(PI)
    assert (seen.record.target, seen.record.runtime) == (PI, "onnxruntime")
    assert seen.objectives == ["accuracy", "latency"]
    assert [b.partition("<=")[0] for b in seen.record.budgets] == ["latency", "params"]
    assert [n.partition("<=")[0] for n in seen.notes[:2]] == [
        f"budget {PI}:latency",
        "budget params",
    ]
    assert len(seen.trials) == len(both.trials) == 8
    words = {"bf16": "fp32", "int8": "int8"}
    for trial, own in zip(both.trials, seen.trials, strict=True):
        figures = (trial.target_costs or {})[PI]
        assert {name: getattr(own, name) for name in TARGET_FIGURES} == figures
        assert own.policy == {group: words[scheme] for group, scheme in trial.policy.items()}
        candidates = archive.candidates_of(seen)
        assert own.policy_short == candidates.describe_policy(own.policy)
        assert own.target_costs is None
        assert own.quality == trial.quality
    first = place.open("a100").trials[0]
    assert first == replace(both.trials[0], target_costs=None)
    line = f"quality is that in the arithmetic of a100 ({both.record.runtime})"
    assert line in archive.summary(seen, RunOptions(storage=place.storage), drawn=False)
    with pytest.raises(NotFoundError, match="no target of study 'both': 't4'"):
        place.open("t4")


def test_a_study_on_one_target_has_no_other(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'nas.db'}"
    nas.search("vit", ["a100"], trials=1, storage=storage, study="s", out=tmp_path, export=False)
    assert archive.open_study("s", storage).record.target == "a100"
    assert "targets" not in archive.open_study("s", storage).to_dict()
    with pytest.raises(UsageError, match="study 's' has one target"):
        archive.open_study("s", storage, "a100")


def test_reports_name_each_target(place: Place) -> None:
    study = place.open()
    plain = study.to_dict()
    assert (plain["target"], plain["targets"]) == (f"a100, {PI}", ["a100", PI])
    rows = list(csv.DictReader(io.StringIO(table_csv(study))))
    for row, shown, trial in zip(rows, plain["front"], study.front_trials(), strict=True):
        for name in TARGET_FIGURES:
            assert float(row[f"{name}@{PI}"]) == shown[f"{name}@{PI}"]
            assert shown[f"{name}@{PI}"] == trial.figure(f"{name}@{PI}")
            assert shown[name] == shown[f"{name}@a100"]
    measured = MeasurementRecord(
        study.front_trials()[0].id, f"latency_ms@{PI}", 0.3, None, None, 9, 3, "board",
        "onnxruntime", "fp32", 1, 4, agreement=0.995,
    )  # fmt: skip
    study = replace(study, measurements=(measured,))
    head, body = front_table(study, archive.describer(study)).lines(200)
    assert len(body) == len(study.front)
    assert head[0].split() == ["a100", "a100", PI, PI, PI, PI]
    assert head[1].split()[3:9] == ["latency", "bound", "latency", "bound", "measured", "agree"]
    judged = [*study.objectives, "macs", f"weights@{PI}"]
    wider = replace(study, record=replace(study.record, objectives=judged), measurements=())
    titles = [column.title for column in front_table(wider, archive.describer(wider)).columns]
    assert titles[3:-2] == [
        "a100\nlatency", "a100\nbound", f"{PI}\nlatency", f"{PI}\nbound", f"{PI}\nweights",
        "params", "macs",
    ]  # fmt: skip
    text = "\n".join(archive.summary(study, RunOptions(storage=place.storage), drawn=False))
    assert "quality is that in the arithmetic of a100 (cudagraph), the first target" in text
    assert f"(b bf16, fp32 on {PI}; 8 int8)" in text
    assert f"latency on {PI}: " in text
    assert f"{PI}, measured: " in text
    assert "a100, measured" not in text


def test_a_trial_is_told_with_its_figures_on_each_target(place: Place) -> None:
    study = place.open()
    trial = study.trials[3]
    candidates = archive.candidates_of(study)
    lines = trial_lines(trial, study.record, candidates, study.metric)
    assert [line.rpartition("(")[2] for line in lines if line.startswith("latency")] == [
        "predicted on a100)", f"predicted on {PI})",
    ]  # fmt: skip
    assert any(f"weights@{PI} " in line and "params " in line for line in lines)
    assert {"bound on a100", f"bound on {PI}"} <= set(trial_row(trial, study.metric))
    plain = json.loads(json.dumps(trial_json(trial, study.metric)))
    assert plain[f"memory_bytes@{PI}"] == trial.figure(f"memory_bytes@{PI}")
    assert "target_costs" not in plain


def test_a_picture_has_a_panel_a_target(place: Place, tmp_path: Path) -> None:
    from matplotlib.image import imread

    png, html = archive.draw(place.open(), tmp_path)
    assert (png.name, html.name) == ("front.png", "front.html")
    save_png(place.open(PI), tmp_path / "one.png")
    both, one = imread(png), imread(tmp_path / "one.png")
    assert both.shape[1] / both.shape[0] > 1.4 * one.shape[1] / one.shape[0]
    assert np.ptp(both[:, both.shape[1] // 2 :]) > 0.9  # the second half is drawn on
    page = html.read_text()
    assert f"{PI}, bound" in page
    assert page.count("Pareto front") >= 2
    assert archive.draw(place.open(PI), tmp_path)[0].name == f"front-{PI}.png"


def test_trials_are_imported_with_the_figures_of_each_target(place: Place, tmp_path: Path) -> None:
    (tmp_path / "nas.db").write_bytes((place.folder / "nas.db").read_bytes())
    storage = f"sqlite:///{tmp_path / 'nas.db'}"
    both = place.open()
    with open_database(storage) as database:
        studies = Studies(database)
        empty = studies.create_study(replace(both.record, name="empty", id=0))
        import_trials("empty", "both", storage)
        told = studies.trials(empty.id)
    assert [t.target_costs for t in told] == [t.target_costs for t in both.trials]
    assert [t.feasible for t in told] == [t.feasible for t in both.trials]
    publish("both", f"sqlite:///{tmp_path / 'optuna.db'}", storage)
    there = optuna.load_study(study_name="both", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    assert there.metric_names == OBJECTIVES
    for trial, mine in zip(there.trials, both.trials, strict=True):
        assert trial.values == [
            mine.quality,
            *(mine.figure(f"latency_ms_upper@{t}") for t in TARGETS),
        ]
        assert trial.user_attrs[f"energy_mj@{PI}"] == mine.figure(f"energy_mj@{PI}")


def test_each_target_gets_files_of_its_own(place: Place, tmp_path: Path) -> None:
    study = service.export("both", RunOptions(storage=place.storage, out=tmp_path))
    schemes = {"a100": {"bf16", "int8"}, PI: {"fp32", "int8"}}
    for label, seen in ((label, place.open(label)) for label in TARGETS):
        shown = {t.number: t for t in seen.trials}
        for row in study.front:
            folder = tmp_path / "both" / "subnets" / label / f"trial-{row.trial:04d}"
            assert str(folder) in row.folders
            assert (row.target_costs or {})[label]["exported"] == str(folder)
            config = json.loads((folder / "config.json").read_text())
            assert config["runtime"] == seen.record.runtime
            assert config["policy"] == shown[row.trial].policy
            assert set(config["policy"].values()) <= schemes[label]
            figures = config["objectives"]
            assert figures["latency_ms"]["value"] == shown[row.trial].latency_ms
            assert "arithmetic of a100 (cudagraph)" in figures["accuracy"]["provenance"]
            assert figures["accuracy"]["value"] == row.quality
            assert figures["accuracy_test"]["value"] == row.quality_test
    said = service.verify("both", RunOptions(storage=place.storage, out=tmp_path)).notes
    assert said[0].startswith("NVIDIA A100-SXM4-80GB under cudagraph and Raspberry Pi 4")
