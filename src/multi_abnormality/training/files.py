"""Checkpoint files: whole or absent, and sure to be what was written.

A file is what `torch.save` makes, a zip archive, with the SHA-256 of all that comes before as the
archive's comment. So `torch.load` reads it as any other, equal content gives equal bytes, and a
file that was cut short or altered is told from a good one before it is unpickled.
"""

import hashlib
import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multi_abnormality.errors import InputError
from multi_abnormality.files import write_durably

FORMAT = 1  # of what a checkpoint holds; raised when an older version could not go on from it

_COMMENT_PREFIX = b"sha256:"
_COMMENT_SIZE = len(_COMMENT_PREFIX) + 64


class NewerFormatError(InputError):
    """A checkpoint that must not be passed over, since starting anew would replace it."""


def save_checkpoint(checkpoint: dict[str, Any], path: Path, keep: Path | None = None) -> None:
    """Write a checkpoint durably; the file that was there goes to `keep`, where one is named."""
    buffer = io.BytesIO()
    content = _canonical(checkpoint | {"format": FORMAT}, _copy_once_needed())
    torch.save(content, buffer)
    _add_digest(buffer)
    write_durably(buffer.getbuffer(), path, keep)


def in_memory(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A copy in the host's memory, which further training leaves as it is."""
    copy: dict[str, Any] = _canonical(checkpoint, _copy)
    return copy


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU, having checked that it is whole. No code in it is run.

    Raises:
        InputError: it is not there, or not what was written.
        NewerFormatError: a newer version of this project wrote it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    view = memoryview(content)
    if view[-_COMMENT_SIZE:] != _comment(view[:-_COMMENT_SIZE]):
        raise InputError(f"{path}: was cut short or altered: its SHA-256 does not fit")
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


def _add_digest(archive: io.BytesIO) -> None:
    """Append the comment, and its length where a zip archive's last two bytes hold it."""
    if bytes(archive.getbuffer()[-2:]) != b"\x00\x00":
        raise RuntimeError("torch.save wrote an archive that already has a comment")
    archive.seek(-2, io.SEEK_END)
    archive.write(_COMMENT_SIZE.to_bytes(2, "little"))
    archive.write(_comment(archive.getbuffer()))


def _comment(body: memoryview) -> bytes:
    return _COMMENT_PREFIX + hashlib.sha256(body).hexdigest().encode()


def _canonical(value: Any, with_storage: Callable[[Tensor], Tensor]) -> Any:
    """Equal content in equal form, since pickling tells shared objects from equal ones.

    Strings are interned, and each tensor is to get a storage of its own. One that is copied keeps
    the order of its axes in memory: fused optimizers take it for granted that a weight and its
    moments agree in that, and go wrong without an error where they do not.
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
    """Copies what is a part of a storage, or of one that was met before."""
    met: set[int] = set()

    def with_storage(tensor: Tensor) -> Tensor:
        tensor = tensor.cpu()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in met:
            return _copy(tensor)
        met.add(storage.data_ptr())
        return tensor

    return with_storage
