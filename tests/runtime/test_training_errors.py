"""Error messages for failures that a parameter can prevent."""

import pytest
import torch

from multi_abnormality.config.schema import Params
from multi_abnormality.runtime.training_errors import explain_failure


def test_out_of_memory_error_lists_parameters_to_lower(small_params: Params):
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 60)  # more than any machine has
    train = small_params.train.model_copy(
        update={"batch_size": 8, "accumulate_grad_batches": 1, "slices_per_volume": 9}
    )
    params = small_params.model_copy(update={"train": train})
    message = str(explain_failure(failure.value, params))
    assert "train.batch_size to 4 and train.accumulate_grad_batches to 2" in message
    assert "train.slices_per_volume below 9" in message
    alone = params.model_copy(update={"train": train.model_copy(update={"batch_size": 1})})
    assert "train.batch_size" not in str(explain_failure(failure.value, alone))
    least = train.model_copy(update={"batch_size": 1, "slices_per_volume": 1})
    message = str(explain_failure(failure.value, params.model_copy(update={"train": least})))
    assert message.endswith("Set preprocess.shape smaller")  # nothing that cannot go lower


def test_other_errors_are_not_explained(small_params: Params):
    assert explain_failure(RuntimeError("shapes do not fit"), small_params) is None
