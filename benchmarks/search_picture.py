"""Hypervolume against evaluations as a picture: a line a sampler, with a band of quartiles.

The axis of shares is logarithmic in what is missing to the whole, so that 0.99 and 0.999 are told
apart as 0.9 and 0.99 are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from known_problems import Floats

from nas.report.picture import save_figure

COLORS = ("#1f5fa8", "#d9822b", "#3d8f5f", "#a03030", "#7a5fa8", "#8a6a4f", "#4f5b6b", "#c06090")
POINTS = 60
"""Numbers of evaluations at which a line has a point, at most."""
FIRST = 5
"""The first of them."""
NEAREST = 1e-4
"""What is missing less than this is drawn as this."""

Curves = dict[str, tuple[list[int], Floats]]
"""Sampler -> numbers of evaluations, and shares of the hypervolume (seeds, numbers)."""


def drawn_at(evaluations: int) -> list[int]:
    """Numbers of evaluations up to this one, evenly spaced on a logarithmic axis."""
    points = np.geomspace(min(FIRST, evaluations), evaluations, POINTS)
    return [int(n) for n in np.unique(points.astype(np.int64))]


def draw(path: Path, curves: Curves, title: str, goal: float | None = None) -> None:
    """Draw medians and quartiles.

    Args:
        path: of the PNG.
        curves: to be drawn.
        title: above them.
        goal: a share to be marked across.

    Raises:
        ExportError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(7, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (sampler, (evaluations, share)) in enumerate(curves.items()):
        missing = np.maximum(1 - np.quantile(share, [0.25, 0.5, 0.75], axis=0), NEAREST)
        color = COLORS[i % len(COLORS)]
        axes.plot(evaluations, missing[1], color=color, label=sampler, linewidth=1.4)
        axes.fill_between(evaluations, missing[0], missing[2], color=color, alpha=0.15, linewidth=0)
    if goal is not None:
        axes.axhline(
            max(1 - goal, NEAREST), color="#202020", linestyle="--", linewidth=0.8, label="goal"
        )
    axes.set(xscale="log", xlabel="evaluations")
    axes.set(yscale="log", ylabel="share of the hypervolume")
    axes.invert_yaxis()
    shown = (lambda n, _: f"{n:g}"), (lambda missing, _: f"{1 - missing:.6g}")
    for axis, show in zip((axes.xaxis, axes.yaxis), shown, strict=True):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(show))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.set_title(title, fontsize=10)
    axes.legend(loc="lower right", fontsize=8, framealpha=0.9, edgecolor="none")
    save_figure(figure, path)
