"""What of a search space is timed: its ops, and whole networks as jobs of the profiler."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import search_spaces
from hw_profiles.harness import Harness
from hw_profiles.op import Op
from hw_profiles.profiler import Job, model_job, network_job
from nas.candidate import Candidate, CandidateSpace
from search_spaces.choices import Value
from search_spaces.space import SearchSpace

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


# --- which ops and networks ---------------------------------------------------------------------


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
            ops = [rest[i] for i in drawn]
            if linear:  # none where the batch makes each of them too large
                spread = np.linspace(0, len(linear) - 1, OTHER_OPS // 2).astype(int)
                ops = [linear[i] for i in spread] + ops
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


class Networks:
    """Makes the jobs of networks, until time is up."""

    def __init__(
        self, harness: Harness, batch_size: int, precisions: Sequence[str], folder: Path
    ) -> None:
        self.harness = harness
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
        if self.harness.runtime not in ("onnxruntime", "openvino"):
            arguments = {
                "space": space.name,
                "preset": space.preset,
                "architecture": arch,
                "batch_size": self.batch_size,
                **self.harness.arguments,
            }
            self.jobs += [network_job("nas.probes:torch_call", arguments) for _ in candidates]
            return
        from nas.export.onnx import export_onnx, quantize_onnx

        graph = export_onnx(space.build(arch), space.example(arch, self.batch_size))
        for candidate in candidates:
            runtime = self.harness.runtime
            model = quantize_onnx(graph, candidate.policy, space.group_modules(), runtime)
            path = self.folder / f"{len(self.jobs)}.onnx"
            path.write_bytes(model.SerializeToString())
            self.jobs.append(model_job(path, self.harness))


def torch_call(
    space: str,
    preset: str,
    architecture: dict[str, Value],
    batch_size: int,
    threads: int = 1,
    mode: str = "eager",
    device: str = "cpu",
    native: str = "fp32",
) -> Callable[[], object]:
    """A network in PyTorch on a fixed example, as a call to time."""
    import torch

    from hw_profiles.runtimes import cuda, eager
    from hw_profiles.runtimes.torch_ops import DTYPES

    found = search_spaces.get(space, preset)
    network = found.build(architecture).eval().to(device, DTYPES[native])
    example = found.example(architecture, batch_size).to(device)
    if example.is_floating_point():
        example = torch.randn_like(example, dtype=DTYPES[native])

    def call() -> object:
        return network(example)

    return eager.prepared(call, threads) if device == "cpu" else cuda.prepared(call, mode, device)
