"""Mutated scans and tables of every format, by seed, and a program that reads them.

    PYTHONPATH=tests python -m mutations --count 5000 --seed 0

The input with a seed and an index is always the same. `python -m mutations --index N --keep FOLDER`
reads one, and leaves its files there.
"""
