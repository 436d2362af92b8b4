"""Timing networks on the one machine of a Ray cluster that is the device; the extra `ray`.

A node of the cluster offers the device under a resource label (`ray start --resources
'{"pi": 1}'`). An actor that asks for all of that label is placed there, so that no other measures
beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import onnx

from hw_profiles.profile import Device, Timing
from nas.errors import ExecutorError, KilledError, MeasureError
from nas.executors.executor import describe
from nas.executors.ray_cluster import join
from nas.profiling import Measured

ATTEMPTS = 2
"""Of a measurement whose actor is lost."""


class _Measuring:
    """What runs on the device's machine."""

    def device(self) -> dict[str, Any]:
        """The machine's processor, as plain data."""
        from hw_profiles.machine import this_cpu

        return this_cpu().model_dump()

    def measure(
        self, models: list[bytes], threads: int, processes: int
    ) -> tuple[list[dict[str, Any]], float]:
        """A `Timing` of each model, as plain data, and the anchor's time."""
        from nas.profiling import measure_models

        loaded = [onnx.load_from_string(model) for model in models]
        measured = measure_models(loaded, threads=threads, processes=processes)
        return [timing.model_dump() for timing in measured.timings], measured.undisturbed_ms


class RayMeasurer:
    """Measures on the node that offers a label, while it is open.

    Args:
        label: of the resource; one node of the cluster has it.

    Raises:
        ExecutorError: if the cluster cannot be reached, or no node offers the label.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self._ray, self._owned = join()
        offered = self._ray.cluster_resources()
        if not offered.get(label):
            own = sorted(name for name in offered if not name.startswith(("node:", "object_store")))
            self.close()
            raise ExecutorError(
                f"no node of the Ray cluster offers the resource {label!r}.",
                f"Start one with `ray start --resources '{{\"{label}\": 1}}'`; there are "
                f"{', '.join(own)}.",
            )
        share = {label: float(offered[label])}
        # Ray itself makes a lost call again, once the actor is back: here it would still restart
        tries = {"max_restarts": -1, "max_task_retries": ATTEMPTS - 1}
        actor = self._ray.remote(num_cpus=0, resources=share, **tries)(_Measuring)
        self._actor = actor.remote()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.kill(self._actor)
        self.close()

    def close(self) -> None:
        """Leave the cluster that was joined."""
        if self._owned:
            self._ray.shutdown()

    def device(self) -> Device:
        """What the node's processor is.

        Raises:
            ExecutorError: if the node is lost.
        """
        return Device.model_validate(self._ask(self._actor.device.remote))

    def measure(self, models: Sequence[onnx.ModelProto], threads: int, processes: int) -> Measured:
        """`nas.profiling.measure_models`, there.

        Raises:
            MeasureError: if a model cannot be run there, or the time was too short.
            ExecutorError: if the node is lost.
        """
        held = [model.SerializeToString() for model in models]
        found, anchor_ms = self._ask(lambda: self._actor.measure.remote(held, threads, processes))
        return Measured([Timing.model_validate(timing) for timing in found], anchor_ms)

    def _ask(self, call: Any, attempts: int = ATTEMPTS) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(call())
        except errors.RayTaskError as failed:
            # Of an actor that is lost, the measuring process may end first, and be told of still.
            if isinstance(failed.cause, KilledError) and attempts > 1:
                return self._ask(call, attempts - 1)
            if isinstance(failed.cause, MeasureError):
                raise failed.cause from None
            raise ExecutorError(
                f"the node with {self.label!r} cannot measure: {describe(failed.cause)}",
                "Install the same versions there.",
            ) from None
        except errors.RayError as lost:
            raise ExecutorError(
                f"the node with {self.label!r} was lost {ATTEMPTS} times: {describe(lost)}",
                "Look at it, then verify again.",
            ) from None
