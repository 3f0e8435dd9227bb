"""Choice of the device."""

import pytest
import torch

from multi_abnormality.models.device import choose_device
from multi_abnormality.utils.errors import InputError


def test_auto_uses_an_available_gpu():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_error_names_the_key():
    with pytest.raises(InputError, match=r"machine\.accelerator: gpu, but .* use auto or cpu"):
        choose_device("gpu")
