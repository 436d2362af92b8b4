"""The service: search, resume, export and verify, without a terminal.

A search flows from the request through space, target and budgets (before anything is trained) to
supernet, study, loop, front, export and verification.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import search_spaces
from hw_profiles.profile import DeviceProfile
from nas import __version__
from nas.archive import draw, open_study, read_study, resume_command
from nas.budget import parse_budgets
from nas.candidate import CandidateSpace
from nas.data.dataset import Dataset
from nas.data.registry import load_dataset
from nas.engine.samplers import require_sampler
from nas.errors import ExportError, UsageError
from nas.evaluation import Evaluator
from nas.events import Event, Listener, silent
from nas.request import RunOptions, SearchRequest, refuse_mismatch
from nas.setting import Reach, Setting
from nas.storage.database import open_database
from nas.storage.records import ProfileRecord, StudyRecord, TrialRecord
from nas.storage.studies import Studies
from nas.study import Study
from nas.targets import THIS_CPU, can_verify, local_profile, resolve_target
from nas.training.obtain import obtain_supernet
from nas.training.store import TrainedSupernet
from nas.trials import run_trials, with_test_accuracy
from search_spaces.space import SearchSpace


@contextmanager
def _studies(url: str, create: bool = True) -> Iterator[Studies]:
    with open_database(url, create=create) as database:
        yield Studies(database)


# --- what a request stands on -------------------------------------------------------------------


def _space_and_data(request: SearchRequest) -> tuple[SearchSpace, Dataset]:
    """The space, fitted to the data, and the data, fitted to the space's images."""
    space = search_spaces.get(request.space, request.preset)
    if not (request.data or space.default_data):
        raise UsageError(
            f"the preset {space.preset} of {space.name} has no data of its own.",
            "Give a data set or an image folder with --data.",
        )
    data = load_dataset(request.data or space.default_data, space.input_shape)
    fitted = search_spaces.get(
        request.space, request.preset, n_classes=data.n_classes, in_channels=data.in_channels
    )
    return fitted, data


