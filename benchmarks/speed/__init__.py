"""Measurements of speed, each beside its peer; the programs lie in the folder above."""
