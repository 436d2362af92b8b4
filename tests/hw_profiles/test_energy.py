"""Energy from counters of known truth: a fake GPU's, and files in the form of RAPL's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_nvml import FakeNvml
from hypothesis import given, settings
from hypothesis import strategies as st

import hw_profiles.energy as energy
from hw_profiles.energy import EnergyMeter, EnergyReading, NoMeter, Rapl, nvidia, open_meter, rapl


class Clock:
    """A clock that calls advance."""

    def __init__(self) -> None:
        self.s = 0.0

    def now(self) -> float:
        return self.s

    def wait(self, seconds: float) -> None:
        self.s += seconds


def on(clock: Clock, meter: EnergyMeter) -> EnergyMeter:
    meter.now = clock.now  # type: ignore[method-assign]
    meter.wait = clock.wait  # type: ignore[method-assign]
    return meter


@pytest.mark.parametrize("call_s", [1e-4, 0.003, 0.04])
def test_a_gpus_counter_gives_the_energy_of_a_call(
    monkeypatch: pytest.MonkeyPatch, call_s: float
) -> None:
    clock = Clock()
    fake = FakeNvml(clock.now, power=lambda when: 250.0, counter_step_s=0.1).install(monkeypatch)
    with on(clock, nvidia()) as meter:
        assert (meter.available, meter.why_not) == (True, "")
        found = meter.measure(lambda: clock.wait(call_s), seconds=2.0, windows=3)
    assert found is not None
    # a window of two seconds begins and ends within a look or a call of the counter's step
    assert found.energy_mj == pytest.approx(250e3 * call_s, rel=0.05)
    assert found.power_w == pytest.approx(250, rel=0.05)
    assert found.window_s >= 2.0
    assert found.calls == pytest.approx(3 * found.window_s / call_s, rel=0.05)
    assert found.spread < 0.06
    assert fake.open == 0


def test_windows_are_as_exact_as_the_look_and_not_as_the_counters_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    FakeNvml(clock.now, power=lambda when: 250.0, counter_step_s=0.1).install(monkeypatch)
    errors = []
    with on(clock, nvidia()) as meter:
        for i in range(20):
            clock.wait(0.0137 * i)
            found = meter.measure(lambda: clock.wait(1e-3), seconds=0.5)
            assert found is not None
            errors.append(abs(found.energy_mj / 250 - 1))
    assert max(errors) < 0.02  # the step alone would be 20 %


def test_idle_power_is_apart_from_load(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    busy = [False]
    FakeNvml(clock.now, lambda when: 300.0 if busy[0] else 55.0, 0.02).install(monkeypatch)
    with on(clock, nvidia()) as meter:
        assert meter.idle_w(1.0) == pytest.approx(55, rel=0.02)
        busy[0] = True
        found = meter.measure(lambda: clock.wait(1e-3), seconds=1.0)
    assert found is not None
    assert found.energy_mj == pytest.approx(300, rel=0.02)


def test_calls_that_return_early_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    queued = [0, 0]

    def launch() -> None:
        queued[0] += 1
        queued[1] = max(queued)
        clock.wait(1e-6)

    def synchronize() -> None:
        clock.wait(2e-3 * queued[0])
        queued[0] = 0

    FakeNvml(clock.now, power=lambda when: 200.0, counter_step_s=0.05).install(monkeypatch)
    with on(clock, nvidia()) as meter:
        found = meter.measure(launch, 1.0, synchronize=synchronize)
    assert found is not None
    assert found.energy_mj == pytest.approx(400, rel=0.05)
    assert queued[1] <= 8
    assert queued[0] == 0


def test_power_is_integrated_where_the_counter_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(
        power=lambda when: 120.0, unsupported=("nvmlDeviceGetTotalEnergyConsumption",)
    ).install(monkeypatch)
    monkeypatch.setattr(energy, "SAMPLE_S", 0.004)
    with nvidia() as meter:
        monkeypatch.setattr(meter, "settle_s", 0.0)
        assert "integrated" in meter.method
        found = meter.measure(lambda: sum(range(100)), seconds=0.3)
        assert found is not None
        assert found.power_w == pytest.approx(120, rel=0.15)
        assert found.energy_mj * found.calls == pytest.approx(120e3 * found.window_s, rel=0.15)
        FakeNvml(unsupported=("nvmlDeviceGetPowerUsage",)).install(monkeypatch)
        assert meter.measure(lambda: None, seconds=0.05) is None


def test_a_counter_that_stands_still_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    FakeNvml(clock.now, counter_step_s=1e9).install(monkeypatch)
    with on(clock, nvidia()) as meter:
        assert meter.measure(lambda: clock.wait(1e-3), 1.0) is None
        assert meter.idle_w(1.0) is None


@pytest.mark.parametrize(
    ("unsupported", "says"),
    [
        (("nvmlInit",), "no NVIDIA GPU here"),
        (
            ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"),
            "tells neither its energy nor its power",
        ),
    ],
)
def test_a_gpu_without_counters_is_a_null_object(
    monkeypatch: pytest.MonkeyPatch, unsupported: tuple[str, ...], says: str
) -> None:
    fake = FakeNvml(unsupported=unsupported).install(monkeypatch)
    with open_meter("cuda:0") as meter:
        assert not meter.available
        assert meter.why_not.startswith("not measurable here: ")
        assert says in meter.why_not
        assert meter.measure(lambda: None, 0.01) is None
        assert meter.idle_w(0.01) is None
    assert fake.open == 0


# --- RAPL ---------------------------------------------------------------------------------------


def zone(powercap: Path, name: str, title: str, uj: int = 0, range_uj: int = 10**9) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True)
    for file, value in (("name", title), ("energy_uj", uj), ("max_energy_range_uj", range_uj)):
        (folder / file).write_text(f"{value}\n")
    return folder


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    clock = Clock()
    packages = [
        zone(tmp_path, "intel-rapl:0", "package-0"),
        zone(tmp_path, "intel-rapl:1", "package-1"),
    ]
    zone(tmp_path, "intel-rapl:0:0", "core", 5)
    zone(tmp_path, "intel-rapl:2", "psys", 5)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5)

    def call() -> None:  # 30 W in one package, 10 W in the other
        clock.wait(1e-3)
        for package, watts in zip(packages, (30, 10), strict=True):
            (package / "energy_uj").write_text(f"{round(clock.s * watts * 1e6)}\n")

    with on(clock, rapl(tmp_path)) as meter:
        assert "RAPL" in meter.method
        found = meter.measure(call, 0.3)
    assert found is not None
    assert found.energy_mj == pytest.approx(40, rel=0.03)


@settings(max_examples=50, deadline=None)
@given(
    range_uj=st.integers(1_000, 10**6),
    shares=st.lists(st.floats(0, 0.99), min_size=1, max_size=20),
    start=st.floats(0, 1),
)
def test_a_counter_that_wraps_around_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, range_uj: int, shares: list[float], start: float
) -> None:
    folder = tmp_path_factory.mktemp("powercap")
    value = int(start * (range_uj - 1))
    package = zone(folder, "intel-rapl:0", "package-0", value, range_uj)
    meter = Rapl([package])
    spent = 0
    for share in shares:
        spent += (step := int(share * range_uj))
        value = (value + step) % range_uj
        (package / "energy_uj").write_text(str(value))
        assert meter.read_mj() == pytest.approx(spent / 1e3)


def test_no_rapl_and_no_permission_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = rapl(tmp_path / "nowhere")
    assert none.why_not.startswith("not measurable here: this machine shows no RAPL")
    package = zone(tmp_path, "intel-rapl:0", "package-0")
    (package / "energy_uj").write_text("many")
    assert "cannot be read" in rapl(tmp_path).why_not
    (package / "energy_uj").write_text("1")
    reads = Path.read_text

    def refuse(path: Path, *arguments: object, **named: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return reads(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    refused = rapl(tmp_path)
    assert isinstance(refused, NoMeter)
    assert "sudo chmod a+r" in refused.why_not
    assert refused.measure(lambda: None, 1.0) is None


def test_a_counter_that_goes_away_gives_no_number(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0")
    meter = rapl(tmp_path)
    os.remove(package / "energy_uj")
    assert meter.measure(lambda: None, 0.1) is None
    assert meter.idle_w(0.1) is None


def test_a_reading_is_shared_among_copies() -> None:
    one = EnergyReading(8.0, 100.0, 0.01, 2.0, 50).scaled(1 / 8)
    assert one.as_json() == {
        "energy_mj": 1.0, "power_w": 100.0, "spread": 0.01, "window_s": 2.0, "calls": 50,
    }  # fmt: skip