def _profile(request: SearchRequest, listener: Listener) -> DeviceProfile:
    def make() -> DeviceProfile:
        from nas.profiling import profile_cpu

        listener(Event("note", "this machine has no profile yet: measuring it first (2 minutes)"))
        made = profile_cpu(
            THIS_CPU,
            batch_size=request.batch_size,
            progress=lambda text, share: listener(Event("profile", text, share, 1.0)),
        )
        path = local_profile(request.batch_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
        listener(Event("note", f"profile of this machine kept in {path}"))
        return made

    return resolve_target(request.target, request.batch_size, make)


def _supernet(
    space: SearchSpace,
    data: Dataset,
    request: SearchRequest,
    options: RunOptions,
    digest: str | None,
    listener: Listener,
) -> TrainedSupernet:
    """The study's own supernet, or the one trained for this data, or a new one."""
    return obtain_supernet(
        space,
        data,
        seed=request.supernet_seed,
        time_limit_s=options.train_time_s,
        retrain=options.retrain,
        digest=digest,
        listener=listener,
    )


def _setting(request: SearchRequest, space: SearchSpace, profile: DeviceProfile) -> Setting:
    return Setting(
        space, profile, request.batch_size, parse_budgets(request.budgets), request.schemes
    )


# --- search -------------------------------------------------------------------------------------


def search(
    request: SearchRequest, options: RunOptions | None = None, listener: Listener = silent
) -> Study:
    """Run a search to its last trial, or resume it where it stood.

    Raises:
        UsageError: if the request contradicts itself.
        NotFoundError: if something it names does not exist.
        BudgetError: if no candidate meets the budgets; nothing was trained then.
        StudyMismatchError: if the study exists for another request.
        StorageError, CheckpointError, ProfileError, ExportError: if a place cannot be used.
    """
    options = options or RunOptions()
    require_sampler(request.sampler)
    space, data = _space_and_data(request)
    request = replace(request, preset=space.preset, data=data.name)
    profile = _profile(request, listener)
    setting = _setting(request, space, profile)
    reaches = setting.require_reachable()
    for line in (setting.costs.latency.provenance, *map(str, reaches)):
        listener(Event("note", line))
    name = options.study or request.study_name()
    if name.startswith(".") or set(name) & set("/\\"):
        raise UsageError(f"{name!r} cannot name a study and its folder.", "Leave out / and \\.")
    _require_writable(options.out / name / "front.png", "--out")
    with _studies(options.storage) as studies:
        known = {s.study.name: s.study for s in studies.list_studies()}.get(name)
        asked = {**request.to_json(), "profile": profile.fingerprint()}
        if known is not None:
            refuse_mismatch(name, known.request["asked"], asked)
            done = len(studies.trials(known.id))
            if request.trials < done:
                raise UsageError(
                    f"study {name!r} has {done} trials already, more than --trials "
                    f"{request.trials}.",
                    f"Ask for {done} or more, or see the front with `nas pareto {name}`.",
                )
            studies.set_request(known.id, {**known.request, "asked": asked})
        digest = known.supernet_digest if known else None
        supernet = _supernet(space, data, request, options, digest, listener)
        if known is None:
            known = _open_study(studies, name, request, setting, reaches, data, supernet, asked)
        resume_with = resume_command(name, request.trials, options)
        listener(Event("study", f"study {name}; resume with: {resume_with}"))
        with studies.claimed(known.id):
            evaluator = _evaluator(supernet, profile, request.batch_size)
            run_trials(studies, known, request, setting, evaluator, data, listener)
            found = read_study(studies, known)
            front = (found, setting.candidates, supernet, evaluator, data)
            _report_front(studies, *front, options.out if options.export else None, listener)
            if options.export and can_verify(profile):
                exported = read_study(studies, known)
                _verify(studies, exported, setting.candidates, profile, evaluator, data, listener)
            found = read_study(studies, known)
        draw(found, options.out)
        return found


def _open_study(
    studies: Studies,
    name: str,
    request: SearchRequest,
    setting: Setting,
    reaches: list[Reach],
    data: Dataset,
    supernet: TrainedSupernet,
    asked: dict[str, object],
) -> StudyRecord:
    profile = setting.profile
    studies.save_profile(
        ProfileRecord(profile.name, profile.fingerprint(), profile.model_dump(mode="json"))
    )
    limits = [asdict(budget) for budget in setting.budgets]
    return studies.create_study(
        StudyRecord(
            name=name,
            space=request.space,
            preset=setting.space.preset,
            target=request.target,
            runtime=profile.runtime.name,
            batch_size=request.batch_size,
            data=data.name,
            objectives=list(request.objectives),
            budgets=[str(b) for b in parse_budgets(request.budgets)],
            seed=request.seed,
            sampler=request.sampler,
            request={
                "asked": asked,
                "limits": limits,
                "n_classes": data.n_classes,
                "in_channels": data.in_channels,
                "schemes": list(setting.candidates.schemes),
                "n_validation": len(data.validation),
                "n_originals": len(data.validation) // data.validation.draws,
                "reach": [str(reach) for reach in reaches],
                "target_summary": setting.costs.latency.provenance,
            },
            supernet_fingerprint=supernet.fingerprint,
            supernet_digest=supernet.digest,
            version=__version__,
            profile_fingerprint=profile.fingerprint(),
        )
    )


def _evaluator(supernet: TrainedSupernet, profile: DeviceProfile, batch_size: int) -> Evaluator:
    runtime = profile.runtime
    return Evaluator(supernet.network, runtime.name, runtime.native, batch_size)


# --- a study that exists ------------------------------------------------------------------------


def resume(
    name: str,
    trials: int | None = None,
    options: RunOptions | None = None,
    listener: Listener = silent,
) -> Study:
    """Continue a study where it stood, to its own or another total of trials."""
    options = replace(options or RunOptions(), study=name)
    known = open_study(name, options.storage)
    request = SearchRequest.from_json(known.record.request["asked"])
    wanted = request.trials if trials is None else trials
    return search(replace(request, trials=max(wanted, 1)), options, listener)


def _loaded(
    study: Study, options: RunOptions, listener: Listener
) -> tuple[CandidateSpace, TrainedSupernet, Evaluator, Dataset, DeviceProfile]:
    """What a finished study was evaluated with."""
    r = study.record
    request = SearchRequest.from_json(r.request["asked"])
    space, data = _space_and_data(request)
    with _studies(options.storage, create=False) as studies:
        document = studies.load_profile(str(r.profile_fingerprint)).document
    profile = DeviceProfile.model_validate(document)
    supernet = _supernet(space, data, request, options, r.supernet_digest, listener)
    candidates = CandidateSpace(space, tuple(r.request["schemes"]))
    return candidates, supernet, _evaluator(supernet, profile, r.batch_size), data, profile


def export(name: str, options: RunOptions | None = None, listener: Listener = silent) -> Study:
    """Write each network of a study's front, checked against the supernet's output.

    Raises:
        ExportError: if one cannot be written or differs.
    """
    options = options or RunOptions()
    study = open_study(name, options.storage)
    candidates, supernet, evaluator, data, _ = _loaded(study, options, listener)
    with _studies(options.storage) as studies:
        _report_front(studies, study, candidates, supernet, evaluator, data, options.out, listener)
        return read_study(studies, study.record)


def _report_front(
    studies: Studies,
    study: Study,
    candidates: CandidateSpace,
    supernet: TrainedSupernet,
    evaluator: Evaluator,
    data: Dataset,
    out: Path | None,
    listener: Listener,
) -> None:
    """Test accuracy of every network of the front; and its files, if there is a folder."""
    from nas.export.front import FrontExporter

    front = study.front_trials()

    def complete(trial: TrialRecord) -> TrialRecord:
        return with_test_accuracy(studies, trial, candidates, evaluator, data)

    if out is None:
        for done, trial in enumerate(front, 1):
            complete(trial)
            listener(Event("test", "accuracy on the test part", done, len(front)))
        return
    exporter = FrontExporter(study, candidates, supernet, evaluator, data, out / study.name)
    for done, artefact in enumerate(exporter.write(front, complete), 1):
        studies.add_artefact(artefact)
        listener(Event("export", f"subnet {done} of {len(front)}", done, len(front)))


def verify(name: str, options: RunOptions | None = None, listener: Listener = silent) -> Study:
    """Time the front for real where the target is this machine; elsewhere say so.

    Raises:
        MeasureError: if a network cannot be run here.
    """
    options = options or RunOptions()
    study = open_study(name, options.storage)
    candidates, supernet, evaluator, data, profile = _loaded(study, options, listener)
    if not can_verify(profile):
        text = (
            f"{profile.device.name} under {profile.runtime.name} is not this machine: nothing was "
            "measured. Verify on the device itself, from the exported subnets."
        )
        listener(Event("note", text))
        return replace(study, notes=(text,))
    with _studies(options.storage) as studies:
        _report_front(studies, study, candidates, supernet, evaluator, data, options.out, listener)
        exported = read_study(studies, study.record)
        _verify(studies, exported, candidates, profile, evaluator, data, listener)
        found = read_study(studies, study.record)
    draw(found, options.out)
    return found


def _verify(
    studies: Studies,
    study: Study,
    candidates: CandidateSpace,
    profile: DeviceProfile,
    evaluator: Evaluator,
    data: Dataset,
    listener: Listener,
) -> None:
    from nas.verification import verify_front

    for record in verify_front(study, candidates, profile, evaluator, data, listener):
        studies.add_measurement(record)


def train(
    space_name: str,
    preset: str | None,
    data_name: str | None,
    seed: int,
    time_limit_s: float | None,
    retrain: bool,
    listener: Listener = silent,
) -> list[str]:
    """Train a supernet and keep it; what to say of it, line by line.

    Raises:
        UsageError, NotFoundError: if space and data do not exist or fit.
        CheckpointError: if it cannot be kept.
    """
    request = SearchRequest(space_name, preset=preset, data=data_name, supernet_seed=seed)
    space, data = _space_and_data(request)
    kept = obtain_supernet(
        space, data, seed=seed, time_limit_s=time_limit_s, retrain=retrain, listener=listener
    )
    return [
        f"supernet {space.name} ({space.preset}) for {data.name}: {kept.fingerprint}",
        f"accuracy on validation: largest {kept.config['accuracy_largest']:.1%}, smallest "
        f"{kept.config['accuracy_smallest']:.1%}",
        f"trained {kept.config['trained']} for {kept.config['seconds'] / 60:.1f} minutes",
        f"kept in {kept.path}",
    ]


def profile(
    device: str,
    out: Path | None,
    runtime: str,
    threads: int,
    batch_size: int,
    spaces: list[str] | None,
    time_limit_s: float,
    listener: Listener = silent,
) -> tuple[Path, list[str]]:
    """Measure this machine and write its profile; where, and what to say of it, line by line.

    Raises:
        UsageError: if the device cannot be measured by this program.
        MeasureError: if the measurements fail.
        ExportError: if the file cannot be written.
    """
    from nas.profiling import describe_profile, profile_cpu

    if device != THIS_CPU:
        raise UsageError(
            f"only this machine's cpu can be measured, not {device!r}.", "Use --device cpu."
        )
    path = out or local_profile(batch_size)
    _require_writable(path, "--out")
    made = profile_cpu(
        path.stem,
        runtime=runtime,
        threads=threads,
        batch_size=batch_size,
        spaces=spaces,
        time_limit_s=time_limit_s,
        progress=lambda text, share: listener(Event("profile", text, share, 1.0)),
    )
    made.save(path)
    return path, describe_profile(made)


def _require_writable(path: Path, option: str) -> None:
    """Refuse a place that cannot keep a file, before minutes of work for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({error.strerror}).", f"Choose another {option}."
        ) from None
