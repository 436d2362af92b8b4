"""Ops, device profiles and the measuring of real devices (floor 1: knows no networks, no searches)."""
