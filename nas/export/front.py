"""The subnets of a front as folders, each checked against the supernet before it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import save

from nas import __version__
from nas.candidate import Candidate, CandidateSpace
from nas.data.dataset import Dataset
from nas.errors import CheckpointError, ExportError
from nas.evaluation import Evaluator
from nas.export.onnx import check_quantized, export_many, quantize_onnx
from nas.export.subnet import (
    SubnetConfig,
    digest,
    load_config,
    load_subnet,
    run_onnx,
    to_json_bytes,
    write_exported,
)
from nas.storage.records import ArtefactRecord, TrialRecord
from nas.study import Study
from nas.training.store import TrainedSupernet

#: Images of the validation part that every exported network is compared on.
CHECK_IMAGES = 256
#: Largest difference of logits, relative to the largest logit, of float32 weights.
WEIGHTS_TOLERANCE = 1e-5
#: Least share of equal decisions of model.onnx and the simulated arithmetic.
LEAST_AGREEMENT = 0.97


class FrontExporter:
    """Writes trials of a study to `folder/subnets/trial-NNNN`.

    Args:
        study: whose trials they are.
        candidates: the study's joint space.
        supernet: that it was evaluated on.
        evaluator: of the target's arithmetic.
        data: whose validation images the networks are compared on.
        folder: of the study.
    """

    def __init__(
        self,
        study: Study,
        candidates: CandidateSpace,
        supernet: TrainedSupernet,
        evaluator: Evaluator,
        data: Dataset,
        folder: Path,
    ) -> None:
        self.study = study
        self.candidates = candidates
        self.supernet = supernet
        self.evaluator = evaluator
        self.data = data
        self.folder = folder

    def write(
        self, trials: Sequence[TrialRecord], complete: Callable[[TrialRecord], TrialRecord]
    ) -> Iterator[ArtefactRecord]:
        """Write subnets one by one, load each back and compare it; what is there is kept.

        Args:
            trials: of the front.
            complete: adds to a trial what is still to be found out, before it is written.

        Raises:
            ExportError: if one cannot be written, or is not the network that was evaluated.
        """
        missing = [t for t in trials if not self._is_there(self._place(t), t)]
        by_architecture: dict[str, list[TrialRecord]] = {}  # one export serves every policy
        for trial in missing:
            key = self.candidates.space.describe(trial.architecture)
            by_architecture.setdefault(key, []).append(trial)
        groups = list(by_architecture.values())
        networks = [self.supernet.network.extract(g[0].architecture).eval() for g in groups]
        shape = self.candidates.space.input_shape
        graphs = export_many(networks, shape, self.evaluator.batch_size)
        for trial in trials:
            if trial not in missing:
                yield self._artefact(complete(trial))
        for group, plain in zip(groups, networks, strict=True):
            completed = [complete(trial) for trial in group]
            graph = next(graphs)
            for trial in completed:
                self._write(trial, plain, graph)
                yield self._artefact(trial)

    def _place(self, trial: TrialRecord) -> Path:
        return self.folder / "subnets" / f"trial-{trial.number:04d}"

    def _artefact(self, trial: TrialRecord) -> ArtefactRecord:
        place = self._place(trial)
        size = sum(f.stat().st_size for f in place.iterdir())
        return ArtefactRecord(trial.id, "subnet", str(place), digest(place / "config.json"), size)

    def _is_there(self, place: Path, trial: TrialRecord) -> bool:
        try:
            config = load_config(place)
            same = (config.study, config.trial, config.supernet, config.version) == (
                self.study.name,
                trial.number,
                self.supernet.digest,
                __version__,
            )
            return same and all(digest(place / n) == d for n, d in config.files.items())
        except (CheckpointError, OSError):
            return False

    def _write(self, trial: TrialRecord, plain: torch.nn.Module, graph: onnx.ModelProto) -> None:
        place = self._place(trial)
        candidate = self.candidates.decode(np.array(trial.genome))
        groups, runtime = self.candidates.space.group_modules(), self.evaluator.runtime
        quantized = quantize_onnx(graph, candidate.policy, groups, runtime)
        check_quantized(quantized, candidate.policy, groups, runtime)
        write_exported(place / "model.safetensors", save(plain.state_dict()))
        write_exported(place / "model.onnx", quantized.SerializeToString())
        config = self._config(place, trial, candidate)
        write_exported(place / "config.json", to_json_bytes(config))
        self._compare(place, candidate)

    def _config(self, place: Path, trial: TrialRecord, candidate: Candidate) -> SubnetConfig:
        space, record = self.candidates.space, self.study.record
        part = f"{len(self.data.validation)} images"
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
            preprocessing=dict(self.data.preprocessing),
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
        counted = "counted from the architecture and policy"
        figures = {
            "accuracy": (trial.accuracy, f"supernet weights, simulated arithmetic, {part} of val"),
            "accuracy_test": (trial.accuracy_test, "the same, on the test part"),
            "latency_ms": (trial.latency_ms, predicted),
            "latency_ms_upper": (trial.latency_ms_upper, f"upper bound, {predicted}"),
            "memory_bytes": (trial.memory_bytes, counted),
            "weight_bytes": (trial.weight_bytes, counted),
            "params": (trial.params, counted),
            "macs": (trial.macs, counted),
        }
        return {k: {"value": v, "provenance": p} for k, (v, p) in figures.items() if v is not None}

    def _compare(self, place: Path, candidate: Candidate) -> None:
        part = self.data.validation
        images = part.batch(torch.arange(min(CHECK_IMAGES, len(part))))[0]
        network = self.supernet.network.eval().activate(candidate.architecture)
        with torch.inference_mode():
            expected = network(images)
            loaded = load_subnet(place)(images)
        difference = float((loaded - expected).abs().max() / expected.abs().max().clamp(min=1.0))
        if not difference <= WEIGHTS_TOLERANCE:
            raise ExportError(
                f"{place}: loaded weights differ from the supernet by {difference:.1e}.",
                "Report it with the output of `nas doctor`.",
            )
        simulated = self.evaluator.logits(candidate, part, len(images)).argmax(1)
        decided = run_onnx(place / "model.onnx", images, self.evaluator.batch_size).argmax(1)
        agreement = float((simulated == decided).double().mean())
        if agreement < LEAST_AGREEMENT:
            raise ExportError(
                f"{place}/model.onnx decides as evaluated on {agreement:.1%} of "
                f"{len(images)} images only.",
                "Report it with the output of `nas doctor`.",
            )
