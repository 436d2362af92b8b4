"""The profile file: what is written is read back, and what is broken gives one clear line."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hw_profiles.errors import ProfileError
from hw_profiles.op import KINDS, PRECISIONS
from hw_profiles.profile import (
    SCHEMA_VERSION,
    Anchor,
    Device,
    DeviceProfile,
    Energy,
    Environment,
    FitError,
    NetworkModel,
    NetworkTiming,
    OpModel,
    OpTiming,
    PowerSource,
    Runtime,
    States,
    Timing,
    load_profile,
)
from hw_profiles.registry import shipped

POSITIVE = st.floats(1e-9, 1e9)
SHARE = st.floats(0, 1e3)
COUNT = st.integers(1, 10**6)
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
PARAMS = st.dictionaries(
    TEXT, st.one_of(st.floats(-1e9, 1e9), st.lists(st.floats(-1e9, 1e9), max_size=4)), max_size=4
)
TIMINGS = st.builds(
    Timing,
    median_ms=POSITIVE,
    spread_within=SHARE,
    spread_between=SHARE,
    repeats=COUNT,
    processes=COUNT,
    unstable=st.booleans(),
)
ENERGIES = st.none() | st.builds(
    Energy, energy_mj=POSITIVE, power_w=POSITIVE, spread=SHARE, window_s=POSITIVE, calls=COUNT
)


@st.composite
def ops(draw: st.DrawFn) -> tuple[str, tuple[int, ...], str]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    sizes = [draw(st.integers(1, 4096)) for _ in KINDS[kind].fields]
    return kind, tuple(sizes), draw(st.sampled_from(sorted(PRECISIONS)))


@st.composite
def op_timings(draw: st.DrawFn) -> OpTiming:
    kind, shape, precision = draw(ops())
    return OpTiming(
        kind=kind, shape=shape, precision=precision, timing=draw(TIMINGS), energy=draw(ENERGIES)
    )


@st.composite
def anchors(draw: st.DrawFn) -> Anchor:
    n = draw(st.integers(0, 5))
    return Anchor(
        undisturbed_ms=draw(POSITIVE),
        slow_above=draw(st.floats(1.01, 2)),
        times_s=draw(st.lists(SHARE, min_size=n, max_size=n)),
        relative=draw(st.lists(POSITIVE, min_size=n, max_size=n)),
        starts=draw(st.lists(st.integers(0, n - 1), max_size=3)) if n else [],
        retried=draw(st.integers(0, 100)),
    )


@st.composite
def states(draw: st.DrawFn) -> States:
    n = draw(st.integers(0, 4))

    def column(of: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.just([]) | st.lists(st.none() | of, min_size=n, max_size=n))

    return States(
        times_s=draw(st.lists(SHARE, min_size=n, max_size=n)),
        sm_clock_mhz=column(COUNT),
        memory_clock_mhz=column(COUNT),
        temperature_c=column(COUNT),
        power_w=column(POSITIVE),
        performance_state=column(st.integers(0, 15)),
        throttled=column(st.lists(TEXT, max_size=2)),
    )


ERRORS = st.none() | st.builds(
    FitError,
    mape=SHARE,
    median_error=SHARE,
    kendall_tau=st.none() | st.floats(-1, 1),
    coverage=st.none() | st.floats(0, 1),
    rows=COUNT,
    kept_out=TEXT,
)
PROVENANCE = st.sampled_from(["measured", "fitted", "derived"])
MODELS = st.none() | st.builds(
    NetworkModel,
    form=TEXT,
    params=PARAMS,
    provenance=PROVENANCE,
    source=TEXT,
    coverage=st.floats(0.01, 0.99),
    error=ERRORS,
)
NETWORKS = st.builds(
    NetworkTiming,
    space=TEXT,
    preset=TEXT,
    candidate=st.dictionaries(TEXT, st.integers(0, 99) | TEXT, max_size=4),
    batch_size=COUNT,
    ops=st.lists(ops(), max_size=4),
    timing=TIMINGS,
    energy=ENERGIES,
    held_out=st.booleans(),
)


def profiles(native: str) -> st.SearchStrategy[DeviceProfile]:
    """Profiles of that native type."""
    others = st.sampled_from([p for p in sorted(PRECISIONS) if p != native])
    return st.builds(
        DeviceProfile,
        name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        device=st.builds(
            Device,
            name=TEXT,
            vendor=TEXT,
            kind=st.sampled_from(["cpu", "cuda"]),
            cores=st.none() | COUNT,
            memory_bytes=st.none() | COUNT,
            bandwidth_bytes_per_s=st.none() | POSITIVE,
            peak_flops=st.dictionaries(st.sampled_from(sorted(PRECISIONS)), POSITIVE, max_size=3),
            source=TEXT,
        ),
        runtime=st.builds(
            Runtime,
            name=st.sampled_from(["onnxruntime", "openvino", "eager", "compile", "cudagraph"]),
            version=TEXT,
            native=st.just(native),
            threads=COUNT,
        ),
        precisions=st.lists(others, unique=True).map(lambda more: [native, *more]),
        op_models=st.lists(
            st.builds(
                OpModel,
                kind=st.sampled_from(sorted(KINDS)),
                precision=st.sampled_from(sorted(PRECISIONS)),
                form=TEXT,
                params=PARAMS,
                provenance=PROVENANCE,
                source=TEXT,
                error=ERRORS,
            ),
            max_size=2,
            unique_by=lambda m: (m.kind, m.precision),
        ),
        network=MODELS,
        energy=MODELS,
        ops=st.lists(op_timings(), max_size=3),
        networks=st.lists(NETWORKS, max_size=2),
        anchor=st.none() | anchors(),
        environment=st.none()
        | st.builds(
            Environment,
            affinity=st.lists(st.integers(0, 255), max_size=4),
            threads=COUNT,
            driver=TEXT,
            power_limit_w=st.none() | POSITIVE,
            timer=TEXT,
            warm_up=TEXT,
            l2_flushed=st.booleans(),
            states=states(),
        ),
        power=st.none()
        | st.builds(PowerSource, method=TEXT, idle_w=st.none() | SHARE, why_not=TEXT),
        created=TEXT,
        versions=st.dictionaries(TEXT, TEXT, max_size=2),
        notes=st.lists(TEXT, max_size=2),
    )


PROFILES = st.sampled_from(["fp32", "bf16", "fp16"]).flatmap(profiles)
QUICK = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def whole() -> DeviceProfile:
    """A small profile with something in every field."""
    timing = Timing(median_ms=0.5, spread_within=0.01, spread_between=0.02, repeats=9, processes=3)
    energy = Energy(energy_mj=2.0, power_w=80.0, spread=0.01, window_s=2.0, calls=900)
    op = ("linear", (17, 64, 64), "bf16")
    return DeviceProfile(
        name="mine",
        device=Device(name="A GPU", vendor="NVIDIA", kind="cuda", peak_flops={"bf16": 1e14}),
        runtime=Runtime(name="cudagraph", native="bf16"),
        precisions=["bf16"],
        network=NetworkModel(
            form="measured_sum",
            params={"constant_ms": 0.1, "shares": [1.0, 0.9]},
            provenance="measured",
            source="2 networks",
            coverage=0.9,
            error=FitError(mape=2.0, median_error=1.0, rows=4),
        ),
        energy=NetworkModel(
            form="constant_power",
            params={"power_w": 4.0, "upper_w": 5.0},
            provenance="derived",
            source="a sheet",
            coverage=0.9,
        ),
        ops=[OpTiming(kind=op[0], shape=op[1], precision=op[2], timing=timing, energy=energy)],
        networks=[
            NetworkTiming(
                space="vit",
                preset="digits",
                candidate={"depth": 2, "layers.0.qkv": "bf16"},
                batch_size=1,
                ops=[op],
                timing=timing.model_copy(update={"unstable": True}),
                held_out=True,
            )
        ],
        anchor=Anchor(
            undisturbed_ms=0.4, slow_above=1.1, times_s=[0.0, 0.1], relative=[1.0, 1.2], starts=[0]
        ),
        environment=Environment(
            affinity=[0, 1],
            states=States(
                times_s=[0.0, 1.0], throttled=[[], ["sw_power_cap"]], power_w=[9.0, None]
            ),
        ),
        power=PowerSource(method="a counter", idle_w=50.0),
        notes=["a note"],
    )


@QUICK
@given(profile=PROFILES)
def test_what_is_written_is_read_back(tmp_path: Path, profile: DeviceProfile) -> None:
    path = tmp_path / "p.json"
    profile.save(path)
    read = load_profile(path)
    assert read == profile
    assert read.fingerprint() == profile.fingerprint()
    document = json.loads(path.read_text())
    assert document["schema_version"] == SCHEMA_VERSION
    assert not path.with_name("p.json.part").exists()


def test_a_file_has_a_line_for_each_measurement(tmp_path: Path) -> None:
    profile = whole()
    many = profile.model_copy(update={"ops": profile.ops * 50})
    many.save(tmp_path / "p.json")
    text = (tmp_path / "p.json").read_text()
    assert 60 < len(text.splitlines()) < 80
    assert len(text) / 50 < 300


def test_every_shipped_profile_is_of_this_schema() -> None:
    for path in shipped().values():
        assert load_profile(path).schema_version == SCHEMA_VERSION == 3


def test_a_file_without_an_energy_model_is_of_this_schema_too(tmp_path: Path) -> None:
    document = {"schema_version": 3, **whole().model_dump(mode="json")}
    del document["energy"]
    (tmp_path / "p.json").write_text(json.dumps(document))
    assert load_profile(tmp_path / "p.json") == whole().model_copy(update={"energy": None})


@pytest.mark.parametrize(("schema", "says"), [(1, "older"), (2, "older"), (99, "newer")])
def test_other_schemas_are_said(tmp_path: Path, schema: int, says: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"schema_version": schema, "name": "x"}))
    with pytest.raises(ProfileError, match=rf"schema {schema}, {says} than this program's 3\."):
        load_profile(path)


GELU = {
    "kind": "gelu",
    "precision": "bf16",
    "form": "stream",
    "params": {},
    "provenance": "derived",
    "source": "a sheet",
}
DEVICE = {"name": "A GPU", "vendor": "NVIDIA", "kind": "cuda"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"environment": {"states": {"times_s": [0.0], "power_w": [1.0, 2.0]}}}, "power_w"),
        (
            {"anchor": {"undisturbed_ms": 1, "slow_above": 1.1, "times_s": [], "relative": [1]}},
            "dif",
        ),
        ({"precisions": ["int3"]}, "unknown precision"),
        ({"precisions": ["int8", "bf16"]}, "first precision must be the native bf16"),
        ({"precisions": ["bf16", "int8", "int8"]}, "stands twice"),
        ({"op_models": [GELU, GELU]}, "two models at one precision"),
        ({"device": DEVICE | {"memory_bytes": -5}}, "device.memory_bytes"),
        ({"device": DEVICE | {"flash_bytes": 0}}, "device.flash_bytes"),
        ({"device": DEVICE | {"cores": 0}}, "device.cores"),
        ({"device": DEVICE | {"bandwidth_bytes_per_s": -1.0}}, "device.bandwidth"),
        ({"device": DEVICE | {"peak_flops": {"bf16": 0.0}}}, "device.peak_flops.bf16"),
        ({"runtime": {"name": "torch", "native": "fp32"}}, "runtime.name"),
        ({"power": {"watts": 1}}, "power.watts"),
        ({"energy": {"form": "constant_power", "params": {"power_w": "much"}}}, "energy."),
        ({"energy": 20.0}, "energy"),
        ({"ops": [{"kind": "linear", "shape": [2**31, 1, 1], "precision": "fp32"}]}, "ops.0"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "p.json"
    document = {"schema_version": 3, **whole().model_dump(mode="json"), **change}
    path.write_text(json.dumps(document))
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# --- broken on purpose --------------------------------------------------------------------------

DOCUMENT = whole().model_dump(mode="json")
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "a\nb", "\x1b[31m", "NaN", "x" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def paths_of(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where each part of a document is."""
    found = [here] if here else []
    parts: Any = ()
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        found += paths_of(part, (*here, key))
    return found


