"""Looking things up: spaces, targets, predictions, and what matters for a bug report."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import search_spaces
from hw_profiles import registry
from hw_profiles.machine import nvidia_gpus, this_cpu
from hw_profiles.profile import DeviceProfile, FitError, NetworkModel
from nas import __version__
from nas.budget import format_quantity
from nas.candidate import parse_architecture
from nas.comparison import Compared
from nas.errors import NasError, NotFoundError
from nas.paths import cache_dir
from nas.request import require_batch_size
from nas.setting import Setting
from nas.storage.database import open_database
from nas.storage.faults import hide_password
from nas.storage.studies import Studies
from nas.targets import (
    THIS_CPU,
    added_targets,
    local_profile,
    measured_by_searches,
    resolve_target,
)
from search_spaces.choices import Choice, Value
from search_spaces.space import SearchSpace

COUNTED = ("memory_bytes", "params", "weight_bytes", "macs")
_PACKAGES = (
    "torch", "numpy", "optuna", "pymoo", "scikit-learn", "sqlalchemy", "onnx", "onnxruntime",
)  # fmt: skip


def list_spaces() -> list[dict[str, Any]]:
    """Every registered space with its presets."""
    return [
        {"space": name, "presets": list(presets), "what": title}
        for name, (title, presets) in search_spaces.names().items()
    ]


def describe_space(
    name: str, preset: str | None, target: str | None, batch_size: int = 1
) -> dict[str, Any]:
    """Choices, exact number of architectures, and smallest, middle and largest ones.

    Figures are plain numbers, in the units that their names say.

    Raises:
        NotFoundError: if there is no such space, preset or target.
        UsageError: if the batch size is out of range.
    """
    require_batch_size(batch_size)
    space = search_spaces.get(name, preset)
    choices = _folded(space)
    sample = space.choices.sample(501, np.random.default_rng(0))
    archs = [space.choices.decode(row) for row in sample]
    params = [sum(op.params for _, op in space.workload(a)) for a in archs]
    middle = archs[int(np.argsort(params)[len(params) // 2])]
    setting = None
    if target is not None:
        setting = Setting(space, resolve_target(target, batch_size, space=space), batch_size)
    shown = []
    named = {"smallest": space.smallest(), "middle": middle, "largest": space.largest()}
    for label, arch in named.items():
        ops = [op for _, op in space.workload(arch, batch_size)]
        row: dict[str, Any] = {
            "network": label,
            "params": sum(op.params for op in ops),
            "macs": sum(op.op.macs for op in ops),
        }
        if setting is not None:
            row |= _costs(setting, arch, setting.profile.precisions[0])
        shown.append({**row, "architecture": space.describe(arch)})
    return {
        "space": name,
        "preset": space.preset,
        "title": search_spaces.names()[name][0],
        "target": None if setting is None else setting.profile.name,
        "architectures": space.choices.cardinality(),
        "choices": choices,
        "extremes": shown,
    }


def _folded(space: SearchSpace) -> list[dict[str, Any]]:
    """The choices; those that differ by an index alone share a line."""
    rows: dict[tuple[str, tuple[Value, ...]], list[Choice]] = {}
    for choice in space.choices.choices:
        rows.setdefault((re.sub(r"\d+", "*", choice.name), choice.values), []).append(choice)
    shown = []
    for (_, values), alike in rows.items():
        conditions = {choice.active for choice in alike}
        parents = {c.choice for c in conditions if c is not None}
        active = "always"
        if len(conditions) == 1 and (only := alike[0].active) is not None:
            active = f"if {only.choice} in {', '.join(map(str, sorted(only.values, key=str)))}"
        elif parents:
            active = f"depends on {_pattern(parents)}"
        shown.append(
            {
                "choice": _pattern({choice.name for choice in alike}),
                "times": len(alike),
                "values": list(values),
                "active": active,
            }
        )
    return shown


def _pattern(names: set[str]) -> str:
    """Names that differ by indices alone in one: a star where they differ.

    >>> _pattern({"stages.0.2.kernel", "stages.1.2.kernel"})
    'stages.*.2.kernel'
    """
    alike: dict[str, list[list[str]]] = {}
    for name in sorted(names):
        alike.setdefault(re.sub(r"\d+", "*", name), []).append(name.split("."))
    return ", ".join(
        ".".join(part[0] if len(set(part)) == 1 else "*" for part in zip(*group, strict=True))
        for group in alike.values()
    )


def _costs(setting: Setting, arch: dict[str, Value], scheme: str) -> dict[str, float]:
    """Costs by column; what is counted, whole."""
    costs = {k: float(v[0]) for k, v in setting.uniform_costs([arch], scheme).items()}
    return {k: round(v) if k in COUNTED else v for k, v in costs.items()}


def _error(error: FitError | None) -> str:
    if error is None:
        return "not measured"
    return f"{error.mape:.1f}% on {error.rows} kept out"


def list_targets() -> list[dict[str, Any]]:
    """Every target with its provenance and error; a profile that cannot be read says why."""
    rows = []
    for name in [*registry.shipped(), *added_targets(), THIS_CPU]:
        try:
            rows.append(_target_row(name, resolve_target(name)))
        except NasError as error:
            unprofiled = name == THIS_CPU and isinstance(error, NotFoundError)
            unreadable = {"target": name, "device": f"unreadable: {error}"}
            rows.append(_unprofiled_row() if unprofiled else unreadable)
    return rows


def _unprofiled_row() -> dict[str, Any]:
    return {
        "target": THIS_CPU,
        "device": this_cpu().name,
        "runtime": "onnxruntime",
        "precisions": [],
        "source": _of_searches() or "not profiled yet: `nas profile`, or the first search, does it",
        "error": "-",
        "energy": "-",
    }


def _of_searches() -> str:
    """What searches measured of this machine, in words; empty where it is nothing."""
    found = ", ".join(measured_by_searches())
    return f"measured for {found} by a search; `nas profile` does it for all" if found else ""


def _target_row(name: str, profile: DeviceProfile) -> dict[str, Any]:
    kinds = sorted({m.provenance for m in profile.op_models}) or ["measured"]
    return {
        "target": name,
        "device": profile.device.name,
        "runtime": profile.runtime.name,
        "precisions": list(profile.precisions),
        "source": " and ".join(kinds) + (f" {profile.created}" if profile.created else ""),
        "error": _target_error(profile),
        "energy": _energy_cell(profile.energy),
    }


def _target_error(profile: DeviceProfile) -> str:
    """Of networks where some were timed, else of products, else how wide the bounds are."""
    if profile.network is not None and profile.network.error is not None:
        return f"networks {_error(profile.network.error)}"
    products = profile.op_model("linear", profile.runtime.native)
    if products is not None and products.error is not None:
        return f"products {_error(products.error)}"
    forms = [model.params for model in profile.op_models]
    named = [params.get(name) for params in forms for name in ("upper", "narrow_upper")]
    uppers = [upper for upper in named if isinstance(upper, float)]
    if uppers:
        return f"never timed: bounds are {min(uppers):g} to {max(uppers):g} times the prediction"
    return _error(None)


def _energy_cell(model: NetworkModel | None) -> str:
    return "none" if model is None else f"{model.provenance}, error {_error(model.error)}"


def describe_target(name: str) -> dict[str, Any]:
    """A target with the source and error of each group of figures.

    Raises:
        NotFoundError, ProfileError: if there is no such target or file.
    """
    profile = resolve_target(name)
    shown: dict[str, Any] = {
        "target": profile.name,
        "device": profile.device.name,
        "device source": profile.device.source,
        "runtime": f"{profile.runtime.name} {profile.runtime.version}".strip(),
        "threads": profile.runtime.threads,
        "native precision": profile.runtime.native,
        "precisions": list(profile.precisions),
    }
    if profile.created:
        shown["created"] = profile.created
    if profile.network is not None:
        shown["networks"] = _model_line(profile.network)
    for space, model in profile.space_networks.items():
        shown[f"networks of {space}"] = _model_line(model)
    shown["energy"] = "no figures"
    if profile.energy is not None:
        shown["energy"] = _model_line(profile.energy)
    elif profile.power is not None and profile.power.why_not:
        shown["energy"] += f", {profile.power.why_not}"
    for note in profile.notes:
        shown.setdefault("notes", []).append(note)
    if profile.op_models:
        shown["ops"] = _op_rows(profile)
    else:
        shown["measured"] = f"{len(profile.ops)} ops, {len(profile.networks)} networks"
    return shown


def _op_rows(profile: DeviceProfile) -> list[dict[str, Any]]:
    """The op models; those that say the same of where they come from share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for m in profile.op_models:
        rows.setdefault((m.precision, m.provenance, _error(m.error), m.source), []).append(m.kind)
    names = ("precision", "provenance", "error", "source")
    return [
        {"op": ", ".join(kinds)} | dict(zip(names, said, strict=True))
        for said, kinds in rows.items()
    ]


