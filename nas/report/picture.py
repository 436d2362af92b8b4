"""The front as a picture: PNG by Matplotlib, and a page to explore by Plotly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from nas.budget import Budget
from nas.errors import ExportError
from nas.one_target import on_target
from nas.study import OBJECTIVES, Study, front_columns, on_front
from search_spaces.space import SearchSpace

_LABELS = {
    "accuracy": "accuracy on validation (%)",
    "loss": "cross-entropy on validation (nats)",
    "bits_per_byte": "bits per byte on validation",
    "latency": "latency, upper bound (ms)",
    "energy": "energy, upper bound (mJ)",
    "memory": "peak memory (KiB)",
    "params": "parameters",
    "weights": "weights (KiB)",
    "macs": "MACs",
}
_FACTORS = {"accuracy": 100.0, "memory": 1 / 1024, "weights": 1 / 1024}


def _axes(study: Study) -> tuple[str, str]:
    """Objective names for the horizontal and vertical axis; latency where no cost is one."""
    quality = study.metric.name
    return next((name for name in study.objectives if name != quality), "latency"), quality


def _values(trials: list[Any], name: str) -> list[float]:
    column, factor = OBJECTIVES[name][0], _FACTORS.get(name, 1.0)
    return [float(getattr(t, column)) * factor for t in trials]


def _budget(study: Study, name: str) -> tuple[float, Budget] | tuple[None, None]:
    """What an objective is limited to, by the user or by what the device holds, on its axis."""
    for limit in study.record.request.get("limits", []):
        if limit["quantity"] == name:
            budget = Budget(**limit)
            return budget.limit * _FACTORS.get(name, 1.0), budget
    return None, None


def _title(study: Study) -> str:
    r = study.record
    return f"{r.space} ({r.preset}) on {r.target}, batch {r.batch_size}, {r.data}"


def _panels(study: Study) -> list[Study]:
    """What is drawn side by side: the study, or its front as each of several targets sees it."""
    return [on_target(study, label) for label in study.record.targets] or [study]


def _steps(study: Study, trials: list[Any]) -> list[Any]:
    """Of trials from least to most of a cost, those that no other beats in the two axes alone."""
    names = list(_axes(study))
    values = np.array([[t.figure(c) for c in front_columns(names)] for t in trials], float)
    kept = on_front(names, values.reshape(len(trials), len(names)))
    return [trial for trial, keep in zip(trials, kept, strict=True) if keep]


def save_png(study: Study, path: Path) -> None:
    """Draw all trials, the front, the budget and what was measured, a panel a target.

    Raises:
        ExportError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(study)
    width = 8 if len(panels) == 1 else 6 * len(panels)
    figure = Figure(figsize=(width, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for at, seen in enumerate(panels, 1):
        _draw(seen, figure.add_subplot(1, len(panels), at))
    save_figure(figure, path)


def _draw(study: Study, axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    x_name, y_name = _axes(study)
    done = [t for t in study.trials if t.state == "complete"]
    front = study.front_trials()
    numbers = {t.number for t in front}
    rest = [t for t in done if t.number not in numbers and t.feasible]
    over = [t for t in done if not t.feasible]
    axes.scatter(_values(rest, x_name), _values(rest, y_name), s=16, c="#b8c0cc", label="evaluated")
    if over:
        axes.scatter(
            _values(over, x_name), _values(over, y_name), s=18, c="#d9a0a0", marker="x",
            label="over budget",
        )  # fmt: skip
    steps = _steps(study, front)
    axes.step(
        _values(steps, x_name), _values(steps, y_name), where="post", color="#1f5fa8",
        linewidth=1.2,
    )  # fmt: skip
    x, y = _values(front, x_name), _values(front, y_name)
    axes.scatter(x, y, s=34, c="#1f5fa8", zorder=3, label="Pareto front")
    if x_name == "latency":
        factor = _FACTORS.get(y_name, 1.0)
        measured = [(r.latency_ms_measured, r.quality * factor) for r in study.front]
        shown = [(a, b) for a, b in measured if a is not None]
        if shown:
            axes.scatter(
                [a for a, _ in shown], [b for _, b in shown], s=30, facecolors="none",
                edgecolors="#d9822b", linewidths=1.4, zorder=4, label="measured",
            )  # fmt: skip
    everything = _values(done, x_name)
    if everything and min(everything) > 0 and max(everything) / min(everything) > 3:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    limit, budget = _budget(study, x_name)
    if limit is not None and everything:
        if limit <= max(everything) * 1.5:
            axes.axvline(limit, color="#a03030", linestyle="--", linewidth=1, label="budget")
        else:
            axes.plot([], [], " ", label=f"budget {budget} is far right: it does not bind")
    axes.set_xlabel(_LABELS[x_name])
    axes.set_ylabel(_LABELS[y_name])
    axes.set_title(_title(study), fontsize=10, parse_math=False)  # a path may have dollar signs
    axes.grid(alpha=0.25)
    axes.legend(
        loc="lower right" if study.metric.larger_is_better else "upper right",
        fontsize=8, framealpha=0.9, edgecolor="none",
    )  # fmt: skip


def save_figure(figure: Any, path: Path) -> None:
    """Write a Matplotlib figure as PNG.

    Raises:
        ExportError: if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise ExportError(
            f"cannot write the picture {path}: {error.strerror}.", "Choose another --out."
        ) from None


def save_html(study: Study, space: SearchSpace, describe_policy: Any, path: Path) -> None:
    """A page of its own with the same picture to explore, and the table of the front.

    Raises:
        ExportError: if the file cannot be written.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = _panels(study)
    alone = len(panels) == 1
    figure = make_subplots(
        rows=2, cols=len(panels), row_heights=[0.6, 0.4], vertical_spacing=0.1,
        specs=[
            [{"type": "xy"}] * len(panels),
            [{"type": "table", "colspan": len(panels)}, *[None] * (len(panels) - 1)],
        ],
        subplot_titles=None if alone else [seen.record.target for seen in panels],
    )  # fmt: skip
    for col, seen in enumerate(panels, 1):
        _plot(seen, figure, col, space, describe_policy)
    cells = _cells(study, panels, space, describe_policy)
    wide = {"trial": 1, study.metric.title: 1.3, "test": 1.2, "latency ms": 1.3, "bound ms": 1.3,
            "architecture": 4, "policy": 4}  # fmt: skip
    figure.add_trace(
        go.Table(
            header={"values": list(cells), "align": "left"},
            cells={"values": list(cells.values()), "align": "left"},
            columnwidth=[wide.get(name, 1.6) for name in cells],
        ),
        row=2, col=1,
    )  # fmt: skip
    figure.update_layout(title=_title(study), template="plotly_white", height=950)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.write_html(path, include_plotlyjs=True, full_html=True)
    except OSError as error:
        raise ExportError(
            f"cannot write the page {path}: {error.strerror}.", "Choose another --out."
        ) from None


def _plot(study: Study, figure: Any, col: int, space: SearchSpace, describe_policy: Any) -> None:
    """All trials of a study on one target and its front, in a column of a page."""
    import plotly.graph_objects as go

    x_name, y_name = _axes(study)
    done = [t for t in study.trials if t.state == "complete"]
    front = study.front_trials()
    steps = _steps(study, front)
    numbers, upper = {t.number for t in front}, {t.number for t in steps}
    metric = study.metric

    def hover(trial: Any) -> str:
        energy = ""
        if trial.energy_mj is not None:
            energy = f"energy {trial.energy_mj:.4g} mJ, bound {trial.energy_mj_upper:.4g} mJ<br>"
        return (
            f"<b>trial {trial.number}</b><br>{space.describe(trial.architecture)}<br>"
            f"{describe_policy(trial.policy)}<br>{metric.title} {metric.format(trial.quality)}<br>"
            f"latency {trial.latency_ms:.4g} ms, bound {trial.latency_ms_upper:.4g} ms<br>{energy}"
            f"{trial.params:,} parameters, {trial.memory_bytes / 1024:.0f} KiB"
        )

    groups = [
        ("evaluated", [t for t in done if t.number not in numbers], "markers", "#b8c0cc", 7),
        ("Pareto front", steps, "lines+markers", "#1f5fa8", 10),
    ]
    further = [t for t in front if t.number not in upper]
    if further:
        groups.append(("on it for another objective", further, "markers", "#1f5fa8", 7))
    for label, trials, mode, color, size in groups:
        figure.add_trace(
            go.Scatter(
                x=_values(trials, x_name), y=_values(trials, y_name), mode=mode, name=label,
                marker={"color": color, "size": size}, line={"shape": "hv", "color": color},
                text=[hover(t) for t in trials], hoverinfo="text", showlegend=col == 1,
            ),
            row=1, col=col,
        )  # fmt: skip
    x_all = _values(done, x_name)
    log = bool(x_all) and min(x_all) > 0 and max(x_all) / min(x_all) > 3
    figure.update_xaxes(title=_LABELS[x_name], type="log" if log else "linear", row=1, col=col)
    figure.update_yaxes(title=_LABELS[y_name], row=1, col=col)
    limit, _ = _budget(study, x_name)
    if limit is not None and x_all and limit <= max(x_all) * 1.5:
        figure.add_vline(x=math.log10(limit) if log else limit, line_dash="dash", row=1, col=col)


def _cells(
    study: Study, panels: list[Study], space: SearchSpace, describe_policy: Any
) -> dict[str, list[Any]]:
    """The columns of the table of a front; each of several targets has its own."""
    rows, metric = study.front, study.metric
    cells: dict[str, list[Any]] = {
        "trial": [r.trial for r in rows],
        metric.title: [metric.format(r.quality) for r in rows],
        "test": ["-" if r.quality_test is None else metric.format(r.quality_test) for r in rows],
    }
    for seen in panels:
        of_trial = {r.trial: r for r in seen.front}
        own = [of_trial[r.trial] for r in rows]
        columns = {
            "latency ms": [f"{r.latency_ms:.4g}" for r in own],
            "bound ms": [f"{r.latency_ms_upper:.4g}" for r in own],
            "measured ms": [
                "-" if r.latency_ms_measured is None else f"{r.latency_ms_measured:.4g}"
                for r in own
            ],
        }
        if seen.has_energy:
            columns["energy mJ"] = [f"{r.energy_mj:.4g}" for r in own]
            columns["energy bound mJ"] = [f"{r.energy_mj_upper:.4g}" for r in own]
        columns["memory KiB"] = [f"{r.memory_bytes / 1024:.0f}" for r in own]
        before = f"{seen.record.target}, " if len(panels) > 1 else ""
        cells |= {before + name: values for name, values in columns.items()}
    return cells | {
        "parameters": [f"{r.params:,}" for r in rows],
        "architecture": [space.describe(r.architecture) for r in rows],
        "policy": [describe_policy(r.policy) for r in rows],
    }
