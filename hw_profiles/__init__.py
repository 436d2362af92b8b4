"""Ops, device profiles and the measuring of devices (floor 1: no networks, no searches)."""
