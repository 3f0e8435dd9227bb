"""Lightning's trainer, as this project uses it."""

import logging

import lightning
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback

from multi_abnormality.errors import InputError
from multi_abnormality.params import Params
from multi_abnormality.training.durable_io import DurableIO
from multi_abnormality.training.precision import LIGHTNING_PRECISION


def make_trainer(
    params: Params, device: torch.device, precision: str, callbacks: list[Callback]
) -> lightning.Trainer:
    """One that saves, requeues and logs nothing by itself: the callbacks do.

    It is for one device, also where several train: what they do together is in `ranks`.

    Args:
        params: of the run.
        device: to train on.
        precision: resolved.
        callbacks: what goes on beside the training.
    """
    # Lightning has set its own one.
    logging.getLogger("lightning.pytorch").setLevel(logging.getLogger().level)
    # Deterministic algorithms do not need it, and it would write over all new memory first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1 if device.index is None else [device.index],
        precision=LIGHTNING_PRECISION[precision],
        accumulate_grad_batches=params.train.accumulate,
        max_epochs=params.train.epochs,
        deterministic=params.train.deterministic,
        # The environment is named, or Lightning would find SLURM's and requeue and save by itself.
        plugins=[DurableIO(), LightningEnvironment()],
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def explain_failure(error: RuntimeError, params: Params) -> InputError | None:
    """What to say for an error of torch's that a parameter can prevent; None for all others."""
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return InputError(_advise_less_memory(params))
    if isinstance(error, torch._dynamo.exc.TorchDynamoException):
        reason = str(error).strip().splitlines()[0]
        return InputError(f"train.compile: torch cannot compile here ({reason}); set it to false")
    return None


def _advise_less_memory(params: Params) -> str:
    """What to say where the device has not enough."""
    size, steps = params.train.batch_size, params.train.accumulate
    chunk = params.model.slice_chunk or params.train.slices * size
    ways = []
    if size > 1:
        ways.append(f"train.batch_size to {size // 2} and train.accumulate to {2 * steps}")
    if chunk > 1:
        ways.append(f"model.slice_chunk to {max(chunk // 4, 1)}, where the backbone normalizes "
                    "by layer")  # fmt: skip
    if params.train.slices > 1:
        ways.append(f"train.slices below {params.train.slices}")
    ways.append("preprocess.shape smaller")
    way_out = "; or ".join(ways)
    return f"the device's memory is too small; what was saved before is kept. Set {way_out}"
