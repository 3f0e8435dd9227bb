import numpy as np
import pytest

from multi_abnormality.data.loading.train_dataset import middle_slices, sample_slices
from multi_abnormality.utils.rng import generator


def test_middle_slices_are_evenly_spread():
    assert middle_slices(30, 5).tolist() == [3, 9, 15, 21, 27]
    assert middle_slices(4, 9).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("depth", "slices"), [(30, 5), (28, 9), (7, 6)])
def test_one_slice_of_each_part_is_sampled(depth: int, slices: int):
    draws = np.array([sample_slices(generator(seed), depth, slices) for seed in range(300)])
    edges = np.arange(slices + 1) * depth / slices
    assert (draws >= np.floor(edges[:-1])).all()
    assert (draws < np.ceil(edges[1:])).all()
    assert set(draws.ravel()) == set(range(depth))
    assert sample_slices(generator(0), 4, 9).tolist() == [0, 1, 2, 3]
