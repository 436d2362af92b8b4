"""A device profile: what is known of one device in one runtime, and where each number came from."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hw_profiles.drift import undisturbed
from hw_profiles.errors import ProfileError
from hw_profiles.files import write_atomic
from hw_profiles.op import KINDS, PRECISIONS, Op

#: 2: the shapes of convolutions have padding and groups. 3: energy, the state of the device while
#: it was measured, the anchor's own times, marks of what stayed unstable; `eager` for `torch`. An
#: energy model was added since, and what timings a model rests on: a file of 3 need not have them.
SCHEMA_VERSION = 3
MAX_PROFILE_BYTES = 32 * 2**20
Provenance = Literal["measured", "fitted", "derived"]
RuntimeName = Literal["onnxruntime", "openvino", "eager", "compile", "cudagraph", "cmsis-nn"]
LONGEST_SHOWN = 120
#: What may name a profile.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
#: A size in a shape. Products of a few of them stay numbers that arrays can hold.
Size = Annotated[int, Field(ge=0, lt=2**31)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Device(_Strict):
    """The hardware, as its vendor's sheet or the machine itself describes it."""

    name: str
    vendor: str
    kind: Literal["cpu", "cuda", "mcu"]
    cores: int | None = Field(default=None, ge=1)
    memory_bytes: int | None = Field(default=None, ge=1)
    flash_bytes: int | None = Field(
        default=None,
        ge=1,
        description="storage that weights are read from in place, if there is any",
    )
    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    peak_flops: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="dense FLOP/s (2 per MAC) by precision"
    )
    source: str = ""


class Runtime(_Strict):
    """What runs the network on the device; `native` is the type of all unquantized arithmetic."""

    name: RuntimeName
    version: str = ""
    native: Literal["fp32", "bf16", "fp16"]
    threads: int = Field(default=1, ge=1)
    plans_buffers: bool = Field(
        default=False, description="an element-wise op may write over its input"
    )


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
    timings: str = Field(
        default="", description="of which GPUs, and where from, of a model that all GPUs share"
    )
    error: FitError | None = None

    @model_validator(mode="after")
    def _known(self) -> OpModel:
        if self.kind not in KINDS:
            raise ValueError(f"unknown op kind {self.kind!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}")
        return self


class NetworkModel(_Strict):
    """How a network's time, or its energy, is predicted, with its one-sided upper bound.

    `form` names a form in `predictors.network_forms`; `params` are its plain numbers.
    """

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
    unstable: bool = Field(
        default=False, description="read while the machine was slow, also after repeating it"
    )


class Energy(_Strict):
    """Energy of one call: all that the device took in a window of calls, idle power included."""

    energy_mj: float = Field(gt=0, description="a call; median over the windows")
    power_w: float = Field(gt=0, description="mean over the windows")
    spread: float = Field(ge=0, description="largest less smallest window over the median")
    window_s: float = Field(gt=0, description="mean length of a window")
    calls: int = Field(ge=1, description="in all windows")


class PowerSource(_Strict):
    """Where the energy figures of a profile come from; `why_not` where none are predicted."""

    method: str = ""
    idle_w: float | None = Field(default=None, ge=0, description="before the energy windows")
    why_not: str = ""


class States(_Strict):
    """State of the device over the session, a column a quantity: first before, last after it.

    A column is empty where the device does not tell; a reading that failed is None.
    """

    times_s: list[float] = Field(
        default_factory=list, description="since the anchor was first read"
    )
    sm_clock_mhz: list[int | None] = Field(default_factory=list)
    memory_clock_mhz: list[int | None] = Field(default_factory=list)
    temperature_c: list[int | None] = Field(default_factory=list)
    power_w: list[float | None] = Field(default_factory=list)
    performance_state: list[int | None] = Field(default_factory=list, description="0 is fastest")
    throttled: list[list[str] | None] = Field(
        default_factory=list, description="names of the active clock-event reasons"
    )

    @model_validator(mode="after")
    def _columns(self) -> States:
        for name in type(self).model_fields:
            if len(getattr(self, name)) not in (0, len(self.times_s)):
                raise ValueError(f"{name} has not as many readings as times_s")
        return self


class Environment(_Strict):
    """How the measuring processes ran, and the state of the device meanwhile."""

    affinity: list[int] = Field(default_factory=list, description="cores they might use")
    threads: int = Field(default=1, ge=1, description="of one call")
    driver: str = ""
    power_limit_w: float | None = None
    timer: str = Field(default="", description="what timed the calls")
    warm_up: str = Field(default="", description="when a call counted as warm")
    l2_flushed: bool = Field(default=False, description="the cache was overwritten between calls")
    states: States = Field(default_factory=States)


class Anchor(_Strict):
    """Readings of the one fixed workload that was timed all along: the drift of the machine."""

    undisturbed_ms: float = Field(gt=0, description="its time on the undisturbed machine")
    slow_above: float = Field(gt=1, description="relative time that counts as slow")
    times_s: list[float] = Field(description="since the first reading, all processes")
    relative: list[float] = Field(description="times over the undisturbed one")
    starts: list[int] = Field(default_factory=list, description="first reading of each process")
    retried: int = Field(default=0, ge=0, description="readings repeated for a slow run")

    @property
    def levels(self) -> list[float]:
        """What it took undisturbed in each process, over `undisturbed_ms`."""
        ends = [*self.starts[1:], len(self.relative)]
        parts = zip(self.starts, ends, strict=True)
        return [undisturbed(self.relative[start:end]) for start, end in parts if end > start]

    @model_validator(mode="after")
    def _columns(self) -> Anchor:
        if len(self.times_s) != len(self.relative):
            raise ValueError("times_s and relative differ in length")
        if any(not 0 <= start < len(self.times_s) for start in self.starts):
            raise ValueError("starts name readings that are not there")
        return self