def loaded_or_refused(path: Path) -> None:
    """A profile, or an error of one line and nothing else."""
    said = ""
    try:
        load_profile(path).fingerprint()
    except ProfileError as error:
        said = str(error)
    assert not said or said.isprintable()
    assert len(said) < 600 + len(str(path))


@QUICK
@given(where=st.sampled_from(paths_of(DOCUMENT)), what=ANYTHING)
@example(where=("ops", 0, "shape", 0), what=10**400)
@example(where=("name",), what="\ud800")
@example(where=("notes", 0), what="\ud800")
@example(where=("device", "name"), what="\x1b[31m")
@example(where=("schema_version",), what=10**5000)
@example(where=("network", "params", "x\n\x1b"), what="y")
@example(where=("a\nb",), what="y")
def test_a_mutated_profile_gives_one_line(
    tmp_path: Path, where: tuple[Any, ...], what: Any
) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    part = document
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = what
    try:
        text = json.dumps(document)
    except ValueError:  # an integer of more digits than Python prints
        text = json.dumps(DOCUMENT).replace(": 3,", f": {'9' * 5000},", 1)
    (tmp_path / "p.json").write_text(text)
    loaded_or_refused(tmp_path / "p.json")


@QUICK
@given(st.data())
def test_a_truncated_or_scrambled_file_gives_one_line(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "p.json"
    whole().save(path)
    content = bytearray(path.read_bytes())
    begin = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(begin, len(content)) | st.just(len(content)))
    content[begin:end] = data.draw(st.binary(max_size=20))
    path.write_bytes(content)
    loaded_or_refused(path)


