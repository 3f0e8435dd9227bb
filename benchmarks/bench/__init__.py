"""Benchmarks of speed and memory. Each module has a function `run` that returns rows."""
