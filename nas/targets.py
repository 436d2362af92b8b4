"""Targets by what a user types: a shipped device, a profile file, or `cpu`, this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hw_profiles import registry
from hw_profiles.harness import RUNTIMES, Harness
from hw_profiles.machine import this_cpu
from hw_profiles.profile import DeviceProfile
from nas.errors import NotFoundError
from nas.paths import cache_dir
from search_spaces.space import SearchSpace

THIS_CPU = "cpu"


def local_profile(
    batch_size: int = 1, space: SearchSpace | None = None, harness: Harness | None = None
) -> Path:
    """Where a profile of this machine is kept; it may not exist yet.

    Args:
        batch_size: that it is measured at.
        space: that it is measured for, by a search; the user's own profile has none.
        harness: another device or runtime than the CPU's in ONNX Runtime.
    """
    parts = [THIS_CPU]
    if harness is not None and harness.runtime != RUNTIMES["cpu"][0]:
        parts = [harness.device.replace(":", ""), harness.runtime, harness.native]
    if space is not None:
        parts += [space.name, space.preset]
    if batch_size != 1:
        parts.append(f"b{batch_size}")
    return cache_dir() / "profiles" / f"{'-'.join(parts)}.json"


def is_this_machine(profile: DeviceProfile) -> bool:
    """Whether a profile is of a machine like this one."""
    here, mine = this_cpu(), profile.device
    return (mine.kind, mine.name, mine.cores) == ("cpu", here.name, here.cores)


def can_verify(profile: DeviceProfile) -> bool:
    """Whether networks can be timed here as the profile's own were."""
    return is_this_machine(profile) and profile.runtime.name == "onnxruntime"


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
        space: whose networks this machine must have been measured on.

    Raises:
        NotFoundError: if there is no such target, or this machine is not profiled and may not be.
        ProfileError: if a profile file is not sound.
    """
    if name != THIS_CPU:
        return registry.load(name)
    # What the user measured comes before what a search measured for itself.
    for path in dict.fromkeys([local_profile(batch_size), local_profile(batch_size, space)]):
        if path.exists():
            found = registry.load(THIS_CPU, {THIS_CPU: path})
            if is_this_machine(found) and (space is None or _covers(found, space)):
                return found
    if make_cpu_profile is None:
        raise NotFoundError(
            "this machine has no profile yet.",
            f"Make one with `nas profile --device cpu --batch-size {batch_size}`.",
        )
    return make_cpu_profile()


def _covers(profile: DeviceProfile, space: SearchSpace) -> bool:
    """Whether networks of a space were timed for a profile."""
    return any((n.space, n.preset) == (space.name, space.preset) for n in profile.networks)
