"""Configuration of Lightning's Trainer, and error messages for failures in it."""

import logging

import multi_abnormality.utils.torchvision_compat  # noqa: F401  # isort: skip
import lightning
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback

from multi_abnormality.config.schema import Params
from multi_abnormality.runtime.lightning_checkpoint_io import AtomicCheckpointIO
from multi_abnormality.runtime.precision import LIGHTNING_PRECISION
from multi_abnormality.utils.errors import InputError


def make_trainer(
    params: Params, device: torch.device, precision: str, callbacks: list[Callback]
) -> lightning.Trainer:
    """Create a Trainer that does not save, requeue or log by itself; the callbacks do.

    It drives one device. With several, DistributedContext synchronizes the ranks.

    Args:
        params: parameters of the run.
        device: device to train on.
        precision: a key of LIGHTNING_PRECISION.
        callbacks: Lightning callbacks.
    """
    # Lightning has set a level of its own.
    logging.getLogger("lightning.pytorch").setLevel(logging.getLogger().level)
    # Deterministic algorithms do not need it, and filling new memory takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1 if device.index is None else [device.index],
        precision=LIGHTNING_PRECISION[precision],
        accumulate_grad_batches=params.train.accumulate_grad_batches,
        max_epochs=params.train.epochs,
        deterministic=params.train.deterministic,
        # Set explicitly, or Lightning would detect SLURM and save and requeue by itself.
        plugins=[AtomicCheckpointIO(), LightningEnvironment()],
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def explain_failure(error: RuntimeError, params: Params) -> InputError | None:
    """Return an InputError for a torch error that a parameter can prevent, else None."""
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return InputError(_advise_less_memory(params))
    if isinstance(error, torch._dynamo.exc.TorchDynamoException):
        reason = str(error).strip().splitlines()[0]
        return InputError(f"train.compile: torch cannot compile here ({reason}); set it to false")
    return None


def _advise_less_memory(params: Params) -> str:
    """Error message that lists the parameters to lower."""
    size, steps = params.train.batch_size, params.train.accumulate_grad_batches
    chunk = params.model.encoder_chunk_size or params.train.slices_per_volume * size
    changes = []
    if size > 1:
        changes.append(
            f"train.batch_size to {size // 2} and train.accumulate_grad_batches to {2 * steps}"
        )
    if chunk > 1:
        changes.append(
            f"model.encoder_chunk_size to {max(chunk // 4, 1)}, if the backbone has layer norms"
        )
    if params.train.slices_per_volume > 1:
        changes.append(f"train.slices_per_volume below {params.train.slices_per_volume}")
    changes.append("preprocess.shape smaller")
    hint = "; or ".join(changes)
    return f"out of memory on the device; the last checkpoint is intact. Set {hint}"