def _model_line(model: NetworkModel) -> str:
    return (
        f"{model.provenance}: {model.source.rstrip('.')}; error {_error(model.error)}; "
        f"upper bound at {model.coverage:.0%}"
    )


def draw_target(name: str, folder: Path) -> Path:
    """Draw a target's errors into a folder; the picture.

    Raises:
        NotFoundError, ProfileError: if there is no such target or file.
        UsageError: if it has nothing to draw.
        ExportError: if the picture cannot be written.
    """
    from nas.report.target_pictures import save_profile

    profile = resolve_target(name)
    path = folder / f"{profile.name}.png"
    save_profile(profile, path)
    return path


def draw_comparison(compared: Compared, folder: Path) -> Path:
    """Draw two targets into a folder; the picture.

    Raises:
        ExportError: if the picture cannot be written.
    """
    from nas.report.target_pictures import save_comparison

    path = folder / f"{'-'.join(Path(name).stem for name in compared.names)}.png"
    save_comparison(compared, path)
    return path


def predict(
    name: str,
    preset: str | None,
    target: str,
    arch: str,
    scheme: str | None,
    batch_size: int = 1,
) -> dict[str, Any]:
    """Every cost of one network on a target.

    Raises:
        NotFoundError: if something named does not exist.
        UsageError: if the batch size is out of range.
    """
    space = search_spaces.get(name, preset)
    setting = Setting(space, resolve_target(target, batch_size, space=space), batch_size)
    architecture = parse_architecture(space, arch)
    scheme = setting.profile.precisions[0] if scheme is None else scheme
    costs = _costs(setting, architecture, scheme)
    model = setting.costs.first
    latency, energy = model.latency, model.energy
    weights, in_flash = format_quantity("weights", costs["weight_bytes"]), model.weights_in_flash
    where = f"batch {batch_size}, on {setting.profile.name}"
    lines = [
        f"{space.describe(architecture)} in {scheme}, {where}",
        f"latency  {format_quantity('latency', costs['latency_ms'])}, at most "
        f"{format_quantity('latency', costs['latency_ms_upper'])} at {latency.coverage:.0%} "
        "coverage",
        f"memory   {format_quantity('memory', costs['memory_bytes'])} at the peak, "
        + (f"{weights} weights in flash" if in_flash else f"of it {weights} weights"),
        f"params   {format_quantity('params', costs['params'])}",
        f"MACs     {format_quantity('macs', costs['macs'])}",
        f"source   {latency.provenance}",
    ]
    beyond = [b for b in setting.budgets if costs[b.column] > b.limit]
    for held in beyond:
        limit = format_quantity(held.quantity, held.limit)
        lines.append(f"does not fit: the device holds {limit} of {held.quantity}")
    further: dict[str, Any] = {"fits": not beyond}
    if energy is not None:
        lines.insert(
            2,
            f"energy   {format_quantity('energy', costs['energy_mj'])}, at most "
            f"{format_quantity('energy', costs['energy_mj_upper'])} at {energy.coverage:.0%} "
            "coverage",
        )
        lines.append(f"source   of energy: {energy.provenance}")
        further |= {"energy_coverage": energy.coverage, "energy_source": energy.provenance}
    return {
        "space": name,
        "preset": space.preset,
        "target": setting.profile.name,
        "batch_size": batch_size,
        "architecture": architecture,
        "scheme": scheme,
        **costs,
        "coverage": latency.coverage,
        "source": latency.provenance,
        **further,
        "lines": lines,
    }


