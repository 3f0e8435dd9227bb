"""Slices of a volume for a training step: which ones, their neighbours, and their heights."""

import numpy as np


def sample_slices(rng: np.random.Generator, depth: int, slices: int) -> np.ndarray:
    """Return (S,) ascending indices, one sampled from each of `slices` equal parts."""
    if slices >= depth:
        return np.arange(depth)
    edges = np.arange(slices + 1) * depth / slices
    positions = edges[:-1] + rng.random(slices) * (edges[1:] - edges[:-1])
    return np.minimum(positions.astype(np.int64), depth - 1)


def middle_slices(depth: int, slices: int) -> np.ndarray:
    """Return (S,) ascending indices, the middle of each of `slices` equal parts."""
    if slices >= depth:
        return np.arange(depth)
    return (2 * np.arange(slices) + 1) * depth // (2 * slices)


def adjacent_slice_indices(slices: np.ndarray, depth: int, adjacent: int) -> np.ndarray:
    """Return (S * adjacent,) indices of each slice with its neighbours, clamped at the ends."""
    offsets = np.arange(adjacent) - adjacent // 2
    return (slices[:, None] + offsets).clip(0, depth - 1).ravel()


def relative_heights(slices: np.ndarray, depth: int) -> np.ndarray:
    """Return the (S,) float32 heights of slices in a volume, from 0 (lowest) to 1 (highest)."""
    heights: np.ndarray = np.linspace(0, 1, depth, dtype=np.float32)[slices]
    return heights