class OpTiming(_Strict):
    """A timed op."""

    kind: str
    shape: tuple[Size, ...]
    precision: str
    timing: Timing
    energy: Energy | None = None

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
    ops: list[tuple[str, tuple[Size, ...], str]]
    timing: Timing
    energy: Energy | None = None
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

    schema_version: Literal[3] = 3
    name: str = Field(pattern=f"^{NAME}$")
    device: Device
    runtime: Runtime
    precisions: list[str] = Field(min_length=1, description="offered, native first")
    op_models: list[OpModel] = Field(default_factory=list)
    network: NetworkModel | None = None
    space_networks: dict[str, NetworkModel] = Field(
        default_factory=dict,
        description="the same calibrated on one space's networks alone, by `space:preset`",
    )
    energy: NetworkModel | None = Field(
        default=None, description="of one forward pass of a whole batch, idle power included"
    )
    ops: list[OpTiming] = Field(default_factory=list)
    networks: list[NetworkTiming] = Field(default_factory=list)
    anchor: Anchor | None = None
    environment: Environment | None = None
    power: PowerSource | None = None
    created: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _offered(self) -> DeviceProfile:
        unknown = [p for p in self.precisions if p not in PRECISIONS]
        if unknown:
            raise ValueError(f"unknown precision {unknown[0]!r}")
        if self.precisions[0] != self.runtime.native:
            raise ValueError(f"the first precision must be the native {self.runtime.native}")
        if len(set(self.precisions)) != len(self.precisions):
            raise ValueError("a precision stands twice")
        modelled = [(m.kind, m.precision) for m in self.op_models]
        if len(set(modelled)) != len(modelled):
            raise ValueError("an op has two models at one precision")
        return self

    def calibrated_for(self, space: str, preset: str) -> DeviceProfile:
        """The profile with how op times add up in that space, and the networks that say so.

        Itself where the space has no model of its own.
        """
        model = self.space_networks.get(f"{space}:{preset}")
        if model is None:
            return self
        own = [n for n in self.networks if (n.space, n.preset) == (space, preset)]
        return self.model_copy(update={"network": model, "networks": own, "space_networks": {}})

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
        return _lines({"schema_version": SCHEMA_VERSION, **content})

    def save(self, path: Path) -> None:
        """Write the profile as JSON, whole or not at all; its folder is made.

        Raises:
            ProfileError: if the place cannot be written.
        """
        try:
            write_atomic(path, self.to_json().encode())
        except OSError as error:
            raise ProfileError(
                f"cannot write the profile {path}: {error.strerror}.", "Choose another --out."
            ) from None


def _lines(document: dict[str, object]) -> str:
    """JSON with a line for each field, and for each measurement or model in a list of them."""
    fields = []
    for name, value in document.items():
        text = json.dumps(value, separators=(",", ":"))
        if isinstance(value, list) and value and isinstance(value[0], dict):
            entries = ",\n  ".join(json.dumps(entry, separators=(",", ":")) for entry in value)
            text = f"[\n  {entries}\n ]"
        fields.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def load_profile(path: Path) -> DeviceProfile:
    """Read a profile file, trusting nothing in it.

    Raises:
        ProfileError: if it cannot be read, is no profile, or is of another schema.
    """
    again = "Make it anew with `nas profile`, or name a device from `nas targets`."
    try:
        size = path.stat().st_size
        data = (
            json.loads(path.read_text(encoding="utf-8-sig")) if size <= MAX_PROFILE_BYTES else None
        )
        plain = _is_plain(data)
    except OSError as error:
        raise ProfileError(f"cannot read the profile {path}: {error.strerror}.", again) from None
    except (UnicodeDecodeError, ValueError, RecursionError):
        shown = _shown(path)
        raise ProfileError(f"{shown} is not a device profile (no whole JSON).", again) from None
    if size > MAX_PROFILE_BYTES:
        raise ProfileError(f"{path} is too large for a device profile.", again)
    if not plain:
        raise ProfileError(f"{path} is not a device profile (control characters in text).", again)
    if not isinstance(data, dict) or "schema_version" not in data:
        raise ProfileError(f"{path} is not a device profile (no schema_version).", again)
    schema = data["schema_version"]
    if isinstance(schema, int) and schema != SCHEMA_VERSION:
        newer = schema > SCHEMA_VERSION
        age = "newer" if newer else "older"
        raise ProfileError(
            f"{path} is of profile schema {_shown(schema)}, {age} than this program's "
            f"{SCHEMA_VERSION}.",
            "Upgrade the program." if newer else "Measure the device anew with `nas profile`.",
        )
    try:
        return DeviceProfile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = _shown(".".join(str(part) for part in first["loc"]) or "profile")
        raise ProfileError(
            f"{path} is not a valid device profile ({where}: {_shown(first['msg'])}).", again
        ) from None


def _is_plain(value: object) -> bool:
    """Whether no text in a document could write to a terminal what is no text."""
    if isinstance(value, str):
        return not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    return not isinstance(value, list) or all(map(_is_plain, value))


def _shown(value: object) -> str:
    """A value out of a file, fit for one line of a message: short, and nothing but print."""
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        return "too large"
    text = "".join(c if c.isprintable() else "?" for c in text[: LONGEST_SHOWN + 1])
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