def list_samplers() -> list[dict[str, Any]]:
    """Samplers with what they do."""
    from nas.engine import samplers

    return [{"sampler": name, "what": title} for name, title in samplers.list_samplers().items()]


def list_recipes() -> list[dict[str, Any]]:
    """Training recipes with what they do, and the spaces and presets whose default they are."""
    from nas.training.recipe import recipes
    from nas.training.recipe_text import recipe_for

    presets: dict[str, dict[str, list[str]]] = {}
    for name, (_, all_presets) in search_spaces.names().items():
        for preset in all_presets:
            recipe = recipe_for(search_spaces.get(name, preset), None).name
            presets.setdefault(recipe, {}).setdefault(name, []).append(preset)
    return [
        {
            "recipe": recipe,
            "what": title,
            "default of": "; ".join(
                f"{name} {', '.join(those)}" for name, those in presets.get(recipe, {}).items()
            )
            or "-",
        }
        for recipe, title in recipes().items()
    ]


def describe_recipe(name: str) -> dict[str, Any]:
    """A training recipe with the fields of it that may be set.

    Raises:
        NotFoundError: if there is no such recipe.
    """
    from nas.training.recipe_text import EXAMPLE, recipe_fields

    shown = recipe_fields(name)
    (about,) = (row for row in list_recipes() if row["recipe"] == name)
    return {**about, "fields": shown, "example": f"{name}:{EXAMPLE}"}


