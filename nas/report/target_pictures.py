"""Device profiles as pictures: how good one is, and how two compare. By Matplotlib."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_profiles.profile import DeviceProfile, NetworkTiming
from nas.comparison import Compared
from nas.errors import UsageError
from nas.report.picture import legend_below, plain_log, save_figure
from nas.report.scene import BLUE, ORANGE, RED
from predictors.latency import latency_predictor
from predictors.measured_ops import FOLDS, errors_of_ops

Floats = NDArray[np.float64]
_GREY = "#8a93a0"
_COLORS = (BLUE, ORANGE, "#3a8a4d", "#8a4fa8", RED, _GREY)


def save_profile(profile: DeviceProfile, path: Path) -> None:
    """Draw what a profile knows of its own errors.

    Whole networks, predicted against measured with bounds; errors by kind of op; the anchor's
    readings over the session. What it has no figures of gets no panel; a line says why.

    Raises:
        UsageError: if it has no figures at all, as one derived from a sheet.
        ExportError: if the file cannot be written.
        ProfileError: if the profile's numbers are broken.
    """
    has_networks = bool(profile.networks) and profile.network is not None
    judged = max(Counter((o.kind, o.precision) for o in profile.ops).values(), default=0) >= FOLDS
    has_ops = judged or any(m.error is not None for m in profile.op_models)
    has_drift = profile.anchor is not None and bool(profile.anchor.relative)
    panels = (
        (_draw_networks, has_networks, "no whole network was timed"),
        (_draw_ops, has_ops, "too few ops were timed on this device"),
        (_draw_drift, has_drift, "no anchor was read"),
    )
    drawn = [draw for draw, has, _ in panels if has]
    if not drawn:
        raise UsageError(
            f"nothing of {profile.name} was compared with timings: there are no errors to draw.",
            f"Draw it beside another target: `nas targets compare {profile.name} a100 --out DIR`.",
        )
    figure, all_axes = _figure(len(drawn))
    for draw, axes in zip(drawn, all_axes, strict=True):
        draw(profile, axes)
    runtime = f"{profile.runtime.name} {profile.runtime.version}".strip()
    figure.suptitle(f"{profile.name}: {profile.device.name}, {runtime}", fontsize=11)
    figure.supxlabel("; ".join(why for _, has, why in panels if not has), fontsize=9, color=_GREY)
    save_figure(figure, path)


def save_comparison(compared: Compared, path: Path) -> None:
    """Draw the same networks on two targets, with their upper bounds.

    Raises:
        ExportError: if the file cannot be written.
    """
    figure, (axes,) = _figure(1)
    for color, space in zip(_COLORS * len(compared.spaces), compared.spaces, strict=False):
        (x, x_upper), (y, y_upper) = space.first.T, space.second.T
        axes.errorbar(
            x, y, xerr=[np.zeros_like(x), x_upper - x], yerr=[np.zeros_like(y), y_upper - y],
            fmt="o", markersize=4, color=color, alpha=0.7, elinewidth=0.6, label=space.space,
        )  # fmt: skip
    _equal_line(axes)
    axes.set_xlabel(f"latency on {compared.names[0]} (ms), line to its upper bound")
    axes.set_ylabel(f"latency on {compared.names[1]} (ms), line to its upper bound")
    legend_below(axes)
    save_figure(figure, path)


def _draw_networks(profile: DeviceProfile, axes: Any) -> None:
    assert profile.network is not None
    axes.set_title("whole networks", fontsize=10)
    networks, predicted, upper = _as_calibrated(profile)
    measured = np.array([n.timing.median_ms for n in networks])
    held_out = np.array([n.held_out for n in networks])
    beyond = 100 * (measured / predicted - 1)
    for mask, color, label in (
        (~held_out, _GREY, "in the fit"),
        (held_out, BLUE, "kept out of it"),
    ):
        axes.plot(measured[mask], beyond[mask], "o", markersize=4, color=color, label=label)
    order = np.argsort(measured)
    axes.plot(
        measured[order], 100 * (upper / predicted - 1)[order], color=ORANGE,
        linestyle="none" if profile.space_networks else "-", linewidth=1.2,
        marker="_" if profile.space_networks else "", markersize=6,
        label=f"{profile.network.coverage:.0%} upper bound",
    )  # fmt: skip
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.set_xscale("log")
    plain_log(axes.xaxis)
    axes.set_xlabel("measured (ms)")
    axes.set_ylabel("measured above the prediction (%)")
    axes.legend(fontsize=8, edgecolor="none")


def _as_calibrated(profile: DeviceProfile) -> tuple[list[NetworkTiming], Floats, Floats]:
    """The timed networks with predictions and bounds in ms, (n,), as a search of each space has."""
    networks: list[NetworkTiming] = []
    predicted, upper = [], []
    for space, preset in dict.fromkeys((n.space, n.preset) for n in profile.networks):
        own = [n for n in profile.networks if (n.space, n.preset) == (space, preset)]
        predictor = latency_predictor(profile.calibrated_for(space, preset))
        features = [predictor.op_features(n.workload()).sum(axis=0) for n in own]
        mean, bound = predictor.predict(np.array(features))
        networks += own
        predicted.append(mean)
        upper.append(bound)
    return networks, np.concatenate(predicted), np.concatenate(upper)


def _draw_ops(profile: DeviceProfile, axes: Any) -> None:
    axes.set_title("error by kind of op, on timings kept out of a fit", fontsize=10)
    errors = errors_of_ops(profile.ops)
    if errors:
        labels = [f"{kind} {precision}" for kind, precision in errors]
        boxes = [100 * e for e in errors.values()]
        axes.boxplot(
            boxes, orientation="horizontal", tick_labels=labels, showfliers=False,
            medianprops={"color": BLUE},
        )  # fmt: skip
        axes.set_xlabel("error (%), quartiles of ops of that kind")
    else:
        known = [m for m in profile.op_models if m.error is not None]
        labels = [f"{m.kind} {m.precision} ({m.provenance})" for m in known]
        axes.barh(labels, [m.error.mape for m in known if m.error], color=BLUE)
        axes.set_xlabel("mean absolute error (%)")
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()


def _draw_drift(profile: DeviceProfile, axes: Any) -> None:
    axes.set_title("speed of the machine while it was measured", fontsize=10)
    anchor = profile.anchor
    assert anchor is not None
    slower = 100 * (np.array(anchor.relative) - 1)
    axes.plot(anchor.times_s, slower, ".", color=BLUE, markersize=2)
    axes.axhline(100 * (anchor.slow_above - 1), color=_GREY, linewidth=0.8, linestyle="--")
    for start in anchor.starts[1:]:
        axes.axvline(anchor.times_s[start], color=_GREY, linewidth=0.8)
    axes.set_yscale("symlog", linthresh=10)  # a busy moment takes several times as long
    axes.set_yticks([0, 5, 10, 100, 1000, 10_000])
    axes.set_ylim(min(-5.0, slower.min()), 1.3 * max(10.0, slower.max()))  # ticks widen it
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.set_xlabel("seconds; a line where the next process begins")
    axes.set_ylabel("slower than undisturbed (%)")


def _figure(panels: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * panels + 0.6, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    for axes in all_axes:
        axes.grid(alpha=0.25)
    return figure, all_axes


def _equal_line(axes: Any) -> None:
    """Logarithmic axes and the line on which both are equal."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    low = max(axes.get_xlim()[0], axes.get_ylim()[0])
    high = min(axes.get_xlim()[1], axes.get_ylim()[1])
    if low < high:
        axes.plot(
            [low, high], [low, high], color=RED, linewidth=0.8, linestyle="--",
            label="equally fast",
        )  # fmt: skip
