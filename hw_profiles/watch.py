"""The state of a device while it is measured: read before, after, and now and then in between."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from hw_profiles.errors import MeasureError
from hw_profiles.nvml import Gpu, open_gpu
from hw_profiles.profile import States

#: Time between readings; NVML's own take about a millisecond and no time of the GPU.
EVERY_S = 1.0
_COLUMNS = tuple(name for name in States.model_fields if name != "times_s")


class Watch:
    """Reads a GPU's state in a thread while the context is open; a CPU's is not read.

    Attributes:
        driver: version, "" where there is none.
        power_limit_w: of the GPU, None where it is not known.
    """

    def __init__(self, device: str, every_s: float = EVERY_S) -> None:
        self.driver = ""
        self.power_limit_w: float | None = None
        self._device = device
        self._every_s = every_s
        self._gpu: Gpu | None = None
        self._opened = ExitStack()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._rows: list[tuple[float, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        kind, _, index = self._device.partition(":")
        if kind == "cuda":
            try:
                self._gpu = self._opened.enter_context(open_gpu(int(index or 0)))
            except MeasureError:
                return self
            self.driver = self._gpu.driver
            self.power_limit_w = self._gpu.power_limit_w
            self._read(self._gpu)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._gpu is not None:
            self._thread.join()
            self._read(self._gpu)
        self._opened.close()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            if self._gpu is not None:
                self._read(self._gpu)

    def _read(self, gpu: Gpu) -> None:
        self._rows.append((time.perf_counter(), vars(gpu.state())))

    def states(self, zero: float = 0.0) -> States:
        """The readings, a column a quantity; those that the GPU never told are left out.

        Args:
            zero: moment from which times count, on `time.perf_counter`, which all processes share.
        """
        columns = {name: [row[name] for _, row in self._rows] for name in _COLUMNS}
        told = {name: c for name, c in columns.items() if any(v is not None for v in c)}
        return States(times_s=[round(when - zero, 2) for when, _ in self._rows], **told)
