"""What a study stands on: its space and data, its target, its supernet, and what evaluates them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

import search_spaces
from hw_profiles.harness import Harness
from hw_profiles.profile import DeviceProfile
from nas.archive import space_of
from nas.budget import Budget
from nas.candidate import CandidateSpace
from nas.data.dataset import Dataset
from nas.data.metric import METRICS
from nas.data.registry import load_dataset
from nas.errors import (
    CheckpointError,
    NotFoundError,
    StorageError,
    StudyMismatchError,
    UsageError,
)
from nas.evaluation import Evaluator, calibration_batches, evaluating
from nas.events import Event, Listener
from nas.executors.executor import Evaluate
from nas.executors.work import Work
from nas.request import RunOptions, SearchRequest
from nas.setting import Setting
from nas.storage.records import StudyRecord
from nas.storage.studies import Studies
from nas.targets import THIS_CPU, local_profile, resolve_target
from nas.training.obtain import obtain_supernet
from nas.training.recipe import Recipe
from nas.training.store import TrainedSupernet, find_weights
from search_spaces.space import SearchSpace


@dataclass(frozen=True, eq=False)
class Equipment:
    """What the candidates of a study are evaluated, exported and verified with.

    Attributes:
        candidates: the joint space.
        data: that it is judged on.
        profile: of the target.
        supernet: that holds the weights.
        evaluator: of the target's arithmetic on the supernet.
    """

    candidates: CandidateSpace
    data: Dataset
    profile: DeviceProfile
    supernet: TrainedSupernet
    evaluator: Evaluator


def space_and_data(
    name: str, preset: str | None = None, data_name: str | None = None
) -> tuple[SearchSpace, Dataset]:
    """The space, fitted to the data, and the data, fitted to the space's input.

    Args:
        name: of the space.
        preset: of it; its default unless given.
        data_name: registered name or path; the preset's own data unless given.

    Raises:
        NotFoundError: if there is no such space, preset or data.
        UsageError: if the data do not fit, or none were named where none is the default.
    """
    space = search_spaces.get(name, preset)
    if data_name == "":
        raise UsageError("no data are named.", "Give --data a name or a path, or leave it out.")
    if not (data_name or space.default_data):
        raise UsageError(
            f"the preset {space.preset} of {space.name} has no data of its own.",
            "Name data with --data: see `nas datasets`, or give a path.",
        )
    data = load_dataset(data_name or space.default_data, space.input_shape, space.input_kind)
    fitted = search_spaces.get(name, preset, n_classes=data.n_classes, in_channels=data.in_channels)
    return fitted, data


def target_profiles(
    request: SearchRequest, space: SearchSpace, listener: Listener
) -> dict[str, DeviceProfile]:
    """The targets' profiles by what they are called.

    This machine is measured where it has no profile for the space.
    """

    def make() -> DeviceProfile:
        from nas.profiling import profile_device

        listener(
            Event(
                "note",
                f"this machine has no profile for {space.name} ({space.preset}) yet: measuring it "
                "first (2 minutes)",
            )
        )
        made = profile_device(
            THIS_CPU,
            Harness(),
            batch_size=request.batch_size,
            spaces=[f"{space.name}:{space.preset}"],
            progress=lambda text, share: listener(Event("profile", text, share, 1.0)),
        )
        path = local_profile(request.batch_size, space)
        made.save(path)
        listener(Event("note", f"profile of this machine kept in {path}"))
        return made

    return {
        label: resolve_target(target, request.batch_size, make, space)
        for label, target in zip(request.labels, request.targets, strict=True)
    }


def profiles_of(studies: Studies, study: StudyRecord) -> dict[str, DeviceProfile]:
    """The profiles that a study was begun with, by what its targets are called.

    They are as they were then, whatever was measured since.

    Raises:
        StudyMismatchError: if this version cannot read one.
        StorageError: if the database has not got one.
    """
    fingerprints = {label: of["profile"] for label, of in study.request.get("targets", {}).items()}
    found = {}
    for label, fingerprint in (fingerprints or {study.target: study.profile_fingerprint}).items():
        try:
            document = studies.load_profile(str(fingerprint)).document
            found[label] = DeviceProfile.model_validate(document)
        except NotFoundError:
            raise StorageError(
                f"study {study.name!r} was begun with a device profile that the database lacks.",
                "Its trials stay readable (`nas pareto`); restore a copy of the database, or begin "
                "another with --study.",
            ) from None
        except ValidationError:
            raise StudyMismatchError(
                f"study {study.name!r} was begun by an older version, whose device profiles this "
                "one cannot read.",
                "Its trials stay readable (`nas pareto`); begin another with --study.",
            ) from None
    return found


def setting_of(studies: Studies, study: StudyRecord) -> Setting:
    """A study's space on its targets, under its budgets.

    Raises:
        StudyMismatchError: if this version cannot read a profile.
        StorageError: if the database has not got one.
    """
    r = study.request
    budgets = [Budget(**limit) for limit in r["limits"]]
    profiles = profiles_of(studies, study)
    return Setting(space_of(study), profiles, study.batch_size, budgets, r["schemes"])


def obtain(
    request: SearchRequest,
    recipe: Recipe,
    options: RunOptions,
    space: SearchSpace,
    data: Dataset,
    listener: Listener,
) -> TrainedSupernet:
    """The supernet that was trained for a request by its recipe, or a new one."""
    initial = None
    if request.init is not None:
        from nas.training.init import initial_weights

        initial = initial_weights(space, request.init)
        for line in initial.lines():
            listener(Event("note", line))
    return obtain_supernet(
        space,
        data,
        recipe=recipe,
        seed=request.supernet_seed,
        time_limit_s=options.train_time_s,
        retrain=options.retrain,
        initial=initial,
        listener=listener,
    )


def equip(
    candidates: CandidateSpace,
    data: Dataset,
    profile: DeviceProfile,
    supernet: TrainedSupernet,
    batch_size: int,
) -> Equipment:
    """The equipment of a study, with its evaluator."""
    runtime = profile.runtime
    evaluator = _evaluator(supernet, data, runtime.name, runtime.native, batch_size)
    return Equipment(candidates, data, profile, supernet, evaluator)


def equip_for(equipment: Equipment, profile: DeviceProfile, schemes: Sequence[str]) -> Equipment:
    """The equipment of another target of a study: its words, its arithmetic, the same supernet."""
    e = equipment
    candidates = CandidateSpace(e.candidates.space, tuple(schemes))
    return equip(candidates, e.data, profile, e.supernet, e.evaluator.batch_size)


def _evaluator(
    supernet: TrainedSupernet,
    data: Dataset,
    runtime: str,
    native: str,
    batch_size: int,
    threads: int | None = None,
) -> Evaluator:
    network = supernet.network
    calibration = calibration_batches(data) if network.calibrates else ()
    return Evaluator(network, runtime, native, batch_size, calibration, threads=threads)


def work_of(equipment: Equipment, threads: int, first_look: float | None) -> Work:
    """How a worker makes the same evaluating function, by names and the digest of the weights."""
    e = equipment
    return Work(
        "nas.equipment:evaluation",
        {
            "space": e.candidates.space.name,
            "preset": e.candidates.space.preset,
            "data": e.data.name,
            "schemes": list(e.candidates.schemes),
            "digest": e.supernet.digest,
            "runtime": e.evaluator.runtime,
            "native": e.profile.runtime.native,
            "batch_size": e.evaluator.batch_size,
            "metric": e.data.metric.name,
            "threads": threads,
            "first_look": first_look,
        },
        threads,
        e.supernet.path,
    )


def evaluation(
    space: str,
    preset: str,
    data: str,
    schemes: list[str],
    digest: str,
    runtime: str,
    native: str,
    batch_size: int,
    metric: str,
    threads: int,
    first_look: float | None,
) -> Evaluate:
    """The evaluating function of a worker; see `work_of`.

    Raises:
        CheckpointError: if the supernet is not on this machine.
    """
    fitted, dataset = space_and_data(space, preset, data)
    supernet = find_weights(fitted, digest)
    if supernet is None:
        raise CheckpointError(f"the supernet {digest[:12]} is not on this machine.", "")
    evaluator = _evaluator(supernet, dataset, runtime, native, batch_size, threads)
    candidates = CandidateSpace(fitted, tuple(schemes))
    return evaluating(evaluator, candidates, dataset.validation, METRICS[metric], first_look)
