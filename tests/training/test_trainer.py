"""What is said of failures that a parameter can prevent."""

import pytest
import torch

from multi_abnormality.params import Params
from multi_abnormality.training.trainer import explain_failure


def test_too_little_memory_is_told_by_the_parameters_that_need_less(small_params: Params):
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 60)  # more than any machine has
    train = small_params.train.model_copy(update={"batch_size": 8, "accumulate": 1, "slices": 9})
    params = small_params.model_copy(update={"train": train})
    told = str(explain_failure(failure.value, params))
    assert "train.batch_size to 4 and train.accumulate to 2" in told
    assert "train.slices below 9" in told
    alone = params.model_copy(update={"train": train.model_copy(update={"batch_size": 1})})
    assert "train.batch_size" not in str(explain_failure(failure.value, alone))
    least = train.model_copy(update={"batch_size": 1, "slices": 1})
    told = str(explain_failure(failure.value, params.model_copy(update={"train": least})))
    assert told.endswith("Set preprocess.shape smaller")  # nothing that cannot go lower


def test_other_failures_stay_what_they_are(small_params: Params):
    assert explain_failure(RuntimeError("shapes do not fit"), small_params) is None
