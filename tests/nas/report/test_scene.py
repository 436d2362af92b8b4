"""What pictures of a front show, whatever draws them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from nas.report.page import save_html
from nas.report.picture import draw_scene, save_png
from nas.report.scene import Scene, scenes
from nas.study import Study
from tests.nas.report.made_study import CANDIDATES, RECORD, STUDY, trial

BOUND = ", at its upper bound"
FURTHER = trial(6, 0.75, 0.6, weight_bytes=400)  # slow, of the fewest weights
LIMIT = {"quantity": "latency", "limit": 0.9, "relative": False, "target": None}


def scene_of(study: Study, **more: Any) -> Scene:
    (scene,) = scenes(replace(study, record=replace(study.record, **more)))
    return scene


@pytest.fixture
def full() -> Study:
    """With a group of each kind and a budget that binds."""
    record = replace(
        RECORD,
        objectives=["accuracy", "latency", "weights"],
        request={**RECORD.request, "limits": [LIMIT]},
    )
    return replace(STUDY, record=record, trials=(*STUDY.trials, FURTHER))


def test_groups_say_what_their_networks_are(full: Study) -> None:
    (scene,) = scenes(full)
    assert {g.label: [t.number for t in g.trials] for g in scene.groups} == {
        f"evaluated{BOUND}": [2],
        "over budget": [3],
        f"Pareto front{BOUND}": [1, 0],
        "on it for another objective": [6],
        "measured": [1],
    }
    sizes = {g.label: g.size for g in scene.groups}
    assert sizes["on it for another objective"] < sizes[f"Pareto front{BOUND}"]
    assert (scene.budget, scene.limit) == ("budget latency<=900us", pytest.approx(900))


def test_the_axis_has_the_unit_of_the_table(full: Study) -> None:
    (scene,) = scenes(full)
    assert scene.x_label == "latency (us)"
    assert scene.groups[-1].x == [pytest.approx(210)]
    slow = replace(full, trials=(*full.trials, trial(7, 0.3, 1.0)))
    assert scenes(slow)[0].x_label == "latency (ms)"
    assert scene_of(STUDY, objectives=["accuracy", "params"]).x_label == "parameters (k)"
    assert scene_of(STUDY, objectives=["accuracy", "macs"]).x_label == "MACs"
    of_memory = scene_of(STUDY, objectives=["accuracy", "memory"])
    assert of_memory.x_label == "peak memory (B)"
    assert "measured" not in [g.label for g in of_memory.groups]  # that is time
    assert "Pareto front" in [g.label for g in of_memory.groups]


def test_a_budget_far_right_has_words_and_no_line(full: Study) -> None:
    far = {**RECORD.request, "limits": [{**LIMIT, "limit": 5.0}]}
    scene = scene_of(full, request=far)
    assert (scene.budget, scene.limit) == (
        "budget latency<=5ms is far right: it does not bind", None,
    )  # fmt: skip
    assert scene_of(full, request={**far, "limits": []}).budget is None
    failed = replace(full, trials=(trial(4, None, 0.1, state="failed", reason="no number"),))
    assert scenes(failed)[0].budget is None  # of nothing drawn it is not known whether it binds


def test_a_measured_time_beyond_the_bounds_is_within_the_axis(full: Study) -> None:
    slow = replace(full, measurements=tuple(replace(m, value=3.0) for m in full.measurements))
    (scene,) = scenes(slow)
    assert max(scene.groups[-1].x) == 3.0
    assert (scene.x_label, scene.log) == ("latency (ms)", True)
    beyond = {**RECORD.request, "limits": [{**LIMIT, "limit": 2.0}]}
    assert scene_of(slow, request=beyond).limit == 2.0


def test_the_picture_and_the_page_show_the_same(full: Study, tmp_path: Path) -> None:
    (scene,) = scenes(full)
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    draw_scene(scene, axes)
    legend = axes.get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [*(g.label for g in scene.groups), scene.budget]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0  # hides nothing
    save_html(full, CANDIDATES.space, CANDIDATES.describe_policy, tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    for label in labels:
        assert f'"name":"{label}"'.replace("<", "\\u003c") in page
    assert "bound 220 us, measured 210 us" in page
    assert scene.log
    assert f'"x0":{scene.limit}' in page  # not its logarithm


def test_a_study_without_networks_is_drawn(tmp_path: Path) -> None:
    request = {**RECORD.request, "limits": []}
    save_png(Study(replace(RECORD, request=request), ()), tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 0
