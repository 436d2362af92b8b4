"""Targets by what a user types: a shipped device, a profile file, or `cpu`, this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from hw_profiles import registry
from hw_profiles.files import write_atomic
from hw_profiles.harness import RUNTIMES, Harness
from hw_profiles.machine import this_cpu
from hw_profiles.profile import NAME, Device, DeviceProfile, load_profile
from nas.errors import NotFoundError, ProfileError, UsageError
from nas.paths import cache_dir
from predictors.energy import energy_predictor
from predictors.latency import latency_predictor
from search_spaces.space import SearchSpace

THIS_CPU = "cpu"


def local_profile(
    batch_size: int = 1, space: SearchSpace | None = None, harness: Harness | None = None
) -> Path:
    """Where a profile of this machine is kept; it may not exist yet.

    Args:
        batch_size: that it is measured at.
        space: that it is measured for, by a search; the user's own profile has none.
        harness: another device, runtime, threads or state of the cache than one thread of the CPU
            in ONNX Runtime.
    """
    parts, harness = [THIS_CPU], harness or Harness()
    if harness.runtime != RUNTIMES["cpu"][0]:
        parts = [harness.device.replace(":", ""), harness.runtime, harness.native]
    if harness.threads != 1:
        parts.append(f"t{harness.threads}")
    if harness.flush_l2:
        parts.append("l2")
    if space is not None:
        parts += [space.name, space.preset]
    if batch_size != 1:
        parts.append(f"b{batch_size}")
    return cache_dir() / "profiles" / f"{'-'.join(parts)}.json"


def measured_by_searches() -> list[str]:
    """Spaces, as `vit:digits`, that searches measured this machine for, each by itself."""
    found: dict[str, None] = {}
    for path in sorted(local_profile().parent.glob(f"{THIS_CPU}-*.json")):
        with suppress(ProfileError):
            profile = load_profile(path)
            own = [f"{n.space}:{n.preset}" for n in profile.networks]
            named = path.stem.startswith(tuple(f"{THIS_CPU}-{n.replace(':', '-')}" for n in own))
            if named and is_this_machine(profile):
                found |= dict.fromkeys(own)
    return list(found)


def require_target_name(name: str) -> None:
    """Refuse what cannot name a profile, before minutes of work for it.

    Raises:
        UsageError: if it cannot.
    """
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"{name!r} cannot name a target.",
            "Use letters, digits, dots, dashes and underscores, a letter or digit first, up to 64.",
        )


def added_targets() -> dict[str, Path]:
    """Name -> file of the profiles that the user added."""
    return {path.stem: path for path in sorted((cache_dir() / "targets").glob("*.json"))}


def add_target(path: Path, name: str | None = None, replace: bool = False) -> str:
    """Keep a copy of a profile file under a name, for `--target NAME` from now on.

    Args:
        name: default the profile's own.
        replace: whether one that was added before under that name may go.

    Returns:
        The name.

    Raises:
        ProfileError: if the file is no sound profile, or the copy cannot be written.
        UsageError: if the name is taken, or cannot name a target.
    """
    profile = load_profile(path)
    latency_predictor(profile)  # its numbers must predict something
    energy_predictor(profile)
    name = name or profile.name
    if name == THIS_CPU or name in registry.shipped():
        raise UsageError(
            f"the target {name!r} is part of the program.", "Choose another with --name."
        )
    if name in added_targets() and not replace:
        raise UsageError(
            f"a target {name!r} was added before.", "Choose another --name, or give --replace."
        )
    require_target_name(name)
    kept = profile.model_copy(update={"name": name})
    try:
        write_atomic(cache_dir() / "targets" / f"{name}.json", kept.to_json().encode())
    except OSError as error:
        raise ProfileError(
            f"cannot keep the profile in {cache_dir()}: {error.strerror}.",
            "Free some space, or set NAS_CACHE to a folder that can be written.",
        ) from None
    return name


def is_this_machine(profile: DeviceProfile) -> bool:
    """Whether a profile is of a machine like this one."""
    return _is_of(profile, this_cpu())


def _is_of(profile: DeviceProfile, cpu: Device) -> bool:
    mine = profile.device
    return (mine.kind, mine.name, mine.cores) == ("cpu", cpu.name, cpu.cores)


def can_verify(profile: DeviceProfile, cpu: Device | None = None) -> bool:
    """Whether networks can be timed as the profile's own were, on this or on that processor."""
    return _is_of(profile, cpu or this_cpu()) and profile.runtime.name == "onnxruntime"


def resolve_target(
    name: str,
    batch_size: int = 1,
    make_cpu_profile: Callable[[], DeviceProfile] | None = None,
    space: SearchSpace | None = None,
) -> DeviceProfile:
    """The profile that a target's name stands for.

    Args:
        name: of a device, `cpu`, or a path to a profile.
        batch_size: that this machine must have been measured at.
        make_cpu_profile: measures this machine where it has no profile yet.
        space: whose networks this machine must have been measured on, where it can be; else a
            profile that a search made for them will do where there is no other.

    Raises:
        NotFoundError: if there is no such target, or this machine is not profiled and may not be.
        ProfileError: if a profile file is not sound.
    """
    if name != THIS_CPU:
        return registry.load(name, added_targets())
    # What the user measured comes before what a search measured for itself.
    for path in dict.fromkeys([local_profile(batch_size), local_profile(batch_size, space)]):
        if path.exists():
            found = registry.load(THIS_CPU, {THIS_CPU: path})
            enough = make_cpu_profile is None or space is None or _covers(found, space)
            if is_this_machine(found) and enough:
                return found
    if make_cpu_profile is None:
        hint = f"Make one with `nas profile --device cpu --batch-size {batch_size}`."
        others = sorted(local_profile().parent.glob(f"{THIS_CPU}-*.json"))
        if others:
            hint += f" Another profile of it can be named too, by its file: {others[0]}"
        raise NotFoundError("this machine has no profile yet.", hint)
    return make_cpu_profile()


def _covers(profile: DeviceProfile, space: SearchSpace) -> bool:
    """Whether networks of a space were timed for a profile."""
    return any((n.space, n.preset) == (space.name, space.preset) for n in profile.networks)


def lost_spaces(path: Path, spaces: Iterable[SearchSpace]) -> list[str]:
    """Spaces that the profile in a file covers, as `vit:digits`, and one of these spaces will not.

    None if there is no sound profile.
    """
    try:
        there = {(n.space, n.preset) for n in load_profile(path).networks}
    except ProfileError:
        return []
    return sorted(map(":".join, there - {(space.name, space.preset) for space in spaces}))
