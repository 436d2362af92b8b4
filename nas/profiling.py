"""Measuring this machine: ops, networks, energy and state, and the profile that comes of it."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import NormalDist

import numpy as np
import onnx

from hw_profiles.energy import open_meter
from hw_profiles.errors import MeasureError, ProfileError
from hw_profiles.harness import Harness, require_harness
from hw_profiles.machine import affinity, this_cpu
from hw_profiles.nvml import THROTTLES, open_gpu
from hw_profiles.op import Op
from hw_profiles.profile import (
    Anchor,
    Device,
    DeviceProfile,
    Energy,
    Environment,
    NetworkModel,
    NetworkTiming,
    OpTiming,
    PowerSource,
    Runtime,
    Timing,
)
from hw_profiles.profiler import (
    ENERGY_S,
    ENERGY_WINDOWS,
    Job,
    Process,
    Progress,
    Readings,
    idle_job,
    measure,
    measure_energy,
    model_job,
    op_job,
    op_timings,
    timing,
)
from hw_profiles.runtimes.stopwatch import WARM_UP_RULE
from hw_profiles.watch import Watch
from nas.probes import Networks, architectures, chosen_spaces, wanted_ops
from nas.request import require_batch_size
from predictors.energy_network import fit_energy_model
from predictors.network import FEWEST_NETWORKS, fit_network_model, fit_space_models

PROCESSES = 4
TIME_LIMIT_S = 110.0
#: Shares of the time limit after which no further network is exported, and all measuring ends.
EXPORT_SHARE, MEASURE_SHARE = 0.4, 0.95
#: Share of the time limit for energy, where it can be measured.
ENERGY_SHARE = 0.3
#: Architectures of a space that get timed as whole networks, and of them those kept out of fits.
ARCHITECTURES, FEWEST_ARCHITECTURES, HELD_OUT_EVERY = 16, 4, 4
#: Standard deviation of the log by which a CPU is slower minutes after its profile, beyond what the
#: profile's processes differ by: of twenty fronts on a shared machine (benchmarks/README.md).
#: A quieter machine's bounds are wider than they need be by about as much.
SESSIONS_APART = 0.03
#: Values that stand for that distribution, and for that of all that a later reading may differ by.
NODES, QUANTILES = 9, 199
#: Seconds for the models of a front: all of them, and one in one process. Networks of a millisecond
#: take a twentieth of it; each must be read once, which is six calls.
LEAST_LIMIT_S, MODEL_LIMIT_S = 60.0, 5.0
#: Packages whose versions a profile names, the runtime's own first; PyTorch's unless given.
PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnx", "torch"),
    "openvino": ("openvino", "onnx", "torch"),
}


def _quiet(text: str, share: float) -> None:
    """The progress of a caller that does not listen."""


def profile_device(
    name: str,
    harness: Harness,
    out: Path | None = None,
    *,
    batch_size: int = 1,
    spaces: Sequence[str] | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    processes: int = PROCESSES,
    progress: Progress = _quiet,
    seed: int = 0,
    process: Process | None = None,
) -> DeviceProfile:
    """Measure a device of this machine in a runtime: times, energy where it can be read, state.

    Args:
        name: of the profile.
        harness: the device and the runtime.
        out: file to write it to.
        batch_size: examples per forward pass.
        spaces: `family` or `family:preset`; all registered ones unless given.
        time_limit_s: for everything; a busy machine gets fewer networks.
        processes: that measure, one after another.
        progress: told a line and the share done.
        seed: of what is drawn.
        process: runs the requests, in real processes unless given.

    Raises:
        UsageError: if an argument is out of range.
        NotFoundError: if a space is unknown.
        MeasureError: if there is no such device, a measuring process fails, or the time was too
            short to measure anything.
        ProfileError: if `out` cannot be written.
    """
    require_batch_size(batch_size)
    device = require_device(harness)
    begin = time.monotonic()
    rng = np.random.default_rng(seed)
    asked = chosen_spaces(spaces)
    ops = wanted_ops(asked, harness.precisions, batch_size, rng)
    with tempfile.TemporaryDirectory() as folder, Watch(harness.device) as watch:
        networks = Networks(harness, batch_size, harness.precisions, Path(folder))
        drawn = [
            (space, architectures(space, ARCHITECTURES, rng)) for space, whole in asked if whole
        ]
        for i, (space, archs) in itertools.product(range(ARCHITECTURES), drawn):
            spent = (time.monotonic() - begin) / time_limit_s
            if spent > EXPORT_SHARE and i >= FEWEST_ARCHITECTURES:
                break
            if spent > MEASURE_SHARE:
                raise _too_short(time_limit_s)
            progress(f"networks: {len(networks.jobs)}", spent)
            networks.add(space, archs[i], i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1, rng)
        op_jobs = [op_job(op, harness) for op in ops]
        with open_meter(harness.device) as meter:
            energy_s = ENERGY_SHARE * time_limit_s if meter.available else 0.0
            power = PowerSource(method=meter.method, why_not=meter.why_not)
        left = MEASURE_SHARE * time_limit_s - (time.monotonic() - begin) - energy_s
        if left <= 0:
            raise _too_short(time_limit_s)
        spent = (time.monotonic() - begin) / time_limit_s
        readings = measure(
            [idle_job(harness), *networks.jobs, *op_jobs],
            harness,
            processes=processes,
            time_limit_s=left,
            seed=seed,
            progress=lambda text, share: progress(text, spent + (1 - spent) * share),
            process=process,
        )
        energies: dict[int, Energy] = {}
        if energy_s:
            jobs = [*networks.jobs, *op_jobs]
            classes = [(op.kind, op.precision) for op in ops]
            order = energy_order(len(networks.jobs), classes, rng)
            power, found = measure_energy(
                [jobs[i] for i in order], harness, time_limit_s=energy_s, process=process
            )
            energies = {i: e for i, e in zip(order, found, strict=True) if e is not None}
    environment = Environment(
        affinity=affinity(),
        threads=harness.threads,
        driver=watch.driver,
        power_limit_w=watch.power_limit_w,
        timer=readings.timer,
        warm_up=WARM_UP_RULE,
        l2_flushed=harness.flush_l2,
        states=watch.states(readings.began_s),
    )
    profile = _assemble(
        name,
        device,
        harness,
        batch_size,
        ops,
        op_jobs,
        networks,
        readings,
        energies,
        power,
        time_limit_s,
    ).model_copy(update={"environment": environment})
    progress("done", 1.0)
    if out is not None:
        profile.save(out)
    return profile


def _too_short(time_limit_s: float) -> MeasureError:
    """The error of a machine that is too slow, or too busy, for the time allowed."""
    return MeasureError(
        f"{time_limit_s:.0f} s were too short to measure enough on this machine.",
        f"Wait until it is less busy, or allow more: `nas profile --time "
        f"{np.ceil(5 * time_limit_s / 60):.0f}m`.",
    )


def require_device(harness: Harness) -> Device:
    """The device that a harness measures.

    Raises:
        MeasureError: if it is not here, or the runtime is not or cannot use it.
    """
    if harness.runtime == "openvino" and find_spec("openvino") is None:
        raise MeasureError(
            "OpenVINO is not installed.", "Install frontier-nas[openvino], or take onnxruntime."
        )
    if harness.kind == "cpu":
        return this_cpu()
    with open_gpu(harness.index) as gpu:
        device = gpu.device()
    import torch

    if not torch.cuda.is_available():
        raise MeasureError(
            f"PyTorch {torch.__version__} cannot use {device.name}.",
            "Install a CUDA build of PyTorch that this driver runs.",
        )
    return device


def energy_order(
    n_networks: int, classes: Sequence[Hashable], rng: np.random.Generator
) -> list[int]:
    """In which order the energy of networks and ops is measured: one of each in turn, drawn.

    Args:
        n_networks: the first indices.
        classes: of each op, in order; one of every class comes before a second of any.
        rng: that draws.
    """
    networks = rng.permutation(n_networks).tolist()
    ops = rng.permutation(len(classes)).tolist()
    first = list({classes[i]: i for i in reversed(ops)}.values())
    ops = [*first, *(i for i in ops if i not in first)]
    both = itertools.zip_longest(networks, [n_networks + i for i in ops])
    return [i for pair in both for i in pair if i is not None]


def _energy_model(
    ops: Sequence[OpTiming],
    networks: Sequence[NetworkTiming],
    drift: Sequence[float],
    power: PowerSource,
) -> tuple[NetworkModel | None, PowerSource]:
    """How energy is predicted from what was metered; or None, and the source with the reason."""
    if power.why_not:
        return None, power
    try:
        return fit_energy_model(ops, networks, drift), power
    except ProfileError as error:
        n_classes = len({(op.kind, op.precision) for op in ops})
        kept_out = HELD_OUT_EVERY / (HELD_OUT_EVERY - 1)
        metered = 2 * max(int(np.ceil((FEWEST_NETWORKS + 2) * kept_out)), n_classes)
        wanted_s = 1.2 * metered * ENERGY_WINDOWS * ENERGY_S / ENERGY_SHARE
        why = (
            f"too little was metered to predict it: {error.message.rstrip('.')}; allow more with "
            f"`nas profile --time {np.ceil(wanted_s / 60):.0f}m`"
        )
        return None, power.model_copy(update={"why_not": why})


def _assemble(
    name: str,
    device: Device,
    harness: Harness,
    batch_size: int,
    ops: list[Op],
    op_jobs: list[Job],
    networks: Networks,
    readings: Readings,
    energies: dict[int, Energy],
    power: PowerSource,
    time_limit_s: float,
) -> DeviceProfile:
    n = len(networks.jobs)
    if not readings.jobs[0]:
        raise _too_short(time_limit_s)
    precisions = list(networks.precisions)
    idle = statistics.median(r.seconds for r in readings.jobs[0])
    idle_s = 0.0 if harness.replays_ops else idle
    reached = [n + i for i, found in enumerate(readings.jobs[1 + n :]) if found]
    timed_ops = [
        timed.model_copy(update={"energy": energies.get(i)})
        for i, timed in zip(
            reached, op_timings(ops, op_jobs, readings.jobs[1 + n :], idle_s), strict=True
        )
    ]
    timed, drift, drift_of_one = [], [], []
    for i, (probe, found) in enumerate(zip(networks.probes, readings.jobs[1 : 1 + n], strict=True)):
        if not found:
            continue
        timed.append(
            NetworkTiming(
                space=probe.space.name,
                preset=probe.space.preset,
                candidate={**probe.candidate.architecture, **probe.candidate.policy},
                batch_size=batch_size,
                ops=[
                    (o.kind, o.shape, o.precision)
                    for o in probe.workload(batch_size, precisions[0])
                ],
                timing=timing(found),
                energy=energies.get(i),
                held_out=probe.held_out,
            )
        )
        middle = statistics.median(r.seconds for r in found)
        # what is fitted is the median over these processes, what is verified that over as many
        # others: each drifts less than one process, and the two differ by both drifts
        differ = (2 / len(found)) ** 0.5
        apart = [float(np.log(r.seconds / middle)) for r in found]
        drift += [differ * a for a in apart]
        drift_of_one += [2**0.5 * a for a in apart]  # energy is metered in a single process
    wander = _wander(readings.anchor, SESSIONS_APART if harness.kind == "cpu" else 0.0)
    moved, moved_of_one = (  # thousands of sums by as many of their quantiles as tell them apart
        np.quantile(np.add.outer(d, wander), (np.arange(QUANTILES) + 0.5) / QUANTILES).tolist()
        for d in (drift or [0.0], drift_of_one or [0.0])
    )
    within = statistics.median(t.timing.spread_within for t in timed) if timed else 0.0
    between = statistics.median(t.timing.spread_between for t in timed) if timed else 0.0
    packages = PACKAGES.get(harness.runtime, ("torch",))
    where = f"{harness.threads} thread(s)" if harness.kind == "cpu" else harness.device
    energy, power = _energy_model(timed_ops, timed, moved_of_one, power)
    return DeviceProfile(
        name=name,
        device=device,
        runtime=Runtime(
            name=harness.runtime,
            version=version(packages[0]),
            native=harness.native,
            threads=harness.threads,
        ),
        precisions=precisions,
        network=fit_network_model(timed_ops, timed, moved),
        space_networks=fit_space_models(timed_ops, timed, moved),
        energy=energy,
        power=power,
        ops=timed_ops,
        networks=timed,
        anchor=readings.anchor,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={p: version(p) for p in packages},
        notes=[
            f"{readings.processes} processes, {where}, batch size {batch_size}, "
            f"{time_limit_s:.0f} s allowed",
            f"noise of a network: {within:.1%} between repeats in a process, "
            f"{between:.1%} between processes (medians over {len(timed)} networks)",
        ],
    )


def _wander(anchor: Anchor, spread: float = 0.0) -> list[float]:
    """Log ratios by which a later session may be slower than this one.

    A machine's own speed wanders over minutes, for all of a session's processes alike: at least as
    much as one process differs from another. One that a busy neighbour slowed throughout says
    nothing of it.

    Args:
        anchor: of the session.
        spread: standard deviation of what sessions differ by beyond that.
    """
    calm = np.log([level for level in anchor.levels if level <= anchor.slow_above])
    apart = [later - now for later, now in itertools.permutations(calm, 2)] or [0.0]
    shares = (np.arange(NODES) + 0.5) / NODES
    beyond = [spread * NormalDist().inv_cdf(share) for share in shares] if spread else [0.0]
    return [float(among + more) for among in apart for more in beyond]


def describe_profile(profile: DeviceProfile) -> list[str]:
    """What a measured profile states of itself, line by line."""
    runtime = profile.runtime
    where = f"{runtime.threads} thread(s)" if profile.device.kind == "cpu" else runtime.native
    lines = [
        f"{profile.device.name}, {runtime.name} {runtime.version}, {where}",
        f"{len(profile.ops)} ops and {len(profile.networks)} networks timed, precisions "
        f"{', '.join(profile.precisions)}",
        *profile.notes,
        *_conditions(profile),
    ]
    for what, model in (("error", profile.network), ("energy: error", profile.energy)):
        if model is not None and model.error is not None:
            error = model.error
            lines.append(
                f"{what} on {error.rows} networks that were not in the fit: mean {error.mape:.1f}%,"
                f" median {error.median_error:.1f}%, Kendall tau {error.kendall_tau:.3f}, upper "
                f"bound holds for {error.coverage:.0%} (stated {model.coverage:.0%})"
            )
    return lines


def _conditions(profile: DeviceProfile) -> list[str]:
    """Under what the device was measured: drift, throttling, energy."""
    lines = []
    anchor, environment, power = profile.anchor, profile.environment, profile.power
    if anchor is not None and anchor.relative:
        slow = float(np.mean(np.array(anchor.relative) > anchor.slow_above))
        timings = [o.timing for o in profile.ops] + [n.timing for n in profile.networks]
        unstable = sum(t.unstable for t in timings)
        lines.append(
            f"the machine was more than {anchor.slow_above - 1:.0%} slower than undisturbed in "
            f"{slow:.0%} of the anchor's readings; timings are corrected for it, {anchor.retried} "
            f"readings were repeated, {unstable} timings stayed unstable"
        )
    if environment is not None and environment.states.throttled:
        told = [set(reasons) for reasons in environment.states.throttled if reasons is not None]
        reasons = sorted(THROTTLES & set().union(*told))
        shares = [f"{r} in {np.mean([r in t for t in told]):.0%}" for r in reasons]
        lines.append(f"throttled: {', '.join(shares) or 'never'} ({len(told)} readings)")
    if power is not None:
        energies = [o.energy for o in profile.ops] + [n.energy for n in profile.networks]
        counted = sum(e is not None for e in energies)
        idle = "" if power.idle_w is None else f", idle at {power.idle_w:.1f} W"
        read = f"{power.method}, of {counted} ops and networks{idle}" if power.method else ""
        lines.append(f"energy: {'; '.join(filter(None, [read, power.why_not]))}")
    return lines


@dataclass(frozen=True)
class Measured:
    """Models that were timed in one session.

    Attributes:
        timings: one a model, in their order.
        undisturbed_ms: what the anchor took meanwhile, to be compared with a profile's.
    """

    timings: list[Timing]
    undisturbed_ms: float


def measure_models(
    models: Sequence[onnx.ModelProto],
    *,
    threads: int = 1,
    processes: int = 3,
    time_limit_s: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Time ONNX models as `profile_device` times networks of this CPU, in processes of their own.

    Args:
        models: all of them are timed.
        threads: that a network may use.
        processes: that measure, one after another.
        time_limit_s: for all; a minute, or more where there are many models, unless given.
        seed: of their order.
        progress: told a line and the share done.

    Raises:
        MeasureError: if a model cannot be run here, or the time was too short for all of them.
    """
    harness = require_harness("cpu", threads=threads)
    if time_limit_s is None:
        time_limit_s = max(LEAST_LIMIT_S, processes * len(models) * MODEL_LIMIT_S)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.onnx" for i in range(len(models))]
        for path, model in zip(paths, models, strict=True):
            path.write_bytes(model.SerializeToString())
        readings = measure(
            [model_job(path, harness) for path in paths],
            harness,
            processes=processes,
            time_limit_s=time_limit_s,
            seed=seed,
            progress=progress,
        )
    if not all(readings.jobs):
        raise MeasureError(
            f"{time_limit_s:.0f} s were too short to time all {len(models)} networks.",
            "Try again when the machine is less busy, or search under a tighter --budget.",
        )
    return Measured([timing(found) for found in readings.jobs], readings.anchor.undisturbed_ms)
