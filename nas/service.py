"""The service: search, resume, export and verify, without a terminal.

A search flows from the request through space, target and budgets (before anything is trained) to
supernet, study, loop, front, export and verification.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw_profiles.harness import Harness
from hw_profiles.profile import DeviceProfile
from nas import __version__
from nas.archive import arithmetic_line, draw, open_study, read_study, resume_command
from nas.budget import parse_budgets
from nas.candidate import CandidateSpace
from nas.data.dataset import Dataset
from nas.data.first_look import FirstLook
from nas.data.metric import METRICS
from nas.engine.samplers import require_sampler
from nas.equipment import (
    Equipment,
    equip,
    equip_for,
    obtain,
    profiles_of,
    space_and_data,
    target_profiles,
)
from nas.errors import ExecutorError, NotFoundError, StudyExistsError, UsageError
from nas.events import Event, Listener, silent
from nas.executors.registry import require_executor
from nas.files import require_writable
from nas.one_target import on_target
from nas.request import RunOptions, SearchRequest, refuse_mismatch
from nas.setting import Reach, Setting
from nas.storage.database import open_database
from nas.storage.records import ProfileRecord, StudyRecord, TrialRecord
from nas.storage.studies import Studies
from nas.study import Study, front_columns, judged_column
from nas.target_names import at
from nas.targets import can_verify, local_profile
from nas.training.recipe_text import recipe_for, recipe_text
from nas.training.store import TrainedSupernet
from nas.trials import run_trials, with_test_quality
from predictors.costs import CostModel

if TYPE_CHECKING:
    from nas.executors.ray_measure import RayMeasurer
    from nas.verification import Measure


@contextmanager
def _studies(url: str, create: bool = True) -> Iterator[Studies]:
    with open_database(url, create=create) as database:
        yield Studies(database)


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
        ExecutorError: if the workers cannot be started, or every evaluation failed.
        StorageError, CheckpointError, ProfileError, ExportError: if a place cannot be used.
    """
    options = options or RunOptions()
    require_sampler(request.sampler)
    require_executor(options.executor, options.workers)
    space, data = space_and_data(request.space, request.preset, request.data)
    request = replace(request, preset=space.preset, data=data.name).judged_by(data.metric)
    own_recipe = recipe_text(recipe_for(space, None))
    request = replace(request, recipe=recipe_text(recipe_for(space, request.recipe)))
    if request.first_look is not None:
        FirstLook.of(data.validation, request.first_look, request.batch_size)
    name = options.study or request.study_name()
    if name.startswith(".") or set(name) & set("/\\"):
        raise UsageError(f"{name!r} cannot name a study and its folder.", "Leave out / and \\.")
    require_writable(options.out / name / "front.png", "--out")
    # Nothing is created before the request is known to be sound.
    known, profiles = _existing(name, request, own_recipe, options.storage)
    if not profiles:
        profiles = target_profiles(request, space, listener)
    budgets = parse_budgets(request.budgets, request.labels)
    setting = Setting(space, profiles, request.batch_size, budgets, request.schemes)
    setting.require_figures(front_columns(request.objectives))
    reaches = setting.require_reachable()
    for line in (*_said_of_targets(setting), *map(str, reaches)):
        listener(Event("note", line))
    with _studies(options.storage) as studies:
        digest = known.supernet_digest if known else None
        supernet = obtain(request, options, space, data, digest, listener)
        if known is None:
            try:
                known = _open_study(studies, name, request, setting, reaches, data, supernet)
            except StudyExistsError:  # since a moment ago, by another process: this one resumes it
                return search(request, options, listener)
        with studies.claimed(known.id):
            studies.set_request(known.id, {**known.request, "asked": request.to_json()})
            resume_with = resume_command(name, request.trials, options)
            listener(Event("study", f"study {name}; resume with: {resume_with}"))
            judged = replace(data, judged_by=request.quality)
            size = request.batch_size
            equipment = equip(setting.candidates, judged, setting.profile, supernet, size)
            run_trials(studies, known, request, setting, equipment, options, listener)
            _require_one(studies, known)
            out = options.out if options.export else None
            timed = [label for label, profile in profiles.items() if can_verify(profile)]
            _report_front(studies, known, equipment, profiles, out, listener, timed)
            found = read_study(studies, known)
        draw(found, options.out)
        return found


