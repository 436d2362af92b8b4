"""Measuring backends: how a workload runs in each runtime, and how its calls are timed."""
