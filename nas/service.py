"""The service: search, resume, export, verify, train and profile, without a terminal.

A search flows from the request through space, target and budgets (before anything is trained) to
supernet, study, loop, front, export and verification.
"""

from __future__ import annotations

import os
import re
import shlex
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import search_spaces
from hw_profiles.harness import Harness
from hw_profiles.profile import DeviceProfile
from nas.archive import draw, open_study, read_study, resume_command
from nas.budget import parse_budgets
from nas.candidate import CandidateSpace
from nas.command_line import command
from nas.data.first_look import FirstLook
from nas.engine.samplers import get_sampler, require_sampler
from nas.equipment import (
    Equipment,
    equip,
    obtain,
    profiles_of,
    space_and_data,
    target_profiles,
)
from nas.errors import ExecutorError, StudyExistsError, UsageError
from nas.events import Event, Listener, silent
from nas.executors.registry import require_executor
from nas.export.limits import require_onnx_size
from nas.files import require_writable
from nas.front import finish_front
from nas.opening import begin_study, continued_study, said_of_targets
from nas.request import RunOptions, SearchRequest
from nas.setting import Setting
from nas.storage.database import open_database, require_kept
from nas.storage.records import StudyRecord
from nas.storage.studies import Studies, require_name
from nas.study import Study, front_columns
from nas.targets import can_verify, local_profile, lost_spaces, require_target_name
from nas.training.distributed import first_process
from nas.training.obtain import own_supernet
from nas.training.recipe import Recipe
from nas.training.recipe_text import recipe_for, recipe_text
from nas.trials import problem_of, run_trials, waited
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.executors.ray_measure import RayMeasurer


FOLDER_BYTES = 255
"""Of a folder's name, on every file system in use."""

# --- search -------------------------------------------------------------------------------------


def search(
    request: SearchRequest, options: RunOptions | None = None, listener: Listener = silent
) -> Study:
    """Run a search to its last trial, or resume it where it stood.

    Raises:
        UsageError: if the request contradicts itself.
        NotFoundError: if something it names does not exist.
        BudgetError: if no candidate meets the budgets; nothing was trained then.
        StudyMismatchError: if the study exists for another request, or its data have changed.
        ExecutorError: if the workers cannot be started, or every evaluation failed.
        StorageError, CheckpointError, ProfileError: if a place cannot be used.
        ExportError: if that of the files cannot be, or the networks are too large for them.
    """
    options = options or RunOptions()
    require_sampler(request.sampler)
    require_executor(options.executor, options.workers)
    require_kept(options.storage)
    space, data = space_and_data(request.space, request.preset, request.data)
    request = replace(request, preset=space.preset, data=data.name).judged_by(data.metric)
    recipe = recipe_for(space, request.recipe)
    request = replace(request, recipe=recipe_text(recipe))
    if request.first_look is not None:
        FirstLook.of(data.validation, request.first_look, request.batch_size)
    name = request.study_name() if options.study is None else options.study
    _require_folder_name(name)
    require_writable(options.out / name / "front.png", "--out")
    if options.export:
        held = sum(op.params for _, op in space.workload(space.largest()))
        require_onnx_size(held, f"the largest network of {space.name} ({space.preset})")
    # Nothing is created before the request is known to be sound.
    known, profiles = continued_study(name, request, space, options.storage)
    if not profiles:
        profiles = target_profiles(request, space, listener)
    budgets = parse_budgets(request.budgets, request.labels)
    setting = Setting(space, profiles, request.batch_size, budgets, request.schemes)
    setting.require_figures(front_columns(request.objectives))
    reaches = setting.require_reachable()
    # Or it says why it does not apply.
    get_sampler(request.sampler, problem_of(request, setting), request.seed)(0)
    for line in (*said_of_targets(setting), *map(str, reaches)):
        listener(Event("note", line))
    with open_database(options.storage) as database:
        studies = Studies(database)
        if known is None:
            supernet = obtain(request, recipe, options, space, data, listener)
            try:
                known = begin_study(studies, name, request, setting, reaches, data, supernet)
            except StudyExistsError:  # since a moment ago, by another process: this one resumes it
                return search(request, options, listener)
        else:
            supernet = own_supernet(space, known.supernet_digest, data)
            if options.retrain:
                text = "the supernet that this study began with stays: --retrain is for a new study"
                listener(Event("note", text))
        with studies.claimed(known):
            asked = {**known.request, "asked": request.to_json(), "ended": None}
            studies.set_request(known.id, asked)
            resume_with = resume_command(name, request.trials, options)
            listener(Event("study", f"study {name}; resume with: {resume_with}"))
            judged = replace(data, judged_by=request.quality)
            size = request.batch_size
            equipment = equip(setting.candidates, judged, setting.profile, supernet, size)
            ended = run_trials(studies, known, request, setting, equipment, options, listener)
            known = replace(known, request={**asked, "ended": ended})
            waited(lambda: studies.set_request(known.id, known.request), listener)
            _require_one(studies, known, options.storage)
            out = options.out if options.export else None
            timed = [label for label, profile in profiles.items() if can_verify(profile)]
            finish_front(studies, known, equipment, profiles, out, listener, timed)
            found = read_study(studies, known)
        draw(found, options.out)
        return found


