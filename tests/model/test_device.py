"""Where a model runs."""

import pytest
import torch

from multi_abnormality.errors import InputError
from multi_abnormality.model.device import choose_device


def test_a_gpu_is_taken_where_there_is_one_and_it_is_not_forbidden():
    there = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == there
    assert choose_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_with_the_key():
    with pytest.raises(InputError, match=r"machine\.accelerator: gpu, but .* use auto or cpu"):
        choose_device("gpu")
