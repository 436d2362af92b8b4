"""Search spaces and their supernets (floor 2: knows no predictors, no policies, no SQL)."""

from search_spaces.space import get, names, register_space

__all__ = ["get", "names", "register_space"]