def _require_one(studies: Studies, study: StudyRecord) -> None:
    """Refuse a study all of whose evaluations failed: there is nothing to show of it."""
    counts = studies.counts(study.id)
    if counts.get("failed") and not counts.get("complete"):
        last = studies.trials(study.id, state="failed")[-1]
        raise ExecutorError(
            f"all {counts['failed']} evaluations failed, the last one with: {last.reason}",
            f"See `nas studies show {study.name} --failed`.",
        )


def _existing(
    name: str, request: SearchRequest, own_recipe: str, url: str
) -> tuple[StudyRecord | None, dict[str, DeviceProfile]]:
    """The study that this request continues, with its profiles; neither if there is none."""
    try:
        with _studies(url, create=False) as studies:
            known = studies.find_study(name)
            _refuse_other(studies, known, request, own_recipe)
            return known, profiles_of(studies, known)
    except NotFoundError:
        return None, {}


def _refuse_other(
    studies: Studies, known: StudyRecord, request: SearchRequest, own_recipe: str
) -> None:
    """Refuse another request than the study's, or fewer trials than it has."""
    asked = known.request["asked"]
    before = {**asked, "recipe": asked.get("recipe") or own_recipe}  # once, None was kept
    refuse_mismatch(known.name, before, request.to_json())
    done = sum(studies.counts(known.id).values())
    if request.trials < done:
        raise UsageError(
            f"study {known.name!r} has {done} trials already, more than --trials {request.trials}.",
            f"Ask for {done} or more, or see the front with `nas pareto {known.name}`.",
        )


def _open_study(
    studies: Studies,
    name: str,
    request: SearchRequest,
    setting: Setting,
    reaches: list[Reach],
    data: Dataset,
    supernet: TrainedSupernet,
) -> StudyRecord:
    for each in setting.targets.values():
        document = each.model_dump(mode="json")
        studies.save_profile(ProfileRecord(each.name, each.fingerprint(), document))
    profile = setting.profile
    limits = [asdict(budget) for budget in setting.budgets]
    return studies.create_study(
        StudyRecord(
            name=name,
            space=request.space,
            preset=setting.space.preset,
            target=", ".join(request.targets),
            runtime=profile.runtime.name,
            batch_size=request.batch_size,
            data=data.name,
            objectives=list(request.objectives),
            budgets=[str(b) for b in parse_budgets(request.budgets, request.labels)],
            seed=request.seed,
            sampler=request.sampler,
            request={
                "asked": request.to_json(),
                "limits": limits,
                "n_classes": data.n_classes,
                "in_channels": data.in_channels,
                "schemes": list(setting.candidates.schemes),
                "n_validation": len(data.validation),
                "n_originals": len(data.validation) // data.validation.draws,
                "reach": [str(reach) for reach in reaches],
                **_provenance(setting.costs.first),
                "reference": _reference(request, setting, data),
                **_targets(setting, reaches),
            },
            supernet_fingerprint=supernet.fingerprint,
            supernet_digest=supernet.digest,
            version=__version__,
            profile_fingerprint=profile.fingerprint(),
        )
    )


def _provenance(model: CostModel) -> dict[str, str]:
    """Where the predictions come from: latency, and energy where the target has figures of it."""
    lines = {"target_summary": model.latency.provenance}
    return lines | ({} if model.energy is None else {"energy_summary": model.energy.provenance})


def _targets(setting: Setting, reaches: list[Reach]) -> dict[str, Any]:
    """What is kept of each of several targets; see `nas.one_target`."""
    of_each = {
        label: {
            "profile": setting.targets[label].fingerprint(),
            "runtime": setting.targets[label].runtime.name,
            "schemes": list(setting.schemes[label]),
            "reach": [str(r) for r in reaches if r.budget.target in (None, label)],
            **_provenance(setting.costs.models[label]),
        }
        for label in setting.labels
    }
    return {"targets": of_each} if of_each else {}


def _said_of_targets(setting: Setting) -> list[str]:
    """Where each target's predictions come from, and what candidates are evaluated in."""
    lines = []
    for label, model in setting.costs.models.items():
        of = f"{label}: " if setting.labels else ""
        lines += [of + line for line in _provenance(model).values()]
    if setting.labels:
        first, *others = setting.labels
        lines.append(arithmetic_line(first, setting.profile.runtime.name, others))
    return lines