def _require_folder_name(name: str) -> None:
    """Refuse what cannot name a study, its folder, and it in the commands that are printed."""
    require_name(name)
    if name.startswith((".", "-")) or set(name) & set("/\\"):
        raise UsageError(
            f"{name!r} cannot name a study and its folder.",
            "Leave out / and \\, and begin with neither a dot nor a dash.",
        )
    if len(os.fsencode(name)) > FOLDER_BYTES:
        raise UsageError(f"{name[:40]!r} is too long for the name of a folder.", "Shorten it.")


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
    wanted = max(request.trials, len(known.trials)) if trials is None else trials
    return search(replace(request, trials=wanted), options, listener)


def _require_one(studies: Studies, study: StudyRecord, storage: str) -> None:
    """Refuse a study all of whose evaluations failed: there is nothing to show of it."""
    counts = studies.counts(study.id)
    if counts.get("failed") and not counts.get("complete"):
        last = studies.trials(study.id, state="failed")[-1]
        raise ExecutorError(
            f"all {counts['failed']} evaluations failed, the last one with: {last.reason}",
            f"See `{command(['studies', 'show', study.name, '--failed'], storage)}`.",
        )


# --- the front of a study -----------------------------------------------------------------------


def export(name: str, options: RunOptions | None = None, listener: Listener = silent) -> Study:
    """Write each network of a study's front, checked against the supernet's output.

    Of several targets each gets files of its own.

    Raises:
        ExportError: if one cannot be written or differs.
        StorageError: if another process runs, exports or verifies the study.
    """
    options = options or RunOptions()
    study = open_study(name, options.storage)
    with open_database(options.storage) as database:
        studies = Studies(database)
        profiles = profiles_of(studies, study.record)
        with studies.claimed(study.record):
            equipment = _equipment(study, next(iter(profiles.values())))
            finish_front(studies, study.record, equipment, profiles, options.out, listener, ())
            return read_study(studies, study.record)


def verify(name: str, options: RunOptions | None = None, listener: Listener = silent) -> Study:
    """Time the front for real where a target is this machine, or a node of a Ray cluster.

    Raises:
        MeasureError: if a network cannot be run there.
        ExecutorError: if there is no such node, or it is lost.
        StorageError: if another process runs, exports or verifies the study.
    """
    options = options or RunOptions()
    study = open_study(name, options.storage)
    with open_database(options.storage, create=False) as database:
        studies = Studies(database)
        profiles = profiles_of(studies, study.record)
    with ExitStack() as opened:
        measurer = None
        if options.measure_on is not None:
            measurer = opened.enter_context(_measurer(options.measure_on))
        where = "this machine" if measurer is None else f"the node {options.measure_on!r}"
        cpu = None if measurer is None else measurer.device()
        here = {label: profile for label, profile in profiles.items() if can_verify(profile, cpu)}
        if not here:
            named = [f"{_device(p)} under {p.runtime.name}" for p in profiles.values()]
            text = (
                f"{' and '.join(named)} {'is' if len(named) == 1 else 'are'} not {where}: nothing "
                "was measured. Verify on the device itself, from the exported subnets."
            )
            listener(Event("note", text))
            draw(study, options.out)
            return replace(study, notes=(text,))
        record, measure = study.record, None if measurer is None else measurer.measure
        studies = Studies(opened.enter_context(open_database(options.storage)))
        with studies.claimed(record):
            equipment = _equipment(study, next(iter(profiles.values())))
            finish_front(studies, record, equipment, here, options.out, listener, here, measure)
            found = read_study(studies, record)
    draw(found, options.out)
    return found


