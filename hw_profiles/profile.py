"""A device profile: what is known of one device in one runtime, and where each number came from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hw_profiles.errors import ProfileError
from hw_profiles.op import KINDS, PRECISIONS, Op

#: 2: the shapes of convolutions have padding and groups.
SCHEMA_VERSION = 2
MAX_PROFILE_BYTES = 32 * 2**20
Provenance = Literal["measured", "fitted", "derived"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Device(_Strict):
    """The hardware, as its vendor's sheet or the machine itself describes it."""

    name: str
    vendor: str
    kind: Literal["cpu", "cuda"]
    cores: int | None = None
    memory_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    peak_flops: dict[str, float] = Field(
        default_factory=dict, description="dense FLOP/s (2 per MAC) by precision"
    )
    source: str = ""


class Runtime(_Strict):
    """What runs the network on the device; `native` is the type of all unquantized arithmetic."""

    name: Literal["onnxruntime", "torch", "cudagraph"]
    version: str = ""
    native: Literal["fp32", "bf16"]
    threads: int = 1


class FitError(_Strict):
    """Error on figures that were kept out of the fit."""

    mape: float = Field(ge=0, description="mean absolute percentage error, percent")
    median_error: float = Field(ge=0, description="percent")
    kendall_tau: float | None = None
    coverage: float | None = Field(default=None, description="share under the upper bound")
    rows: int = Field(ge=1)
    kept_out: str = ""


class OpModel(_Strict):
    """Fitted time of one op kind at one precision.

    `form` names a functional form in `predictors.op_time`; `params` are its plain numbers.
    """

    kind: str
    precision: str
    form: str
    params: dict[str, float | list[float]]
    provenance: Provenance
    source: str
    error: FitError | None = None

    @model_validator(mode="after")
    def _known(self) -> OpModel:
        if self.kind not in KINDS:
            raise ValueError(f"unknown op kind {self.kind!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}")
        return self


class NetworkModel(_Strict):
    """How op times add up to a network's time, with its one-sided upper bound."""

    form: str
    params: dict[str, float | list[float]]
    provenance: Provenance
    source: str
    coverage: float = Field(gt=0, lt=1, description="stated coverage of the upper bound")
    error: FitError | None = None


class Timing(_Strict):
    """One timed thing: median over processes of the medians inside each."""

    median_ms: float = Field(gt=0)
    spread_within: float = Field(ge=0, description="relative spread of repeats in a process")
    spread_between: float = Field(ge=0, description="relative spread of process medians")
    repeats: int = Field(ge=1)
    processes: int = Field(ge=1)


class OpTiming(_Strict):
    """A timed op."""

    kind: str
    shape: tuple[int, ...]
    precision: str
    timing: Timing

    @property
    def op(self) -> Op:
        """The op itself."""
        return Op(self.kind, self.shape, self.precision)

    @model_validator(mode="after")
    def _valid(self) -> OpTiming:
        _ = self.op
        return self


class NetworkTiming(_Strict):
    """A timed whole network: the candidate it was, and its ops."""

    space: str
    preset: str
    candidate: dict[str, int | float | str]
    batch_size: int = Field(ge=1)
    ops: list[tuple[str, tuple[int, ...], str]]
    timing: Timing
    held_out: bool = False

    def workload(self) -> list[Op]:
        """Its ops, in order."""
        return [Op(kind, shape, precision) for kind, shape, precision in self.ops]

    @model_validator(mode="after")
    def _valid(self) -> NetworkTiming:
        self.workload()
        return self


class DeviceProfile(_Strict):
    """Everything a cost predictor needs to know of a target device.

    A shipped profile carries fitted `op_models`; a profile measured here carries the
    measurements too, so that it can be fitted again.
    """

    schema_version: Literal[2] = 2
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    device: Device
    runtime: Runtime
    precisions: list[str] = Field(min_length=1, description="offered, native first")
    op_models: list[OpModel] = Field(default_factory=list)
    network: NetworkModel | None = None
    ops: list[OpTiming] = Field(default_factory=list)
    networks: list[NetworkTiming] = Field(default_factory=list)
    anchor_drift: list[float] = Field(
        default_factory=list, description="anchor readings over the session, relative to median"
    )
    created: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _offered(self) -> DeviceProfile:
        unknown = [p for p in self.precisions if p not in PRECISIONS]
        if unknown:
            raise ValueError(f"unknown precision {unknown[0]!r}")
        return self

    def fingerprint(self) -> str:
        """A short hash of the whole content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def op_model(self, kind: str, precision: str) -> OpModel | None:
        """The fitted model of an op kind at a precision, or None."""
        for model in self.op_models:
            if (model.kind, model.precision) == (kind, precision):
                return model
        return None

    def to_json(self) -> str:
        """What a profile file holds."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps({"schema_version": SCHEMA_VERSION, **content}) + "\n"

    def save(self, path: Path) -> None:
        """Write the profile as JSON, whole or not at all.

        Raises:
            ProfileError: if the place cannot be written.
        """
        part = path.with_name(path.name + ".part")
        try:
            part.write_text(self.to_json())
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ProfileError(
                f"cannot write the profile {path}: {error.strerror}.", "Choose another --out."
            ) from None


def load_profile(path: Path) -> DeviceProfile:
    """Read a profile file, trusting nothing in it.

    Raises:
        ProfileError: if it cannot be read, is no profile, or is of another schema.
    """
    again = "Make it anew with `nas profile`, or name a device from `nas targets`."
    try:
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise ProfileError(f"{path} is too large for a device profile.", again)
        data = json.loads(path.read_text())
    except OSError as error:
        raise ProfileError(f"cannot read the profile {path}: {error.strerror}.", again) from None
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise ProfileError(f"{path} is not a device profile (no whole JSON).", again) from None
    if not isinstance(data, dict) or "schema_version" not in data:
        raise ProfileError(f"{path} is not a device profile (no schema_version).", again)
    schema = data["schema_version"]
    if isinstance(schema, int) and schema != SCHEMA_VERSION:
        newer = schema > SCHEMA_VERSION
        raise ProfileError(
            f"{path} is of profile schema {schema}, {'newer' if newer else 'older'} than this "
            f"program's {SCHEMA_VERSION}.",
            "Upgrade the program." if newer else "Measure the device anew with `nas profile`.",
        )
    try:
        return DeviceProfile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "profile"
        raise ProfileError(
            f"{path} is not a valid device profile ({where}: {first['msg']}).", again
        ) from None
