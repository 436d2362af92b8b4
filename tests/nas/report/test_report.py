"""Front, table, CSV and pictures of a study that was put together by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nas.archive import describer, measured_lines, unquantized_lines
from nas.errors import ExportError
from nas.report.page import save_html
from nas.report.picture import save_png
from nas.report.table import front_table, table_csv
from nas.report.trial import trial_json, trial_lines, trial_row
from nas.study import Study
from tests.nas.report.made_study import CANDIDATES, MEASURED, PARTIAL, RECORD, STUDY, TRIALS, trial


def test_the_front_is_feasible_complete_and_not_dominated() -> None:
    assert [row.trial for row in STUDY.front] == [1, 0]
    assert STUDY.front[0].latency_ms_measured == 0.21  # the latest of two
    assert STUDY.front[1].latency_ms_measured is None
    assert Study(RECORD, ()).front == []
    assert [row.trial for row in replace(STUDY, trials=(*TRIALS, PARTIAL)).front] == [1, 0]


def test_a_partial_trial_says_so_and_why() -> None:
    assert trial_row(PARTIAL, STUDY.metric)["state"] == "partial"
    record = replace(RECORD, request={**RECORD.request, "n_validation": 4000})
    lines = trial_lines(PARTIAL, record, CANDIDATES, STUDY.metric)
    assert lines[0] == "trial 5 of s: partial"
    assert "quality   accuracy 95.00%, standard error 2.0 points" in lines
    assert (
        "given up  on 1,000 of 4,000 examples, which show it to 1.2 points: at its costs the "
        "front has 97.00%"
    ) in lines
    assert not any("goal" in line for line in lines)
    assert trial_json(PARTIAL, STUDY.metric)["examples"] == 1000


def test_json_and_csv_hold_the_same_front() -> None:
    shown = json.loads(json.dumps(STUDY.to_dict()))
    assert shown["trials"] == 5
    rows = list(csv.DictReader(io.StringIO(table_csv(STUDY))))
    assert [int(r["trial"]) for r in rows] == [r["trial"] for r in shown["front"]]
    assert json.loads(rows[0]["architecture"]) == shown["front"][0]["architecture"]
    assert rows[1]["latency_ms_measured"] == ""


@pytest.mark.parametrize(
    ("objectives", "targets", "says", "advises"),
    [
        (["accuracy", "latency"], (), "cpu is predicted to be slower in int8", True),
        (["accuracy", "latency", "weights"], (), "cpu is predicted to be slower in int8", False),
        (["accuracy", "latency@a", "latency@b"], ("a", "b"), "a and b are predicted", True),
        (["accuracy", "latency@b", "weights@a"], ("a", "b"), "b is predicted", False),
        (["accuracy", "weights"], (), "", False),
        (["accuracy", "params"], (), "", False),
    ],
)
def test_a_front_in_native_precision_is_explained_by_latency_only_where_it_counts(
    objectives: list[str], targets: tuple[str, ...], says: str, advises: bool
) -> None:
    native = dict.fromkeys(TRIALS[0].policy, "fp32")
    costs = {t: {"latency_ms_upper": 0.5, "weight_bytes": 500} for t in targets} or None
    found = replace(TRIALS[0], policy=native, target_costs=costs)
    record = replace(RECORD, objectives=objectives)
    lines = unquantized_lines(Study(record, (found,), ()))
    assert [says in line for line in lines] == [True] * bool(says)
    assert any("--objective accuracy --objective weights" in line for line in lines) == advises
    quantized = replace(found, policy=dict.fromkeys(native, "int8"))
    assert unquantized_lines(Study(record, (quantized,), ())) == []


def test_the_table_shows_measured_only_where_something_was() -> None:
    def text(study: Study) -> str:
        head, body = front_table(study, describer(study)).lines(160)
        return "\n".join(head + body)

    assert "measured" in text(STUDY)
    assert "99.9%" in text(STUDY)
    assert "measured" not in text(replace(STUDY, measurements=()))


def test_the_table_shows_what_is_judged() -> None:
    def titles(objectives: list[str], quantity: str) -> list[str]:
        limits = [{"quantity": quantity, "limit": 1e6, "relative": False, "target": None}]
        record = replace(
            RECORD, objectives=objectives, request={**RECORD.request, "limits": limits}
        )
        study = replace(STUDY, record=record, measurements=())
        return [column.title for column in front_table(study, describer(study)).columns]

    usual = [
        "trial", "val", "test", "latency", "bound", "memory", "params", "architecture", "policy",
    ]  # fmt: skip
    assert titles(["accuracy", "latency"], "params") == usual
    wider = usual.copy()
    wider.insert(usual.index("memory") + 1, "weights")
    wider.insert(wider.index("params") + 1, "macs")
    assert titles(["accuracy", "weights"], "macs") == wider
    assert titles(["accuracy", "macs"], "weights") == wider


def test_pictures_are_whole_files(tmp_path: Path) -> None:
    save_png(STUDY, tmp_path / "deep" / "front.png")
    assert (tmp_path / "deep" / "front.png").read_bytes().startswith(b"\x89PNG")
    save_html(STUDY, CANDIDATES.space, CANDIDATES.describe_policy, tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    assert "trial 1" in page
    assert 'src="http' not in page  # works without a network


def test_a_path_is_no_formula_in_a_title(tmp_path: Path) -> None:
    record = replace(STUDY.record, data="/data/$a_{$b")
    save_png(replace(STUDY, record=record), tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 0


def test_what_a_device_holds_is_drawn_as_a_budget(tmp_path: Path) -> None:
    """Nobody typed it, so it is none of the study's budgets."""
    held = {"quantity": "memory", "limit": 327_680.0, "relative": False, "target": None}
    request = {**RECORD.request, "limits": [held]}
    record = replace(RECORD, objectives=["accuracy", "memory"], budgets=[], request=request)
    for limit in (327_680.0, 1_100.0):  # far right, and near
        held["limit"] = limit
        save_png(replace(STUDY, record=record), tmp_path / "front.png")
        assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "front.png").unlink()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        save_png(STUDY, tmp_path / "file" / "front.png")
    with pytest.raises(ExportError, match="cannot write"):
        save_html(STUDY, CANDIDATES.space, CANDIDATES.describe_policy, tmp_path / "file" / "x.html")


