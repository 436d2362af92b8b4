"""Targets by what a user types: a shipped device, a profile file, or `cpu`, this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hw_profiles import registry
from hw_profiles.machine import this_cpu
from hw_profiles.profile import DeviceProfile
from nas.errors import NotFoundError
from nas.paths import cache_dir

THIS_CPU = "cpu"


def local_profile(batch_size: int = 1) -> Path:
    """Where the profile of this machine's CPU is kept; it may not exist yet."""
    name = THIS_CPU if batch_size == 1 else f"{THIS_CPU}-b{batch_size}"
    return cache_dir() / "profiles" / f"{name}.json"


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
) -> DeviceProfile:
    """The profile that a target's name stands for.

    Args:
        name: of a device, `cpu`, or a path to a profile.
        batch_size: that this machine must have been measured at.
        make_cpu_profile: measures this machine where it has no profile yet.

    Raises:
        NotFoundError: if there is no such target, or this machine is not profiled and may not be.
        ProfileError: if a profile file is not sound.
    """
    if name != THIS_CPU:
        return registry.load(name)
    path = local_profile(batch_size)
    if path.exists():
        found = registry.load(THIS_CPU, {THIS_CPU: path})
        if is_this_machine(found):
            return found
    if make_cpu_profile is None:
        raise NotFoundError(
            "this machine has no profile yet.",
            f"Make one with `nas profile --device cpu --batch-size {batch_size}`.",
        )
    return make_cpu_profile()
