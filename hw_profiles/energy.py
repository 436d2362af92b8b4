"""Energy of calls from the hardware's own counters; where there is none, no number.

One interface for all hardware, with a null object where nothing can be read, so that callers do not
branch (the manner of Zeus, You et al., NSDI 2023). Counters are refreshed in steps: a window
begins and ends just when the counter moves, with the load running before and after.
"""

from __future__ import annotations

import statistics
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pynvml

from hw_profiles.errors import MeasureError
from hw_profiles.nvml import Gpu, known, open_gpu

POWERCAP = Path("/sys/class/powercap")
#: Time between looks at a counter, and without a move after which it counts as stuck.
LOOK_S, STUCK_S = 0.005, 1.0
#: Work between two readings inside a window.
READ_S = 0.1
#: Time between power samples, and load before the first: some GPUs show the mean of a second.
SAMPLE_S, SETTLE_S = 0.02, 1.0


@dataclass(frozen=True)
class EnergyReading:
    """Energy of one call, the device's idle power included.

    Attributes:
        energy_mj: of a call; the median over windows.
        power_w: mean over the windows.
        spread: largest less smallest window, over the median.
        window_s: mean length of a window.
        calls: in all windows.
    """

    energy_mj: float
    power_w: float
    spread: float
    window_s: float
    calls: int

    def scaled(self, factor: float) -> EnergyReading:
        """Of a part of the call."""
        return EnergyReading(
            self.energy_mj * factor, self.power_w, self.spread, self.window_s, self.calls
        )

    def as_json(self) -> dict[str, float]:
        """Its fields, with as many digits as they deserve."""
        return {
            "energy_mj": float(f"{self.energy_mj:.5g}"),
            "power_w": round(self.power_w, 2),
            "spread": round(self.spread, 4),
            "window_s": round(self.window_s, 3),
            "calls": self.calls,
        }


class EnergyMeter(ABC):
    """Measures the energy of one device while its context is open. Not to be shared by threads.

    Attributes:
        available: whether there is anything to read.
        why_not: "not measurable here: ..." where there is not, else "".
        method: what is read, in words.
        settle_s: load before the first window.
    """

    available = True
    why_not = ""
    method = ""
    settle_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    @abstractmethod
    def read_mj(self) -> float:
        """Energy since some moment; it never falls. To be called at least once a second.

        Raises:
            MeasureError: if the counter is gone.
        """

    def now(self) -> float:
        """The clock that windows are timed with."""
        return time.perf_counter()

    def wait(self, seconds: float) -> None:
        """Do nothing for a while."""
        time.sleep(seconds)

    def measure(
        self,
        call: Callable[[], object],
        seconds: float,
        windows: int = 1,
        synchronize: Callable[[], object] | None = None,
    ) -> EnergyReading | None:
        """Energy of a call, repeated without a pause over windows.

        Args:
            call: that is warm.
            seconds: of a window, at least; many times the counter's step (0.1 s on NVIDIA GPUs).
            windows: whose median is taken.
            synchronize: waits for calls that return before their work is done.

        Returns:
            The reading, or None where nothing can be read or the counter does not move.
        """
        settled = self.now() + self.settle_s
        made = 0

        def work(seconds: float = LOOK_S) -> None:
            nonlocal made
            end = self.now() + seconds
            while True:
                call()
                made += 1
                if synchronize is not None and made % 8 == 0:
                    synchronize()  # never more than a few calls in flight
                if self.now() >= end:
                    break
            if synchronize is not None:
                synchronize()

        while self.now() < settled:
            work()
        energies, powers, lengths, calls = [], [], [], 0
        try:
            edge = self._edge(work)
            for _ in range(windows):
                if edge is None:
                    return None
                begin, start_mj, before = *edge, made
                while self.now() - begin < seconds:
                    work(min(READ_S, seconds))  # the device idles while the counter is read
                    self.read_mj()
                edge = self._edge(work)
                if edge is None or edge[1] <= start_mj:
                    return None
                took, spent, n = edge[0] - begin, edge[1] - start_mj, made - before
                energies.append(spent / n)
                powers.append(spent / took / 1e3)
                lengths.append(took)
                calls += n
        except MeasureError:
            return None
        median = statistics.median(energies)
        return EnergyReading(
            median,
            statistics.fmean(powers),
            (max(energies) - min(energies)) / median,
            statistics.fmean(lengths),
            calls,
        )

    def idle_w(self, seconds: float) -> float | None:
        """Mean power while this process does nothing; None where it cannot be read."""
        try:
            edge = self._edge(lambda: self.wait(LOOK_S))
            if edge is None:
                return None
            begin, start_mj = edge
            while self.now() - begin < seconds:
                self.wait(LOOK_S)
                self.read_mj()
            edge = self._edge(lambda: self.wait(LOOK_S))
        except MeasureError:
            return None
        if edge is None or edge[1] <= start_mj:
            return None
        return (edge[1] - start_mj) / (edge[0] - begin) / 1e3

    def _edge(self, work: Callable[[], object]) -> tuple[float, float] | None:
        """The moment at which the counter moves, and its value then; None if it is stuck."""
        first = self.read_mj()
        give_up = self.now() + STUCK_S
        while self.now() < give_up:
            work()
            value = self.read_mj()
            if value != first:
                return self.now(), value
        return None


