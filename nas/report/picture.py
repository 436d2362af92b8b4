"""The front as a picture, PNG by Matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from hw_profiles.files import write_atomic
from nas.errors import ExportError
from nas.report.scene import RED, Group, Scene, scenes, title
from nas.study import Study


def save_png(study: Study, path: Path) -> None:
    """Draw all trials, the front, the budget and what was measured, a panel a target.

    Raises:
        ExportError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = scenes(study)
    width = 8 if len(panels) == 1 else 6 * len(panels)
    figure = Figure(figsize=(width, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for at, scene in enumerate(panels, 1):
        draw_scene(scene, figure.add_subplot(1, len(panels), at))
    save_figure(figure, path)


def draw_scene(scene: Scene, axes: Any) -> None:
    """Draw a front on Matplotlib's axes, its legend below them."""
    for group in scene.groups:
        axes.plot(group.x, group.y, label=group.label, **_look(group))
    if scene.log:
        axes.set_xscale("log")
        plain_log(axes.xaxis)
    if scene.limit is not None:
        axes.axvline(scene.limit, color=RED, linestyle="--", linewidth=1, label=scene.budget)
    elif scene.budget is not None:
        axes.plot([], [], " ", label=scene.budget)
    axes.set_xlabel(scene.x_label)
    axes.set_ylabel(scene.y_label)
    axes.set_title(title(scene.study), fontsize=10, parse_math=False)  # a path may have dollars
    axes.grid(alpha=0.25)
    legend_below(axes)


def _look(group: Group) -> dict[str, Any]:
    ring = group.mark == "ring"
    return {
        "color": group.color, "markersize": group.size, "marker": "o" if ring else group.mark,
        "markerfacecolor": "none" if ring else group.color,
        "markeredgewidth": 1.0 if group.mark == "o" else 1.4,
        "linestyle": "-" if group.joined else "none", "linewidth": 1.2,
        "drawstyle": "steps-post" if group.joined else "default",
    }  # fmt: skip


def legend_below(axes: Any) -> None:
    """A legend below the axes' label, where it hides nothing."""
    axes.legend(
        *axes.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, -0.12),
        ncols=2, fontsize=8, edgecolor="none",
    )  # fmt: skip


def plain_log(axis: Any) -> None:
    """Tick labels of a logarithmic axis: plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def save_figure(figure: Any, path: Path) -> None:
    """Write a Matplotlib figure, as PNG unless its name ends otherwise.

    Raises:
        ExportError: if the file cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:] or "png")
    try:
        write_atomic(path, drawn.getvalue())
    except OSError as error:
        raise ExportError(
            f"cannot write the picture {path}: {error.strerror}.", "Choose another --out."
        ) from None
