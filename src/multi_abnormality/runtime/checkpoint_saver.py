"""When checkpoints are saved, and which files."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from multi_abnormality.config.schema import Train
from multi_abnormality.runtime.checkpoint_archive import hard_link
from multi_abnormality.runtime.checkpoint_io import (
    BEST,
    LAST,
    PREVIOUS,
    Position,
    filenames_for_epoch,
    kept_names,
    save_checkpoint,
    to_cpu_copy,
)
from multi_abnormality.training.history import History
from multi_abnormality.utils.console import log


class BackupHook:
    """Base of a backup of checkpoints in the background; itself it backs up nothing."""

    is_on: ClassVar = False  # whether checkpoints are backed up

    def saved(self, epochs_done: int) -> None:
        """Called after each save of last.ckpt."""

    def poll(self) -> None:
        """Called after each step."""


@dataclass
class CheckpointSaver:
    """Saves last.ckpt every N epochs or minutes, on a stop request, and at the end of training.

    Every N epochs an epoch checkpoint is kept as well. The best epoch is held in memory until the
    next save and written to best.ckpt then: early in training each epoch is the best so far, and
    writing them all took more time than all other saves.
    """

    folder: Path  # directory of checkpoints
    settings: Train  # section `train` of the parameters
    history: History  # metrics of the epochs so far, which the training loop extends
    state: Callable[[], dict[str, Any]]  # returns the state of the training step
    metadata: dict[str, Any]  # model, fingerprint and environment, stored in every checkpoint
    backup: BackupHook  # hook called after each save of last.ckpt
    # Called after each save, with the names of the epoch checkpoints to keep.
    sync: Callable[[list[str]], None]
    _best: dict[str, Any] | None = None  # checkpoint of the best epoch, not written yet
    _saves: int = 0
    _seconds: float = 0.0  # that saves took
    _started: float = field(default_factory=time.monotonic)
    _saved_at: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        """Whether the last save was `save_every_n_minutes` ago."""
        return time.monotonic() - self._saved_at >= 60 * self.settings.save_every_n_minutes

    def save_epoch(self, epoch: int, is_last: bool) -> None:
        """Save the end of an epoch if it is time to, or keep it in memory if it is the best."""
        position = Position(epoch + 1, 0)
        names = filenames_for_epoch(self.history, self.settings.save_every_n_epochs)
        if is_last or self.is_due or position.epoch % self.settings.save_every_n_epochs == 0:
            self.save(position, names)
        elif BEST in names:
            started = time.monotonic()
            self._best = to_cpu_copy(self._content(position))
            self._seconds += time.monotonic() - started

    def log_summary(self) -> None:
        """Log how much time the saves took."""
        took = time.monotonic() - self._started
        log.info(
            "saves: %d; they took %.1f s of %.1f s, %.2f %%",
            self._saves, self._seconds, took, 100 * self._seconds / took,
        )  # fmt: skip

    def _content(self, position: Position) -> dict[str, Any]:
        return self.state() | {
            "position": asdict(position),
            "history": self.history.state(),
            "step_metrics": self.history.steps_state(),
            "about": self.metadata,
            "complete": False,
        }

    def save(self, position: Position, names: Sequence[str] = ()) -> None:
        """Save last.ckpt and link it to other names, BEST among them if this epoch is the best."""
        started = time.monotonic()
        if self._best is not None and BEST not in names:
            save_checkpoint(self._best, self.folder / BEST)
        self._best = None
        last = self.folder / LAST
        save_checkpoint(self._content(position), last, keep=self.folder / PREVIOUS)
        for name in names:
            hard_link(last, self.folder / name)
        self.sync(kept_names(self.history, self.settings.save_every_n_epochs))
        self._saves += 1
        self._saved_at = time.monotonic()
        self._seconds += self._saved_at - started
        self.backup.saved(position.epoch)
