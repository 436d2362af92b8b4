"""The subnets of a front as folders, each checked against the supernet before it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import save
from torch import Tensor

from nas import __version__
from nas.candidate import Candidate
from nas.equipment import Equipment
from nas.errors import CheckpointError, ExportError
from nas.export.onnx import check_quantized, export_many, quantize_onnx
from nas.export.subnet import (
    SubnetConfig,
    digest,
    load_config,
    load_network,
    run_onnx,
    to_json_bytes,
    write_exported,
)
from nas.storage.records import ArtefactRecord, TrialRecord
from nas.study import Study
from search_spaces.space import Architecture

#: Examples of the validation part that every exported network is compared on, and its float graph.
CHECK_EXAMPLES, GRAPH_EXAMPLES = 256, 16
#: Largest difference of logits, relative to the largest logit, of float32 weights.
WEIGHTS_TOLERANCE = 1e-5
#: The same of the float graph in ONNX Runtime, which adds in another order.
GRAPH_TOLERANCE = 1e-4
#: Least share of equal decisions of model.onnx and the simulated arithmetic. With fp8 a number that
#: falls on the other side of a rounding moves by 6 %: float32, which the file computes in, and bf16
#: agree on 94 to 99 % under one and the same policy.
LEAST_AGREEMENT, LEAST_AGREEMENT_FP8 = 0.97, 0.9
#: Decisions are equal whose simulated logits differ by less than this share of the example's range
#: of logits: bf16 and float32 move a logit by 1 to 2 % of it, and a network that is often wrong has
#: many such ties.
NEAR_TIE = 0.03


class _DifferentError(ExportError):
    """An exported network that is not the one that was evaluated."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "Report it with the output of `nas doctor`.")


