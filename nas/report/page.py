"""The front as a page to explore, by Plotly: the picture over the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hw_profiles.files import write_atomic
from nas.budget import format_quantity
from nas.errors import ExportError
from nas.report.scene import RED, Group, Scene, scenes, title
from nas.report.table import front_table
from nas.storage.records import TrialRecord
from nas.study import Study
from search_spaces.space import SearchSpace

_SYMBOLS = {"o": "circle", "x": "x", "ring": "circle-open"}
_PIXELS = 1.6  # of a point of print


def save_html(study: Study, space: SearchSpace, describe_policy: Any, path: Path) -> None:
    """A page of its own with the same picture to explore, and the table of the front.

    Raises:
        ExportError: if the file cannot be written.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = scenes(study)
    figure = make_subplots(
        rows=2, cols=len(panels), row_heights=[0.6, 0.4], vertical_spacing=0.1,
        specs=[
            [{"type": "xy"}] * len(panels),
            [{"type": "table", "colspan": len(panels)}, *[None] * (len(panels) - 1)],
        ],
        subplot_titles=[p.study.record.target for p in panels] if len(panels) > 1 else None,
    )  # fmt: skip

    def describe(trial: Any) -> tuple[str, str]:
        return space.describe(trial.architecture), describe_policy(trial.policy)

    for col, scene in enumerate(panels, 1):
        _plot(scene, figure, col, describe)
    # Traces of one name, a panel each, are one entry of the legend.
    named: set[str] = set()
    for trace in figure.data:
        trace.update(legendgroup=trace.name, showlegend=trace.name not in named)
        named.add(trace.name)
    columns = front_table(study, describe).columns
    figure.add_trace(
        go.Table(
            header={"values": [c.title.replace("\n", ", ") for c in columns], "align": "left"},
            cells={"values": [c.cells for c in columns], "align": "left"},
            columnwidth=[1 if c.figures else 3 for c in columns],
        ),
        row=2, col=1,
    )  # fmt: skip
    figure.update_layout(title=title(study), template="plotly_white", height=950)
    page = figure.to_html(include_plotlyjs=True, full_html=True)
    try:
        write_atomic(path, page.encode())
    except OSError as error:
        raise ExportError(
            f"cannot write the page {path}: {error.strerror}.", "Choose another --out."
        ) from None


def _plot(scene: Scene, figure: Any, col: int, describe: Callable[[Any], tuple[str, str]]) -> None:
    """A front on one target, in a column of a page."""
    import plotly.graph_objects as go

    where = {"row": 1, "col": col}
    measured = {row.trial: row.latency_ms_measured for row in scene.study.front}
    for group in scene.groups:
        texts = [_hover(t, scene.study, measured.get(t.number), describe(t)) for t in group.trials]
        figure.add_trace(
            go.Scatter(x=group.x, y=group.y, text=texts, hoverinfo="text", **_look(group)), **where
        )
    figure.update_xaxes(title=scene.x_label, type="log" if scene.log else "linear", **where)
    figure.update_yaxes(title=scene.y_label, **where)
    if scene.budget is None:
        return
    line = {"color": RED, "dash": "dash", "width": 0 if scene.limit is None else 1}
    figure.add_trace(  # of no points: for the legend
        go.Scatter(x=[None], y=[None], mode="lines", line=line, name=scene.budget), **where
    )
    if scene.limit is not None:  # of a shape, on a logarithmic axis too, the value itself
        figure.add_vline(x=scene.limit, line=line, **where)


def _look(group: Group) -> dict[str, Any]:
    return {
        "name": group.label,
        "mode": "lines+markers" if group.joined else "markers",
        "marker": {
            "color": group.color, "size": _PIXELS * group.size, "symbol": _SYMBOLS[group.mark],
            "line": {"width": 2 if group.mark == "ring" else 0},
        },
        "line": {"shape": "hv", "color": group.color},
    }  # fmt: skip


def _hover(
    trial: TrialRecord, study: Study, measured: float | None, described: tuple[str, str]
) -> str:
    """What a page says of the network under the pointer."""

    def shown(quantity: str, value: float | None) -> str:
        return format_quantity(quantity, value or 0.0)

    latency = f"latency {shown('latency', trial.latency_ms)}"
    latency += f", bound {shown('latency', trial.latency_ms_upper)}"
    if measured is not None:
        latency += f", measured {shown('latency', measured)}"
    lines = [f"<b>trial {trial.number}</b>", *described]
    lines += [f"{study.metric.title} {study.metric.format(trial.quality or 0.0)}", latency]
    if trial.energy_mj is not None:
        energy = shown("energy", trial.energy_mj)
        lines.append(f"energy {energy}, bound {shown('energy', trial.energy_mj_upper)}")
    memory = shown("memory", trial.memory_bytes)
    return "<br>".join([*lines, f"{trial.params:,} parameters, {memory}"])
