"""Measuring backends: how a workload runs in each runtime, and how its calls are timed."""

from hw_profiles.op import Op

#: The anchor of float32 runtimes on a CPU: about a small transformer layer.
FLOAT_MIX = (
    Op("linear", (17, 48, 144)),
    Op("attention", (1, 3, 17, 17, 16)),
    Op("layer_norm", (17, 48)),
    Op("gelu", (17, 192)),
    Op("linear", (17, 192, 48)),
    Op("add", (17, 48)),
)
