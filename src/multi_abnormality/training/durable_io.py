"""Lightning's way to the files of `training.files`."""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from multi_abnormality.training.checkpoints import LAST, PREVIOUS
from multi_abnormality.training.files import in_memory, load_checkpoint, save_checkpoint

Held = dict[Path, dict[str, Any]]  # checkpoints that wait in memory


class DurableIO(CheckpointIO):
    """Writes durably. With storage options a checkpoint goes into them, and to no file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Held | None = None
    ) -> None:
        path = Path(path)
        if storage_options is not None:
            storage_options[path] = in_memory(checkpoint)
            return
        keep = path.with_name(PREVIOUS) if path.name == LAST else None
        save_checkpoint(checkpoint, path, keep)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ARG002  always the CPU; Lightning moves it on
        weights_only: bool | None = None,  # noqa: ARG002  always
    ) -> dict[str, Any]:
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink()
