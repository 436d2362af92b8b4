"""How a search finds the study that it continues, or keeps a new one with all that it stands on."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from hw_profiles.profile import DeviceProfile
from nas import __version__
from nas.archive import arithmetic_line
from nas.budget import parse_budgets
from nas.command_line import command
from nas.data.dataset import Dataset
from nas.data.metric import METRICS
from nas.data.registry import full_name
from nas.equipment import profiles_of
from nas.errors import NotFoundError, UsageError
from nas.request import SearchRequest, refuse_mismatch
from nas.setting import Reach, Setting
from nas.storage.database import open_database
from nas.storage.records import ProfileRecord, StudyRecord
from nas.storage.studies import Studies
from nas.study import judged_column
from nas.target_names import at
from nas.training.recipe_text import recipe_for, recipe_text
from nas.training.store import TrainedSupernet
from predictors.costs import CostModel
from search_spaces.space import SearchSpace


def continued_study(
    name: str, request: SearchRequest, space: SearchSpace, url: str
) -> tuple[StudyRecord | None, dict[str, DeviceProfile]]:
    """The study that a request continues, with its profiles; neither if there is none.

    Args:
        name: of the study.
        request: with all that it leaves open filled in.
        space: that it names.
        url: of the database, which is not created.

    Raises:
        StudyMismatchError: if the study exists for another request.
        UsageError: if it has more trials than are asked for.
        StorageError: if the database has not got a profile that it stands on.
    """
    with ExitStack() as opened:
        try:
            studies = Studies(opened.enter_context(open_database(url, create=False)))
            known = studies.find_study(name)
        except NotFoundError:
            return None, {}
        _refuse_other(studies, known, request, space, url)
        return known, profiles_of(studies, known)


def _refuse_other(
    studies: Studies, known: StudyRecord, request: SearchRequest, space: SearchSpace, url: str
) -> None:
    """Refuse another request than the study's, or fewer trials than it has."""
    asked = known.request["asked"]
    once = {  # what older versions kept otherwise
        "recipe": asked.get("recipe") or recipe_text(recipe_for(space, None)),
        "data": full_name(asked["data"]),
    }
    go_on = command(["resume", known.name], url)
    refuse_mismatch(known.name, {**asked, **once}, request.to_json(), go_on)
    done = sum(studies.counts(known.id).values())
    if request.trials < done:
        raise UsageError(
            f"study {known.name!r} has {done} trials already, more than --trials {request.trials}.",
            f"Ask for {done} or more, or see the front with "
            f"`{command(['pareto', known.name], url)}`.",
        )


# --- a new one ----------------------------------------------------------------------------------


def begin_study(
    studies: Studies,
    name: str,
    request: SearchRequest,
    setting: Setting,
    reaches: list[Reach],
    data: Dataset,
    supernet: TrainedSupernet,
) -> StudyRecord:
    """Keep a new study, and the profiles that it stands on.

    Args:
        studies: of the database.
        name: of the study.
        request: with all that it leaves open filled in.
        setting: the space on the targets, under the budgets.
        reaches: how far the space reaches under each budget.
        data: that it is judged on.
        supernet: that holds the weights.
    """
    kept = [
        ProfileRecord(each.name, each.fingerprint(), each.model_dump(mode="json"))
        for each in setting.targets.values()
    ]
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
        ),
        kept,
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


def said_of_targets(setting: Setting) -> list[str]:
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
