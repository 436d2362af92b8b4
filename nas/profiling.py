"""Measuring this machine: which ops and networks are timed, and the profile that comes of it."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

import search_spaces
from hw_profiles.errors import MeasureError, UsageError
from hw_profiles.machine import this_cpu
from hw_profiles.op import Op
from hw_profiles.profile import DeviceProfile, NetworkTiming, Runtime, Timing
from hw_profiles.profiler import (
    Job,
    Progress,
    Readings,
    idle_job,
    measure,
    model_job,
    network_job,
    op_job,
    op_timings,
    timing,
)
from nas.candidate import Candidate, CandidateSpace
from nas.quantization.schemes import schemes_of
from predictors.network import fit_network_model
from search_spaces.choices import Value
from search_spaces.space import SearchSpace

PROCESSES = 4
#: Slowness of the anchor that is worth telling.
DISTURBED = 1.1
#: Shares of the time limit after which no further network is exported, and all measuring ends.
EXPORT_SHARE, MEASURE_SHARE = 0.4, 0.95
#: Architectures of a space that get timed as whole networks, and of them those kept out of fits.
ARCHITECTURES, HELD_OUT_EVERY = 16, 4
#: Ops of a preset other than a family's default, and MACs above which an op is left out.
OTHER_OPS, MOST_MACS = 40, 4_000_000_000


@dataclass(frozen=True)
class Probe:
    """A network to time: the candidate and its ops."""

    space: SearchSpace
    candidate: Candidate
    held_out: bool

    def workload(self, batch_size: int, native: str) -> list[Op]:
        """Its ops in the precisions of its policy."""
        policy = self.candidate.policy
        return [
            o.op.at(policy.get(f"{block.name}.{o.group}", native) if o.group else native)
            for block, o in self.space.workload(self.candidate.architecture, batch_size)
        ]


# --- what is timed ------------------------------------------------------------------------------


def chosen_spaces(names: Sequence[str] | None) -> list[tuple[SearchSpace, bool]]:
    """Spaces by `family` or `family:preset`, each with whether it is covered wholly.

    All presets of all families unless named. A family's first preset is covered wholly, and so is
    one that is named.

    Raises:
        NotFoundError: if there is no such family or preset.
    """
    found = []
    families = search_spaces.names()
    for name in names if names is not None else families:
        family, _, preset = name.partition(":")
        presets = families[family][1] if family in families and not preset else (preset or None,)
        for i, p in enumerate(presets):
            found.append((search_spaces.get(family, p), i == 0))
    return found


def ops_of(space: SearchSpace, precisions: Sequence[str], batch_size: int) -> list[Op]:
    """Every distinct op that a space asks for, its layer groups in each precision."""
    found: dict[Op, None] = {}
    for block in {b.kind: b for b in space.blocks}.values():
        axes = [space.choices.choices[space.choices.index(n)].values for n in block.reads]
        for values in itertools.product(*axes):
            for layer_op in space.ops(block.kind, batch_size, *values):
                for precision in precisions if layer_op.group else precisions[:1]:
                    found[layer_op.op.at(precision)] = None
    return list(found)


def wanted_ops(
    spaces: Sequence[tuple[SearchSpace, bool]],
    precisions: Sequence[str],
    batch_size: int,
    rng: np.random.Generator,
) -> list[Op]:
    """All ops of the spaces covered wholly, and a spread over the sizes of the others."""
    found: dict[Op, None] = {}
    for space, whole in spaces:
        ops = ops_of(space, precisions, batch_size)
        if not whole:
            ops = [op for op in ops if op.macs <= MOST_MACS]
            linear = sorted((o for o in ops if o.kind == "linear"), key=lambda o: o.macs)
            rest = [o for o in ops if o.kind != "linear"]
            drawn = rng.permutation(len(rest))[: OTHER_OPS // 2]
            spread = np.linspace(0, len(linear) - 1, OTHER_OPS // 2).astype(int)
            ops = [linear[i] for i in spread] + [rest[i] for i in drawn]
        found |= dict.fromkeys(ops)
    return list(found)


def architectures(space: SearchSpace, n: int, rng: np.random.Generator) -> list[dict[str, Value]]:
    """The smallest, the largest, and a spread over cost between them, in random order."""
    extremes = [space.largest(), space.smallest()]
    genomes = np.unique(space.choices.sample(40 * n, rng), axis=0)
    drawn = [arch for arch in map(space.choices.decode, genomes) if arch not in extremes]
    drawn.sort(key=lambda arch: sum(o.op.macs for _, o in space.workload(arch)))
    picked = [drawn[i] for i in np.linspace(0, len(drawn) - 1, n - 2).astype(int)]
    return [*extremes, *(picked[i] for i in rng.permutation(n - 2))]


def policies(
    space: SearchSpace,
    arch: dict[str, Value],
    precisions: Sequence[str],
    rng: np.random.Generator,
) -> list[Candidate]:
    """An architecture under every uniform policy and as many mixed ones."""
    joint = CandidateSpace(space, tuple(precisions))
    uniform = [joint.uniform(arch, p) for p in precisions]
    mixed = [
        Candidate(arch, {group: str(rng.choice(precisions)) for group in uniform[0].policy})
        for _ in precisions
        if len(precisions) > 1
    ]
    return uniform + mixed


# --- the networks as jobs -----------------------------------------------------------------------


class _Networks:
    """Makes the jobs of networks, until time is up."""

    def __init__(
        self, runtime: str, threads: int, batch_size: int, precisions: Sequence[str], folder: Path
    ) -> None:
        self.runtime = runtime
        self.threads = threads
        self.batch_size = batch_size
        self.precisions = precisions
        self.folder = folder
        self.probes: list[Probe] = []
        self.jobs: list[Job] = []

    def add(
        self, space: SearchSpace, arch: dict[str, Value], held_out: bool, rng: np.random.Generator
    ) -> None:
        """An architecture under several policies; one export serves them all."""
        candidates = policies(space, arch, self.precisions, rng)
        self.probes += [Probe(space, candidate, held_out) for candidate in candidates]
        if self.runtime == "torch":
            arguments = {
                "space": space.name,
                "preset": space.preset,
                "architecture": arch,
                "batch_size": self.batch_size,
                "threads": self.threads,
            }
            self.jobs += [network_job("nas.profiling:eager_call", arguments) for _ in candidates]
            return
        from nas.export.onnx import export_onnx, quantize_onnx

        graph = export_onnx(space.build(arch), space.example(arch, self.batch_size))
        for candidate in candidates:
            model = quantize_onnx(graph, candidate.policy, space.group_modules(), self.runtime)
            path = self.folder / f"{len(self.jobs)}.onnx"
            path.write_bytes(model.SerializeToString())
            self.jobs.append(model_job(path, self.threads))


def eager_call(
    space: str, preset: str, architecture: dict[str, Value], batch_size: int, threads: int
) -> Callable[[], object]:
    """A network in eager PyTorch on a fixed example, as a call to time."""
    import torch

    from hw_profiles.runtimes.torch import without_gradients

    found = search_spaces.get(space, preset)
    network = found.build(architecture).eval()
    example = found.example(architecture, batch_size)
    if example.is_floating_point():
        example = torch.randn_like(example)
    return without_gradients(lambda: network(example), threads)


# --- the profile --------------------------------------------------------------------------------


def _quiet(text: str, share: float) -> None:
    """The progress of a caller that does not listen."""


def profile_cpu(
    name: str,
    out: Path | None = None,
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    batch_size: int = 1,
    spaces: Sequence[str] | None = None,
    time_limit_s: float = 110.0,
    processes: int = PROCESSES,
    progress: Progress = _quiet,
    seed: int = 0,
) -> DeviceProfile:
    """Measure this machine's CPU in a runtime.

    Args:
        name: of the profile.
        out: file to write it to.
        runtime: `onnxruntime` or `torch` (eager).
        threads: that a network may use.
        batch_size: examples per forward pass.
        spaces: `family` or `family:preset`; all registered ones unless given.
        time_limit_s: for everything; a busy machine gets fewer networks.
        processes: that measure, one after another.
        progress: told a line and the share done.
        seed: of what is drawn.

    Raises:
        UsageError: if an argument is out of range.
        NotFoundError: if a runtime or space is unknown.
        MeasureError: if a measuring process fails.
        ProfileError: if the time was too short, or `out` cannot be written.
    """
    for what, value in (("threads", threads), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{what} cannot be {value}.", "Give 1 or more.")
    if runtime not in ("onnxruntime", "torch"):
        raise UsageError(f"a CPU is not profiled in {runtime}.", "Choose onnxruntime or torch.")
    begin = time.monotonic()
    rng = np.random.default_rng(seed)
    precisions = [s.name for s in schemes_of(runtime)]
    asked = chosen_spaces(spaces)
    ops = wanted_ops(asked, precisions, batch_size, rng)
    with tempfile.TemporaryDirectory() as folder:
        networks = _Networks(runtime, threads, batch_size, precisions, Path(folder))
        for space, whole in asked:
            if not whole:
                continue
            for i, arch in enumerate(architectures(space, ARCHITECTURES, rng)):
                spent = (time.monotonic() - begin) / time_limit_s
                if spent > EXPORT_SHARE and i >= 4:
                    break
                progress(f"networks: {len(networks.jobs)}", spent)
                networks.add(space, arch, i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1, rng)
        op_jobs = [op_job(op, runtime, threads) for op in ops]
        idle = idle_job(runtime, threads)
        left = MEASURE_SHARE * time_limit_s - (time.monotonic() - begin)
        spent = (time.monotonic() - begin) / time_limit_s
        readings = measure(
            [idle, *networks.jobs, *op_jobs],
            runtime,
            processes=processes,
            threads=threads,
            time_limit_s=left,
            seed=seed,
            progress=lambda text, share: progress(text, spent + (1 - spent) * share),
        )
    profile = _assemble(
        name, runtime, threads, batch_size, precisions, ops, op_jobs, networks, readings
    )
    progress("done", 1.0)
    if out is not None:
        profile.save(out)
    return profile


def _assemble(
    name: str,
    runtime: str,
    threads: int,
    batch_size: int,
    precisions: list[str],
    ops: list[Op],
    op_jobs: list[Job],
    networks: _Networks,
    readings: Readings,
) -> DeviceProfile:
    n = len(networks.jobs)
    if not readings.jobs[0]:
        raise MeasureError(
            "the time was too short to measure anything.", "Allow more with `nas profile --time`."
        )
    idle_s = statistics.median(r.seconds for r in readings.jobs[0])
    timed_ops = op_timings(ops, op_jobs, readings.jobs[1 + n :], idle_s)
    timed, drift = [], []
    for probe, found in zip(networks.probes, readings.jobs[1 : 1 + n], strict=True):
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
                held_out=probe.held_out,
            )
        )
        middle = statistics.median(r.seconds for r in found)
        # what is fitted is the median over these processes, what is verified that over as many
        # others: each drifts less than one process, and the two differ by both drifts
        differ = (2 / len(found)) ** 0.5
        drift += [float(np.log(r.seconds / middle)) * differ for r in found]
    within = statistics.median(t.timing.spread_within for t in timed) if timed else 0.0
    between = statistics.median(t.timing.spread_between for t in timed) if timed else 0.0
    packages = ("onnxruntime", "onnx", "torch") if runtime == "onnxruntime" else ("torch",)
    return DeviceProfile(
        name=name,
        device=this_cpu(),
        runtime=Runtime(name=runtime, version=version(packages[0]), native="fp32", threads=threads),
        precisions=precisions,
        network=fit_network_model(timed_ops, timed, drift),
        ops=timed_ops,
        networks=timed,
        anchor_drift=[round(a, 4) for a in readings.anchor],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={p: version(p) for p in packages},
        notes=[
            f"{readings.processes} processes, {threads} thread(s), batch size {batch_size}",
            f"noise of a network: {within:.1%} between repeats in a process, "
            f"{between:.1%} between processes (medians over {len(timed)} networks)",
        ],
    )


def describe_profile(profile: DeviceProfile) -> list[str]:
    """What a measured profile states of itself, line by line."""
    runtime, model = profile.runtime, profile.network
    lines = [
        f"{profile.device.name}, {runtime.name} {runtime.version}, {runtime.threads} thread(s)",
        f"{len(profile.ops)} ops and {len(profile.networks)} networks timed, precisions "
        f"{', '.join(profile.precisions)}",
        *profile.notes,
    ]
    if profile.anchor_drift:
        slow = float(np.mean(np.array(profile.anchor_drift) > DISTURBED))
        lines.append(
            f"the machine was more than {DISTURBED - 1:.0%} slower than undisturbed in {slow:.0%} "
            "of the anchor's readings; timings are corrected for it"
        )
    if model is not None and model.error is not None:
        error = model.error
        lines.append(
            f"error on {error.rows} networks that were not in the fit: mean {error.mape:.1f}%, "
            f"median {error.median_error:.1f}%, Kendall tau {error.kendall_tau:.3f}, upper bound "
            f"holds for {error.coverage:.0%} (stated {model.coverage:.0%})"
        )
    return lines


def measure_models(
    models: Sequence[onnx.ModelProto],
    *,
    threads: int = 1,
    processes: int = 3,
    time_limit_s: float = 60.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Timing]:
    """Time ONNX models as `profile_cpu` times networks, in processes of their own.

    Raises:
        MeasureError: if a model cannot be run here, or the time was too short for all of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.onnx" for i in range(len(models))]
        for path, model in zip(paths, models, strict=True):
            path.write_bytes(model.SerializeToString())
        readings = measure(
            [model_job(path, threads) for path in paths],
            "onnxruntime",
            processes=processes,
            threads=threads,
            time_limit_s=time_limit_s,
            seed=seed,
            progress=progress,
        )
    if not all(readings.jobs):
        raise MeasureError(
            "the time was too short to measure every network.", "Allow more, or measure fewer."
        )
    return [timing(found) for found in readings.jobs]
