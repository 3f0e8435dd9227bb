"""Checks of a machine and a project before a training run starts.

Each module has the checks of one area, generators of results. They import what they need inside the
check, so that a missing package is reported as a result.
"""
