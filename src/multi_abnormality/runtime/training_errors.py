"""Errors of PyTorch that users can act on: out of memory, compilation, a lost rank."""

import torch
from torch import distributed

from multi_abnormality.config.schema import Params
from multi_abnormality.utils.errors import InputError


class LostRankError(InputError):
    """Another rank exited in the middle of an operation of all ranks."""

    def __init__(self) -> None:
        super().__init__(
            "the connection to another rank is lost: it failed, was killed, or its node was lost. "
            "The last checkpoint is intact; `dvc repro` resumes from it"
        )


def explain_failure(error: RuntimeError, params: Params) -> InputError | None:
    """Return an InputError for a torch error that a parameter can prevent, else None."""
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
    is_lost_rank = isinstance(error, distributed.DistError) or "gloo" in str(error)
    return LostRankError() if is_lost_rank else None


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