@pytest.mark.parametrize("content", [b"", b"[" * 10**5, b'{"a":' * 10**5, b"\xff\xfe", b"9" * 5000])
def test_what_is_no_document_gives_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(ProfileError):
        load_profile(tmp_path / "p.json")


def test_a_folder_and_a_large_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProfileError, match="cannot read"):
        load_profile(tmp_path)
    with pytest.raises(ProfileError, match="cannot read"):
        load_profile(tmp_path / "missing.json")
    with pytest.raises(ProfileError):
        load_profile(tmp_path / "a\0b.json")
    whole().save(tmp_path / "p.json")
    monkeypatch.setattr("hw_profiles.profile.MAX_PROFILE_BYTES", 100)
    with pytest.raises(ProfileError, match="too large"):
        load_profile(tmp_path / "p.json")
    with pytest.raises(ProfileError, match="cannot write"):
        whole().save(tmp_path / "p.json" / "p.json")


def test_profiles_written_to_one_place_at_once_are_each_whole(tmp_path: Path) -> None:
    path, profile = tmp_path / "p.json", whole()
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            profile.save(path)

    profile.save(path)
    with ThreadPoolExecutor() as writers:
        writing = [writers.submit(write) for _ in range(4)]
        try:
            assert all(load_profile(path) == profile for _ in range(100))
        finally:
            over.set()
        for each in writing:
            each.result()
    assert list(path.parent.iterdir()) == [path]