class FrontExporter:
    """Writes trials of a study to `folder/trial-NNNN`.

    Args:
        study: whose trials they are.
        equipment: that they were evaluated with.
        folder: of its subnets.
    """

    def __init__(
        self,
        study: Study,
        equipment: Equipment,
        folder: Path,
    ) -> None:
        self.study = study
        self.candidates = equipment.candidates
        self.supernet = equipment.supernet
        self.evaluator = equipment.evaluator
        self.data = equipment.data
        self.folder = folder

    def write(
        self, trials: Sequence[TrialRecord], complete: Callable[[TrialRecord], TrialRecord]
    ) -> Iterator[ArtefactRecord]:
        """Write subnets one by one, load each back and compare it; what is there is kept.

        One that is not the network that was evaluated does not count, and the others are written
        before that is said.

        Args:
            trials: of the front.
            complete: adds to a trial what is still to be found out, before it is written.

        Raises:
            ExportError: if one cannot be written, or some are not the networks that were evaluated.
        """
        missing = [t for t in trials if not self._is_there(self._place(t), t)]
        by_architecture: dict[str, list[TrialRecord]] = {}  # one export serves every policy
        for trial in missing:
            key = self.candidates.space.describe(trial.architecture)
            by_architecture.setdefault(key, []).append(trial)
        groups = list(by_architecture.values())
        networks = [  # each on the statistics of its own
            self.evaluator.prepare(g[0].architecture).extract(g[0].architecture).eval()
            for g in groups
        ]
        space, batch_size = self.candidates.space, self.evaluator.batch_size
        examples = [space.example(g[0].architecture, batch_size) for g in groups]
        graphs = export_many(networks, examples)
        for trial in trials:
            if trial not in missing:
                yield self._artefact(complete(trial))
        different: list[_DifferentError] = []
        for group, plain in zip(groups, networks, strict=True):
            completed = [complete(trial) for trial in group]
            graph = next(graphs)
            try:
                self._compare_graph(graph, plain, group[0].architecture)
            except _DifferentError as error:
                different += [error] * len(group)
                continue
            for trial in completed:
                try:
                    self._write(trial, plain, graph)
                except _DifferentError as error:
                    different.append(error)
                else:
                    yield self._artefact(trial)
        if different:
            first, others = different[0], len(different) - 1
            more = f" {others} more differ." if others else ""
            raise ExportError(
                f"{first.message}{more} The front's other networks are written.", first.hint
            )

    def left(self, front: Sequence[TrialRecord]) -> list[str]:
        """Names of the folders of networks that were on a front before and are not on this one."""
        there = {self._place(trial) for trial in front}
        return sorted(p.name for p in self.folder.glob("trial-*") if p not in there)

    def _place(self, trial: TrialRecord) -> Path:
        return self.folder / f"trial-{trial.number:04d}"

    def _artefact(self, trial: TrialRecord) -> ArtefactRecord:
        place = self._place(trial)
        size = sum(f.stat().st_size for f in place.iterdir())
        whole, path = digest(place / "config.json"), str(place.absolute())
        return ArtefactRecord(trial.id, "subnet", path, whole, size)

    def _is_there(self, place: Path, trial: TrialRecord) -> bool:
        """Whether this very network is, whole: a study begun anew has other trials of its name."""
        try:
            there, wanted = load_config(place), self._config(place, trial)
        except (CheckpointError, OSError):
            return False
        return self._known_bytes(there) == self._known_bytes(wanted)

    def _known_bytes(self, config: SubnetConfig) -> bytes:
        """A config without its test quality, which a trial may be lacking yet."""
        test = f"{self.data.metric.name}_test"
        known = {name: of for name, of in config.objectives.items() if name != test}
        return to_json_bytes(config.model_copy(update={"objectives": known}))

    def _write(self, trial: TrialRecord, plain: torch.nn.Module, graph: onnx.ModelProto) -> None:
        place = self._place(trial)
        candidate = self.candidates.decode(np.array(trial.genome))
        groups, runtime = self.candidates.space.group_modules(), self.evaluator.runtime
        quantized = quantize_onnx(graph, candidate.policy, groups, runtime)
        check_quantized(quantized, candidate.policy, groups, runtime)
        write_exported(place / "model.safetensors", save(plain.state_dict()))
        write_exported(place / "model.onnx", quantized.SerializeToString())
        config = self._config(place, trial)
        self._compare(place, config, candidate)
        write_exported(place / "config.json", to_json_bytes(config))  # last: it makes it count

    def _config(self, place: Path, trial: TrialRecord) -> SubnetConfig:
        space, record = self.candidates.space, self.study.record
        candidate = self.candidates.decode(np.array(trial.genome))
        part = f"{len(self.data.validation)} examples"
        arch = candidate.architecture
        shape = list(space.example(arch).shape[1:])
        preprocessing = dict(self.data.preprocessing)
        if shape != preprocessing["input_shape"]:
            preprocessing["resized_to"] = shape
        return SubnetConfig(
            space=space.name,
            preset=space.preset,
            n_classes=space.n_classes,
            in_channels=space.in_channels,
            architecture=candidate.architecture,
            policy=candidate.policy,
            runtime=record.runtime,
            batch_size=record.batch_size,
            data=self.data.name,
            preprocessing=preprocessing,
            class_names=list(self.data.class_names),
            objectives=self._objectives(trial, part),
            study=self.study.name,
            trial=trial.number,
            supernet=self.supernet.digest,
            version=__version__,
            files={n: digest(place / n) for n in ("model.safetensors", "model.onnx")},
        )

    def _objectives(self, trial: TrialRecord, part: str) -> dict[str, dict[str, Any]]:
        predicted = f"predicted for {self.study.record.target}"
        request = self.study.record.request
        arithmetic = "simulated arithmetic"
        if "arithmetic_of" in request:
            arithmetic += f" of {request['arithmetic_of']}"
        counted = "counted from the architecture and policy"
        metric = self.data.metric.name
        figures = {
            metric: (trial.quality, f"supernet weights, {arithmetic}, {part} of val"),
            f"{metric}_test": (trial.quality_test, "the same, on the test part"),
            "latency_ms": (trial.latency_ms, predicted),
            "latency_ms_upper": (trial.latency_ms_upper, f"upper bound, {predicted}"),
            "energy_mj": (trial.energy_mj, predicted),
            "energy_mj_upper": (trial.energy_mj_upper, f"upper bound, {predicted}"),
            "memory_bytes": (trial.memory_bytes, counted),
            "weight_bytes": (trial.weight_bytes, counted),
            "params": (trial.params, counted),
            "macs": (trial.macs, counted),
        }
        return {k: {"value": v, "provenance": p} for k, (v, p) in figures.items() if v is not None}

    def _inputs(self, arch: Architecture, n: int) -> Tensor:
        """The first validation examples as the architecture's network takes them."""
        part = self.data.validation
        inputs = part.batch(torch.arange(min(n, len(part))))[0]
        return self.candidates.space.fit_input(arch, inputs)

    def _compare_graph(
        self, graph: onnx.ModelProto, plain: torch.nn.Module, arch: Architecture
    ) -> None:
        """Refuse a float graph whose outputs are not the network's."""
        inputs = self._inputs(arch, GRAPH_EXAMPLES)
        with torch.inference_mode():
            expected = plain(inputs)
        found = run_onnx(graph.SerializeToString(), inputs, self.evaluator.batch_size)
        difference = _difference(found, expected)
        if not difference <= GRAPH_TOLERANCE:
            raise _DifferentError(
                f"the ONNX graph of {self.candidates.space.describe(arch)} differs from the "
                f"network by {difference:.1e}."
            )

    def _compare(self, place: Path, config: SubnetConfig, candidate: Candidate) -> None:
        arch, part = candidate.architecture, self.data.validation
        inputs = self._inputs(arch, CHECK_EXAMPLES)
        network = self.evaluator.prepare(arch).network
        with torch.inference_mode():
            difference = _difference(load_network(place, config)(inputs), network(inputs))
        if not difference <= WEIGHTS_TOLERANCE:
            raise _DifferentError(
                f"{place}: loaded weights differ from the supernet by {difference:.1e}."
            )
        simulated = self.evaluator.logits(candidate, part, len(inputs))
        found = run_onnx(place / "model.onnx", inputs, self.evaluator.batch_size)
        agreement = _alike(simulated, found.argmax(-1))
        if agreement < least_agreement(candidate.policy):
            raise _DifferentError(
                f"{place}/model.onnx decides as evaluated on {agreement:.1%} of "
                f"{len(inputs)} examples only."
            )


def least_agreement(policy: Mapping[str, str]) -> float:
    """Share of decisions that an exported policy must have in common with the simulated one.

    >>> least_agreement({"layers.0.qkv": "int8"}), least_agreement({"layers.0.qkv": "fp8"})
    (0.97, 0.9)
    """
    return LEAST_AGREEMENT_FP8 if "fp8" in policy.values() else LEAST_AGREEMENT


def _alike(simulated: Tensor, decided: Tensor) -> float:
    """Share of decisions (...) that are right by simulated logits (..., classes), or nearly."""
    best, worst = simulated.amax(-1), simulated.amin(-1)
    behind = best - simulated.gather(-1, decided[..., None])[..., 0]
    return float((behind <= NEAR_TIE * (best - worst)).double().mean())


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected output or to 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