def _reference(request: SearchRequest, setting: Setting, data: Dataset) -> dict[str, float]:
    """The worst values that count for the hypervolume: chance, and each cost's budget or largest.

    Text is judged in bits per byte, of which chance is eight.
    """
    chance = {
        "accuracy": 1.0 / data.n_classes,
        "loss": math.log(data.n_classes),
        "bits_per_byte": 8.0,
    }
    limits = {budget.column: budget.limit for budget in setting.budgets}
    point = {}
    latencies = [at("latency", label) for label in setting.labels]  # of the front of each alone
    for name in dict.fromkeys([*request.objectives, *latencies]):
        if name in METRICS:
            point[name] = chance[name]
        else:
            column = judged_column(name)
            largest = setting.costs.extreme(column, largest=True)[0]
            point[name] = float(min(largest, limits.get(column, largest)))
    return point


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


def _equipment(
    study: Study, profile: DeviceProfile, options: RunOptions, listener: Listener
) -> Equipment:
    """What a finished study was evaluated with; the profile is that of its first target."""
    r = study.record
    request = SearchRequest.from_json(r.request["asked"])
    space, data = space_and_data(request.space, request.preset, request.data)
    supernet = obtain(request, options, space, data, r.supernet_digest, listener)
    candidates = CandidateSpace(space, tuple(r.request["schemes"]))
    judged = replace(data, judged_by=study.metric.name)
    return equip(candidates, judged, profile, supernet, r.batch_size)


def export(name: str, options: RunOptions | None = None, listener: Listener = silent) -> Study:
    """Write each network of a study's front, checked against the supernet's output.

    Of several targets each gets files of its own.

    Raises:
        ExportError: if one cannot be written or differs.
    """
    options = options or RunOptions()
    study = open_study(name, options.storage)
    with _studies(options.storage) as studies:
        profiles = profiles_of(studies, study.record)
        equipment = _equipment(study, next(iter(profiles.values())), options, listener)
        _report_front(studies, study.record, equipment, profiles, options.out, listener, ())
        return read_study(studies, study.record)


def verify(name: str, options: RunOptions | None = None, listener: Listener = silent) -> Study:
    """Time the front for real where a target is this machine, or a node of a Ray cluster.

    Raises:
        MeasureError: if a network cannot be run there.
        ExecutorError: if there is no such node, or it is lost.
    """
    options = options or RunOptions()
    study = open_study(name, options.storage)
    with _studies(options.storage, create=False) as studies:
        profiles = profiles_of(studies, study.record)
    with ExitStack() as opened:
        measurer = None
        if options.measure_on is not None:
            measurer = opened.enter_context(_measurer(options.measure_on))
        where = "this machine" if measurer is None else f"the node {options.measure_on!r}"
        cpu = None if measurer is None else measurer.device()
        here = {label: profile for label, profile in profiles.items() if can_verify(profile, cpu)}
        if not here:
            named = [f"{p.device.name} under {p.runtime.name}" for p in profiles.values()]
            text = (
                f"{' and '.join(named)} {'is' if len(named) == 1 else 'are'} not {where}: nothing "
                "was measured. Verify on the device itself, from the exported subnets."
            )
            listener(Event("note", text))
            return replace(study, notes=(text,))
        equipment = _equipment(study, next(iter(profiles.values())), options, listener)
        measure = None if measurer is None else measurer.measure
        with _studies(options.storage) as studies:
            record = study.record
            _report_front(studies, record, equipment, here, options.out, listener, here, measure)
            found = read_study(studies, record)
    draw(found, options.out)
    return found


def _measurer(label: str) -> RayMeasurer:
    from nas.executors.ray_cluster import require_ray

    require_ray()
    from nas.executors.ray_measure import RayMeasurer

    return RayMeasurer(label)


