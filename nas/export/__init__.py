"""Subnets as files that others can load, checked against the supernet they came from."""
