"""Hardware-aware neural architecture search: a space, a device and a budget in, a front out."""