@pytest.mark.parametrize(
    ("factors", "slowness", "held", "told"),
    [
        ((1.2, 1.21, 1.19), 1.2, 0, ("20.0% slower", "error is 0.6%", "3 of 3; end what else")),
        ((1.15, 1.38, 1.11), 1.15, 0, ("15.0% slower", "error is 6.8%", "2 of 3; end what else")),
        ((1.11, 1.2, 1.6), 1.0, 0, ()),  # the prediction is wrong
        ((1.11, 1.2, 1.6), None, 0, ()),  # measured before its speed was kept
        ((1.04, 1.05, 1.06), 1.009, 3, ()),
        ((1.04, 1.05, 1.06), 1.05, 3, ("5.0% slower", "error is 0.6%", "3 of 3")),
        ((0.8, 0.8, 0.8), 0.8, 3, ("20.0% faster", "error is 0.0%", "3 of 3")),
        ((1.0, 1.0, 1.0), 0.8, 3, ("20.0% faster", "error is 20.0%", "0 of 3")),
    ],
)
def test_a_machine_that_became_slower_is_told_apart_from_a_wrong_prediction(
    factors: tuple[float, ...], slowness: float | None, held: int, told: tuple[str, ...]
) -> None:
    trials = tuple(trial(n, 0.9 - 0.1 * n, 0.5 - 0.1 * n) for n in range(3))
    measured = tuple(
        replace(MEASURED, trial_id=t.id, value=t.latency_ms * factor, slowness=slowness, id=n)
        for n, (t, factor) in enumerate(zip(trials, factors, strict=True), 1)
    )
    first, *more = measured_lines(Study(RECORD, trials, measured))
    assert first.endswith(f"the bound held for {held} of 3")
    assert len(more) == bool(told)
    if told:
        change, error, last = told
        assert change in more[0]
        assert error in more[0]
        assert last in more[0] if "end what" in last else more[0].endswith(last)
