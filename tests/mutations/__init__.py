"""Fuzzing of the readers: mutated scans and tables of every format, reproducible by seed.

    PYTHONPATH=tests python -m mutations --count 5000 --seed 0

An input depends only on seed and index. `python -m mutations --index N --keep FOLDER` reads
one and keeps its files.
"""
