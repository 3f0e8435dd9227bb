"""Errors of PyTorch in training that users can act on: memory, compilation, a lost rank."""

import torch

from multi_abnormality.config.schema import Params
from multi_abnormality.runtime.lost_ranks import LostRankError, is_lost_rank
from multi_abnormality.utils.errors import InputError


def explain_failure(error: RuntimeError, params: Params) -> InputError | None:
    """Return an InputError that says what to do about an error of torch; None for other errors."""
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return InputError(_advise_less_memory(params))
    if isinstance(error, torch._dynamo.exc.TorchDynamoException):
        reason = str(error).strip().splitlines()[0]
        return InputError(f"train.compile: torch cannot compile here ({reason}); set it to false")
    if "DataLoader worker" in str(error):
        return InputError(
            f"{str(error).splitlines()[0]} The usual reason is too little memory: lower "
            "machine.workers. The last checkpoint is intact"
        )
    return LostRankError() if is_lost_rank(error) else None


def _advise_less_memory(params: Params) -> str:
    """Error message that lists the parameters to lower."""
    size, steps = params.train.batch_size, params.train.accumulate_grad_batches
    chunk = params.model.encoder_chunk_size or params.train.slices_per_volume * size
    changes = []
    if size > 1:
        changes.append(
            f"train.batch_size to {size // 2} and train.accumulate_grad_batches to {2 * steps}"
        )
    if params.train.slices_per_volume > 1:
        changes.append(f"train.slices_per_volume below {params.train.slices_per_volume}")
    if chunk > 1:
        changes.append(
            f"model.encoder_chunk_size to {max(chunk // 4, 1)}, if the backbone has layer norms"
        )
    changes.append("preprocess.shape smaller")
    hint = "; or ".join(changes)
    return f"out of memory on the device; the last checkpoint is intact. Set {hint}"