def list_data() -> list[dict[str, Any]]:
    """Registered data sets with what they are, and the spaces whose default they are."""
    from nas.data.registry import list_datasets

    spaces: dict[str, list[str]] = {}
    for name in search_spaces.names():
        spaces.setdefault(search_spaces.get(name).default_data, []).append(name)
    return [
        {"data": name, "what": title, "default of": ", ".join(spaces.get(name, [])) or "-"}
        for name, title in list_datasets().items()
    ]


def doctor(storage: str) -> dict[str, str]:
    """Versions, devices, threads, cache and storage; passwords are hidden."""
    cpu = this_cpu()
    shown = {
        "frontier-nas": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    shown |= {name: version(name) for name in _PACKAGES}
    shown["cpu"] = f"{cpu.name}, {cpu.cores} cores, {(cpu.memory_bytes or 0) / 2**30:.0f} GiB"
    shown["gpus"] = "; ".join(nvidia_gpus()) or "none that the NVIDIA driver shows"
    threads = os.environ.get("OMP_NUM_THREADS")
    shown["threads"] = f"OMP_NUM_THREADS={threads}" if threads else "all cores"
    profile = local_profile()
    shown["cache"] = str(cache_dir())
    shown["cpu profile"] = str(profile)
    if not profile.exists():
        shown["cpu profile"] = _of_searches() or "none yet (`nas profile`)"
    shown["storage"] = hide_password(storage)
    try:
        with open_database(storage, create=False) as database:
            shown["studies"] = str(len(Studies(database).list_studies()))
    except NasError as error:
        shown["studies"] = f"none: {error.message}"
    return shown
