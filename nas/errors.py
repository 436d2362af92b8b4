"""Every error of the program; the root and the lower floors' own stand in `hw_profiles.errors`."""

from __future__ import annotations

from hw_profiles.errors import (
    KilledError,
    MeasureError,
    NasError,
    NotFoundError,
    PluginError,
    ProfileError,
    UsageError,
    nearest,
)

__all__ = [
    "BudgetError",
    "CheckpointError",
    "ExecutorError",
    "ExportError",
    "KilledError",
    "MeasureError",
    "NasError",
    "NotFoundError",
    "PluginError",
    "ProfileError",
    "StorageError",
    "StorageUnavailable",
    "StudyExistsError",
    "StudyMismatchError",
    "UsageError",
    "nearest",
]


class BudgetError(NasError, ValueError):
    """No candidate of the space meets the budget on this target."""

    exit_code = 3


class StorageError(NasError, RuntimeError):
    """The database cannot be opened, written or understood."""


class StorageUnavailable(StorageError):
    """The database does not answer now; it may again."""


class StudyExistsError(StorageError):
    """A study of that name is there already."""


class StudyMismatchError(NasError, ValueError):
    """A study that exists, but for another request."""

    exit_code = 2


class CheckpointError(NasError, ValueError):
    """A checkpoint or exported subnet that is truncated, foreign or cannot be kept."""


class ExportError(NasError, RuntimeError):
    """An exported subnet that could not be written or does not equal the supernet's."""


class ExecutorError(NasError, RuntimeError):
    """Workers that cannot be started or reached."""
