"""Checkpoint files: names, content, and serialization with a checksum.

A file is the zip archive that `torch.save` writes, with the SHA-256 of all bytes before it as the
archive's comment. `torch.load` reads it like any other, equal content gives equal bytes, and a
truncated or modified file is detected before it is unpickled.
"""

import hashlib
import io
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multi_abnormality.training.history import EpochMetrics, History
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError

FORMAT = 3  # of the content; incremented when an older version could no longer resume from it

BEST = "best.ckpt"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"

_COMMENT_PREFIX = b"sha256:"
_COMMENT_SIZE = len(_COMMENT_PREFIX) + 64


class NewerFormatError(InputError):
    """A checkpoint that must not be skipped, since a new run would overwrite it."""


@dataclass(frozen=True, order=True)
class Position:
    """Position of a checkpoint in training: `batch` batches of epoch `epoch` are done.

    With all batches done, the epoch's validation is not done yet.
    """

    epoch: int
    batch: int


def epoch_name(epoch: EpochMetrics) -> str:
    return f"multi_abnormality-epoch={epoch.epoch:02d}-val_loss={epoch.val_loss:.3f}.ckpt"


def filenames_for_epoch(history: History, every: int) -> list[str]:
    """Return the names, besides last.ckpt, under which the history's last epoch is saved."""
    epoch = history.epochs[-1]
    names = [BEST] if history.best is epoch else []
    if (epoch.epoch + 1) % every == 0:
        names.append(epoch_name(epoch))
    return names


def kept_names(history: History, every: int) -> list[str]:
    """Return the file names of the epoch checkpoints that a run has kept so far."""
    return [epoch_name(epoch) for epoch in history.epochs if (epoch.epoch + 1) % every == 0]


def save_checkpoint(checkpoint: dict[str, Any], path: Path, keep: Path | None = None) -> None:
    """Write a checkpoint atomically; with `keep`, the existing file is renamed to it."""
    buffer = io.BytesIO()
    content = _canonical(checkpoint | {"format": FORMAT}, _copy_once_needed())
    torch.save(content, buffer)
    _add_digest(buffer)
    atomic_write(buffer.getbuffer(), path, keep)


def to_cpu_copy(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Copy a checkpoint to CPU memory, so that further training does not modify it."""
    copy: dict[str, Any] = _canonical(checkpoint, _copy)
    return copy


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Verify a checkpoint's checksum and load it to the CPU with `weights_only`.

    Raises:
        InputError: the file is missing or damaged.
        NewerFormatError: a newer version of this project wrote the file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    view = memoryview(content)
    if view[-_COMMENT_SIZE:] != _comment(view[:-_COMMENT_SIZE]):
        raise InputError(f"{path}: was cut short or altered: its SHA-256 does not match")
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise InputError(f"{path}: is not a checkpoint; no code in it was run") from error
    if not isinstance(checkpoint, dict) or "format" not in checkpoint:
        raise InputError(f"{path}: is not a checkpoint of this project")
    if checkpoint["format"] > FORMAT:
        raise NewerFormatError(
            f"{path}: was written by a newer version of this project (format "
            f"{checkpoint['format']}, this version reads up to {FORMAT}); update the project, or "
            "move the file away"
        )
    return checkpoint


def training_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint with training's own weights, which `mark_complete` may have replaced."""
    if "average" not in checkpoint:
        return checkpoint
    own = checkpoint["best_epochs"][checkpoint["history"][-1]["epoch"]]
    return {
        key: own if key == "state_dict" else value
        for key, value in checkpoint.items()
        if key != "average"
    }


def mark_complete(
    folder: Path, metadata: dict[str, Any], best: dict[str, Any] | None = None
) -> None:
    """Set the `complete` flag in best.ckpt and last.ckpt, and delete previous.ckpt.

    Files that are complete already are not written again: they name the environment they were
    trained in.

    Args:
        metadata: that of the current parameters, so that a run whose `epochs` was raised after a
            save ends with the same bytes as one that had it from the start.
        best: what to replace in best.ckpt: the averaged weights and their description.
    """
    for name, changes in ((BEST, best), (LAST, None)):
        checkpoint = load_checkpoint(folder / name)
        kept = {"environment": checkpoint["about"]["environment"]}
        if changes or not (checkpoint["complete"] and checkpoint["about"] == metadata | kept):
            content = checkpoint | {"complete": True, "about": metadata} | (changes or {})
            save_checkpoint(content, folder / name)
    (folder / PREVIOUS).unlink(missing_ok=True)


def load_complete(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a finished run."""
    if not path.is_file():
        raise InputError(f"{path}: not found; `dvc repro train` creates it, `dvc pull` fetches it")
    checkpoint = load_checkpoint(path)
    if checkpoint["format"] < FORMAT:
        raise InputError(f"{path}: {describe_older(checkpoint)}; `dvc repro` trains again")
    if not checkpoint["complete"]:
        raise InputError(f"{path}: training has not ended; `dvc repro` finishes it")
    return checkpoint


def held_out_fold(metadata: dict[str, Any]) -> int | None:
    """Return the fold that a run held out as test, from its checkpoint's metadata."""
    fold: int | None = metadata.get("cross_validation", {}).get("fold")
    return fold


def describe_older(checkpoint: dict[str, Any]) -> str:
    """Describe a checkpoint of an earlier version, which this one cannot resume or evaluate."""
    return (
        f"was written by an earlier version of this project (format {checkpoint['format']}, this "
        f"version reads {FORMAT}), which alone can finish or evaluate its run"
    )


def _add_digest(archive: io.BytesIO) -> None:
    """Append the archive's comment, and write its length to the archive's last two bytes."""
    if bytes(archive.getbuffer()[-2:]) != b"\x00\x00":
        raise RuntimeError("torch.save wrote an archive that already has a comment")
    archive.seek(-2, io.SEEK_END)
    archive.write(_COMMENT_SIZE.to_bytes(2, "little"))
    archive.write(_comment(archive.getbuffer()))


def _comment(body: memoryview) -> bytes:
    return _COMMENT_PREFIX + hashlib.sha256(body).hexdigest().encode()


def _canonical(value: Any, with_storage: Callable[[Tensor], Tensor]) -> Any:
    """Canonicalize so that equal content pickles to equal bytes.

    Strings are interned, and each tensor gets a storage of its own. Copies preserve the memory
    format: fused optimizers assume that a weight and its moments have the same strides, and give
    wrong results without an error if they do not.
    """
    if isinstance(value, Tensor):
        return with_storage(value.detach())
    if isinstance(value, dict):
        return {
            _canonical(key, with_storage): _canonical(item, with_storage)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_canonical(item, with_storage) for item in value)
    if isinstance(value, str):
        return sys.intern(value)
    return value


def _copy(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True)


def _copy_once_needed() -> Callable[[Tensor], Tensor]:
    """Return a function that copies a tensor if it is a view or shares its storage with another."""
    seen: set[int] = set()

    def with_storage(tensor: Tensor) -> Tensor:
        tensor = tensor.cpu()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            return _copy(tensor)
        seen.add(storage.data_ptr())
        return tensor

    return with_storage