def _report_front(
    studies: Studies,
    record: StudyRecord,
    equipment: Equipment,
    profiles: Mapping[str, DeviceProfile],
    out: Path | None,
    listener: Listener,
    timed: Collection[str],
    measure: Measure | None = None,
) -> None:
    """Test quality of every network of the front, and its files for each target if wanted.

    Args:
        studies: of the database.
        record: the study.
        equipment: of its first target, in whose arithmetic networks are evaluated.
        profiles: of the targets to write files for.
        out: folder for them; None writes none and measures nothing.
        listener: told of the progress.
        timed: targets of these on which networks are timed.
        measure: that times them; this machine does unless given.
    """

    def seen_on(label: str) -> Study:  # read anew: with what was found out meanwhile
        study = read_study(studies, record)
        return on_target(study, label) if record.targets else study

    if out is None or record.targets:
        _test_front(studies, read_study(studies, record), equipment, listener)
    if out is None:
        return
    for label, profile in profiles.items():
        target, mine, folder = None, equipment, out / record.name / "subnets"
        if record.targets:
            schemes = record.request["targets"][label]["schemes"]
            target, mine, folder = label, equip_for(equipment, profile, schemes), folder / label
        _export(studies, seen_on(label), mine, folder, target, listener)
        if label in timed:
            _verify(studies, seen_on(label), mine, target, listener, measure)


def _test_front(studies: Studies, study: Study, equipment: Equipment, listener: Listener) -> None:
    """Test quality of every network of the front."""
    e, front = equipment, study.front_trials()
    for done, trial in enumerate(front, 1):
        with_test_quality(studies, trial, e.candidates, e.evaluator, e.data)
        text = f"{study.metric.title} on the test part"
        listener(Event("test", text, done, len(front)))


def _export(
    studies: Studies,
    study: Study,
    equipment: Equipment,
    folder: Path,
    target: str | None,
    listener: Listener,
) -> None:
    """Write the front's networks, with their test quality where it is not known yet."""
    from nas.export.front import FrontExporter

    def complete(trial: TrialRecord) -> TrialRecord:
        e = equipment
        return with_test_quality(studies, trial, e.candidates, e.evaluator, e.data)

    front = study.front_trials()
    exporter = FrontExporter(study, equipment, folder)
    for done, artefact in enumerate(exporter.write(front, complete), 1):
        studies.add_artefact(replace(artefact, kind=at(artefact.kind, target)))
        listener(Event("export", f"subnet {done} of {len(front)}", done, len(front)))


def _verify(
    studies: Studies,
    study: Study,
    equipment: Equipment,
    target: str | None,
    listener: Listener,
    measure: Measure | None,
) -> None:
    from nas.verification import verify_front

    for record in verify_front(study, equipment, listener, measure):
        studies.add_measurement(replace(record, quantity=at(record.quantity, target)))


def train(
    request: SearchRequest,
    options: RunOptions | None = None,
    listener: Listener = silent,
    *,
    epochs: int | None = None,
) -> list[str]:
    """Train a supernet and keep it; what to say of it, line by line.

    Args:
        request: of which space, preset, data, recipe, init and the training's seed count.
        options: how long to train, and whether anew.
        listener: told of the progress.
        epochs: instead of the recipe's.

    Raises:
        UsageError, NotFoundError: if space and data do not exist or fit.
        CheckpointError: if it cannot be kept.
    """
    space, data = space_and_data(request.space, request.preset, request.data)
    by = recipe_for(space, request.recipe)
    recipe = recipe_text(by if epochs is None else replace(by, epochs=epochs))
    request = replace(request, recipe=recipe)
    kept = obtain(request, options or RunOptions(), space, data, None, listener)
    config, metric = kept.config, data.metric
    return [
        f"supernet {space.name} ({space.preset}) for {data.name} by {recipe}: {kept.fingerprint}",
        f"{metric.title} on validation: largest {metric.format(config['quality_largest'])}, "
        f"smallest {metric.format(config['quality_smallest'])}",
        f"trained {config['trained']} for {config['seconds'] / 60:.1f} minutes",
        f"kept in {kept.path}",
    ]


def profile(
    harness: Harness,
    out: Path | None,
    batch_size: int,
    spaces: list[str] | None,
    time_limit_s: float,
    listener: Listener = silent,
) -> tuple[Path, list[str]]:
    """Measure this machine and write its profile; where, and what to say of it, line by line.

    Raises:
        MeasureError: if there is no such device here, or the measurements fail.
        ExportError: if the file cannot be written.
    """
    from nas.profiling import describe_profile, profile_device, require_device

    require_device(harness)
    path = out or local_profile(batch_size, harness=harness)
    require_writable(path, "--out")
    made = profile_device(
        path.stem,
        harness,
        batch_size=batch_size,
        spaces=spaces,
        time_limit_s=time_limit_s,
        progress=lambda text, share: listener(Event("profile", text, share, 1.0)),
    )
    made.save(path)
    return path, describe_profile(made)