class NoMeter(EnergyMeter):
    """Hardware whose energy cannot be read: no number, and a reason."""

    available = False

    def __init__(self, why_not: str) -> None:
        self.why_not = f"not measurable here: {why_not}"

    def read_mj(self) -> float:
        raise MeasureError(self.why_not)

    def measure(
        self,
        call: Callable[[], object],
        seconds: float,
        windows: int = 1,
        synchronize: Callable[[], object] | None = None,
    ) -> None:
        """Nothing."""
        return

    def idle_w(self, seconds: float) -> None:
        """Nothing."""
        return


class NvmlCounter(EnergyMeter):
    """A GPU's total energy counter (Volta and later): the whole board, since the driver loaded.

    The driver refreshes it every 20 to 100 ms.
    """

    method = "NVML total energy counter of the whole board"

    def __init__(self, gpu: Gpu, opened: ExitStack) -> None:
        self._gpu = gpu
        self._opened = opened

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read_mj(self) -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu.handle))
        except pynvml.NVMLError as error:
            raise MeasureError(f"the GPU's energy counter is gone ({error}).") from None


class NvmlPower(EnergyMeter):
    """A GPU's power, sampled by a thread and integrated: for GPUs without an energy counter."""

    method = f"NVML power of the whole board, sampled every {1e3 * SAMPLE_S:g} ms and integrated"
    settle_s = SETTLE_S

    def __init__(self, gpu: Gpu, opened: ExitStack) -> None:
        self._gpu = gpu
        self._opened = opened
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._total_mj = 0.0
        self._lost = ""
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._opened.close()

    def _sample(self) -> None:
        last: tuple[float, float] | None = None
        while not self._over.wait(SAMPLE_S):
            try:
                watts = pynvml.nvmlDeviceGetPowerUsage(self._gpu.handle) / 1e3
            except pynvml.NVMLError as error:
                with self._lock:
                    self._lost = str(error)
                return
            now = time.perf_counter()
            with self._lock:
                if last is not None:
                    self._total_mj += 1e3 * (now - last[0]) * (watts + last[1]) / 2
            last = now, watts

    def read_mj(self) -> float:
        with self._lock:
            if self._lost:
                raise MeasureError(f"the GPU's power can no longer be read ({self._lost}).")
            return self._total_mj


class _RaplZone:
    """One package's counter, which starts again from 0 after `max_energy_range_uj`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "energy_uj"
        self.range_uj = int((folder / "max_energy_range_uj").read_text())
        self.last_uj = int(self.file.read_text())
        self.total_uj = 0

    def read_uj(self) -> int:
        """Since it was opened."""
        now = int(self.file.read_text())
        self.total_uj += (
            now - self.last_uj if now >= self.last_uj else (self.range_uj - self.last_uj + now)
        )
        self.last_uj = now
        return self.total_uj


class Rapl(EnergyMeter):
    """The packages of a CPU, Intel's or AMD's, through Linux' powercap: cores, caches and uncore.

    The counters are refreshed about every millisecond. They hold what all cores of the package do:
    other programs are in the figure.
    """

    method = "RAPL counters of the CPU packages, all cores"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = [_RaplZone(zone) for zone in zones]

    def read_mj(self) -> float:
        try:
            return sum(zone.read_uj() for zone in self._zones) / 1e3
        except (OSError, ValueError) as error:
            raise MeasureError(f"the RAPL counter is gone ({error}).") from None


def rapl(powercap: Path = POWERCAP) -> EnergyMeter:
    """The meter of this machine's CPU, or the null object."""
    # `intel-rapl:0` is a package of either vendor, `intel-rapl:0:1` a part of it; the same
    # packages may appear once more as `intel-rapl-mmio:0`
    zones = [
        zone
        for zone in sorted(powercap.glob("intel-rapl:*"))
        if zone.name.count(":") == 1 and _text(zone / "name").startswith("package")
    ]
    if not zones:
        return NoMeter(
            "this machine shows no RAPL counters of its CPU (virtual machines hide them)"
        )
    try:
        return Rapl(zones)
    except PermissionError:
        return NoMeter(
            "only root may read the CPU's energy counters; allow it with "
            f"`sudo chmod a+r {powercap}/intel-rapl:*/energy_uj`"
        )
    except (OSError, ValueError) as error:
        return NoMeter(f"the CPU's energy counters cannot be read ({error})")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def nvidia(index: int = 0) -> EnergyMeter:
    """The meter of a GPU, or the null object."""
    opened = ExitStack()
    try:
        gpu = opened.enter_context(open_gpu(index))
    except MeasureError as error:
        return NoMeter(error.message)
    if known(pynvml.nvmlDeviceGetTotalEnergyConsumption, gpu.handle) is not None:
        return NvmlCounter(gpu, opened)
    if known(pynvml.nvmlDeviceGetPowerUsage, gpu.handle) is not None:
        return NvmlPower(gpu, opened)
    opened.close()
    return NoMeter(f"{gpu.name} tells neither its energy nor its power")


def open_meter(device: str = "cpu") -> EnergyMeter:
    """The energy meter of `cpu` or `cuda:i`, a null object where nothing can be read.

    >>> with open_meter("cpu") as meter:
    ...     found = meter.measure(lambda: None, 0.01)
    >>> meter.available or found is None
    True
    """
    kind, _, index = device.partition(":")
    return rapl() if kind == "cpu" else nvidia(int(index or 0))