def _device(profile: DeviceProfile) -> str:
    """A profile's device, a processor with its cores: it is another with more or fewer."""
    device = profile.device
    if device.kind != "cpu" or device.cores is None:
        return device.name
    return f"{device.name} with {device.cores} core{'s' if device.cores > 1 else ''}"


def _equipment(study: Study, profile: DeviceProfile) -> Equipment:
    """What a finished study was evaluated with; the profile is that of its first target."""
    r = study.record
    request = SearchRequest.from_json(r.request["asked"])
    space, data = space_and_data(request.space, request.preset, request.data)
    supernet = own_supernet(space, r.supernet_digest, data)
    candidates = CandidateSpace(space, tuple(r.request["schemes"]))
    judged = replace(data, judged_by=study.metric.name)
    return equip(candidates, judged, profile, supernet, r.batch_size)


def _measurer(label: str) -> RayMeasurer:
    from nas.executors.ray_cluster import require_ray

    require_ray()
    from nas.executors.ray_measure import RayMeasurer

    return RayMeasurer(label)


# --- what a search needs, ahead of it -----------------------------------------------------------


def train(
    request: SearchRequest,
    options: RunOptions | None = None,
    listener: Listener = silent,
    *,
    epochs: int | None = None,
) -> list[str]:
    """Train a supernet and keep it; what to say of it, line by line.

    Of several processes under `torchrun` the first one says it, the others nothing.

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
    recipe = recipe_for(space, request.recipe)
    if epochs is not None:
        recipe = _with_epochs(recipe, epochs, request.recipe)
    kept = obtain(request, recipe, options or RunOptions(), space, data, listener)
    if not first_process():
        return []
    config, metric, by = kept.config, data.metric, recipe_text(recipe)
    return [
        f"supernet {space.name} ({space.preset}) for {data.name} by {by}: {kept.fingerprint}",
        f"{metric.title} on validation: largest {metric.format(config['quality_largest'])}, "
        f"smallest {metric.format(config['quality_smallest'])}",
        f"trained {config['trained']} for {config['seconds'] / 60:.1f} minutes",
        f"kept in {kept.path}",
        f"search it with: {_search_command(space, request, recipe)}",
    ]


def _with_epochs(recipe: Recipe, epochs: int, text: str | None) -> Recipe:
    """A recipe of other epochs, unless its text names some."""
    if re.search(r"[:,]\s*epochs\s*=", text or ""):
        raise UsageError("--epochs and the recipe both say how many epochs.", "Leave one out.")
    return replace(recipe, epochs=epochs)


def _search_command(space: SearchSpace, request: SearchRequest, recipe: Recipe) -> str:
    """The command of a search on a supernet that was trained for a request, for this machine."""
    words = ["search", "--space", space.name]
    for option, value, usual in (
        ("--preset", space.preset, search_spaces.get(space.name).preset),
        ("--data", request.data, space.default_data),
        ("--recipe", recipe_text(recipe), recipe_text(recipe_for(space, None))),
        ("--init", request.init, None),
        ("--supernet-seed", request.supernet_seed, 0),
    ):
        if value not in (None, usual):
            words += [option, str(value)]
    return shlex.join(["nas", *words])


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
        UsageError: if the stem of `out` cannot name a target.
        NotFoundError: if a space is unknown.
        MeasureError: if there is no such device here, or the measurements fail.
        ExportError: if the file cannot be written.
    """
    from nas.probes import chosen_spaces
    from nas.profiling import describe_profile, profile_device, require_device

    require_device(harness)
    path = out or local_profile(batch_size, harness=harness)
    require_target_name(path.stem)
    require_writable(path, "--out")
    if lost := lost_spaces(path, (space for space, whole in chosen_spaces(spaces) if whole)):
        text = f"{path} is replaced: it covers {', '.join(lost)} too, the new profile will not"
        listener(Event("note", f"{text}. Give another --out to keep both."))
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
