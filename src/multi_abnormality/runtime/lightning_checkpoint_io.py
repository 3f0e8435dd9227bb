"""Lightning plugin that reads and writes checkpoints through `checkpoint_io`."""

from pathlib import Path
from typing import Any

import multi_abnormality.utils.torchvision_compat  # noqa: F401  # isort: skip
from lightning.pytorch.plugins.io import CheckpointIO

from multi_abnormality.runtime.checkpoint_files import LAST, PREVIOUS
from multi_abnormality.runtime.checkpoint_io import load_checkpoint, save_checkpoint, to_cpu_copy

PendingCheckpoints = dict[Path, dict[str, Any]]  # checkpoints in memory, not yet written


class AtomicCheckpointIO(CheckpointIO):
    """Writes atomically. With storage options the checkpoint is stored there instead of a file."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: PendingCheckpoints | None = None,
    ) -> None:
        path = Path(path)
        if storage_options is not None:
            storage_options[path] = to_cpu_copy(checkpoint)
            return
        keep = path.with_name(PREVIOUS) if path.name == LAST else None
        save_checkpoint(checkpoint, path, keep)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ARG002  always the CPU; Lightning moves it to the device
        weights_only: bool | None = None,  # noqa: ARG002  always
    ) -> dict[str, Any]:
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink()
