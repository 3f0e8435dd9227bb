"""Decision whether a checkpoint may be resumed: selects the latest such one in a directory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multi_abnormality.config.schema import Model, Params
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import (
    BEST,
    FORMAT,
    LAST,
    NewerFormatError,
    Position,
    describe_older,
    filenames_for_epoch,
    kept_names,
    load_checkpoint,
    save_checkpoint,
    training_state,
)
from multi_abnormality.runtime.run_fingerprint import differences, fingerprint
from multi_abnormality.training.history import History, StopCriteria
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

# Parameters that determine which weights are loaded.
_NAMES_WEIGHTS = ("backbone", "pretrained", "pretrained_sha256", "pretrained_cfg_overlay")
_TENSORS = {"state_dict", "current_model_state", "optimizer", "best_epochs"}


@dataclass(frozen=True)
class ResumeCandidate:
    """A valid checkpoint, without its tensors."""

    path: Path
    content: dict[str, Any]

    @property
    def position(self) -> Position:
        return Position(**self.content["position"])

    @property
    def history(self) -> History:
        return History.from_state(self.content["history"], self.content.get("step_metrics"))

    @property
    def progress(self) -> tuple[Position, bool, bool]:
        """Sort key from the content, since file names and modification times are unreliable."""
        return self.position, self.content["complete"], self.path.name == LAST

    @classmethod
    def read(cls, path: Path) -> "ResumeCandidate":
        """Read a checkpoint without its tensors; raises as load_checkpoint does."""
        return cls(path, {k: v for k, v in load_checkpoint(path).items() if k not in _TENSORS})

    def ends(self, epoch: int) -> bool:
        """Whether the checkpoint was saved at the end of `epoch`, counted from 0."""
        return self.position == Position(epoch + 1, 0)


class CheckpointDir:
    """Directory of checkpoints, searched when a run starts.

    Raises:
        InputError: the directory is not writable.
    """

    def __init__(self, path: Path, archive: CheckpointArchive) -> None:
        self.path = path
        self.archive = archive
        self._check_writable()

    def select_and_archive_others(
        self, metadata: dict[str, Any], params: Params
    ) -> ResumeCandidate | None:
        """Return the latest checkpoint that this run can resume from, if there is one.

        Its best epoch's checkpoint must exist as well. Moves the checkpoints of other runs and
        damaged ones to the archive, and writes files that a kill prevented from being written.

        Raises:
            InputError: train.resume is `required` and there is none, or one is of a newer version.
        """
        run_id = fingerprint(metadata["identity"])

        def reasons_against(found: ResumeCandidate) -> list[str]:
            return _incompatibilities(found, metadata["identity"], params)

        ours = self._archive_others(reasons_against, run_id)
        if params.train.resume != "never" and self._archive_is_ahead(ours, reasons_against, run_id):
            log.info("restoring the checkpoints in %s", self.archive.run_dir(run_id))
            self.archive.restore_all(self.path, run_id)
            ours = self._archive_others(reasons_against, run_id)
        chosen = next((found for found in ours if _has_best_checkpoint(found, ours)), None)
        if chosen:
            self._restore_missing_files(chosen, ours, metadata, params)
            return chosen
        if ours:
            log.warning(
                "the best epoch's checkpoint is missing or damaged, and no earlier one is left"
            )
            self._archive(ours, damaged=[], run_id=run_id)
        if params.train.resume == "required":
            raise InputError(
                f"train.resume is `required`, but {self.path} has no checkpoint to resume from; "
                "`dvc pull --allow-missing checkpoints` may fetch one, `auto` starts without one"
            )
        return None

    def _archive_others(
        self, reasons_against: Callable[[ResumeCandidate], list[str]], run_id: str
    ) -> list[ResumeCandidate]:
        """Return this run's checkpoints, the most advanced first, and archive all others."""
        valid, damaged = _read(self.path)
        reasons = {found.path: reasons_against(found) for found in valid}
        ours = [found for found in valid if not reasons[found.path]]
        if valid and valid[0] not in ours:
            _log_differences(valid[0].path, reasons[valid[0].path])
        self._archive([found for found in valid if found not in ours], damaged, run_id)
        return ours

    def _archive_is_ahead(
        self,
        ours: list[ResumeCandidate],
        reasons_against: Callable[[ResumeCandidate], list[str]],
        run_id: str,
    ) -> bool:
        """Whether the archive has a more advanced checkpoint of this run than the directory."""
        if not (ours and ours[0].content["complete"]):
            self.archive.restore_cached(run_id)
        if self.archive.is_synced(self.path, run_id):
            return False
        archived, _ = _read(self.archive.run_dir(run_id))
        archived = [found for found in archived if not reasons_against(found)]
        furthest = max((found.progress for found in ours), default=())
        return bool(archived) and archived[0].progress > furthest

    def _check_writable(self) -> None:
        probe = self.path / ".probe.tmp"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}), so nothing could be saved"
            ) from error

    def _archive(self, candidates: list[ResumeCandidate], damaged: list[Path], run_id: str) -> None:
        """Move files to the archive.

        Checkpoints of run `run_id` itself go to a directory that the run does not sync with.
        """
        targets = {
            found.path: fingerprint(found.content["about"]["identity"]) for found in candidates
        }
        targets |= dict.fromkeys(damaged, "damaged")
        run_dirs = {
            run_dir
            for path, target in targets.items()
            if (
                run_dir := self.archive.archive(
                    path, f"{target}-before" if target == run_id else target
                )
            )
        }
        for run_dir in sorted(run_dirs):
            log.warning("existing checkpoints were moved to %s; `cp %s/* %s/` restores them",
                        run_dir, run_dir, self.path)  # fmt: skip

    def _restore_missing_files(
        self,
        chosen: ResumeCandidate,
        ours: list[ResumeCandidate],
        metadata: dict[str, Any],
        params: Params,
    ) -> None:
        """Write the files that a kill prevented from being written.

        The end of an epoch is saved as several files of equal content; any one restores the others.
        """
        history = chosen.history
        if not history.epochs:
            return
        sources = {BEST: next(found for found in ours if found.ends(history.best.epoch))}
        if chosen.ends(history.epochs[-1].epoch):
            names = filenames_for_epoch(history, params.train.save_every_n_epochs)
            if history.is_finished(StopCriteria.of(params)):
                names.append(LAST)
            sources |= dict.fromkeys(names, chosen)
        existing = {found.path.name: found.position for found in ours}
        for name, source in sources.items():
            if existing.get(name) != source.position:
                content = training_state(load_checkpoint(source.path))
                content |= {"complete": False, "about": metadata}
                save_checkpoint(content, self.path / name)
        kept = kept_names(history, params.train.save_every_n_epochs)
        self.archive.restore(self.path, fingerprint(metadata["identity"]), kept)


def recorded_pretrained_cfg(model: Model, folder: Path) -> dict[str, Any] | None:
    """Return the description of the requested weights in a checkpoint, if one has it.

    Checkpoints have all weights, so the weights themselves are only needed to start a run.

    Args:
        model: model section of params.yaml.
        folder: directory of checkpoints.
    """
    requested = model.model_dump(mode="json")
    for path in sorted(folder.glob("*.ckpt")):
        try:
            metadata = ResumeCandidate.read(path).content["about"]
        except InputError:  # reported by `select_and_archive_others`
            continue
        cfg: dict[str, Any] | None = metadata.get("pretrained_cfg")
        if cfg and all(metadata["model"].get(key) == requested[key] for key in _NAMES_WEIGHTS):
            return cfg
    return None


def _read(folder: Path) -> tuple[list[ResumeCandidate], list[Path]]:
    """Return the valid checkpoints, the most advanced first, and the paths of damaged ones."""
    for leftover in folder.glob(".*.tmp"):  # from a save that was killed
        leftover.unlink()
    valid, damaged = [], []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            found = ResumeCandidate.read(path)
        except NewerFormatError:
            raise
        except InputError as error:
            log.warning("%s; skipped", error)
            damaged.append(path)
        else:
            valid.append(found)
    return sorted(valid, key=lambda found: found.progress, reverse=True), damaged


def _has_best_checkpoint(found: ResumeCandidate, candidates: list[ResumeCandidate]) -> bool:
    history = found.history
    return not history.epochs or any(other.ends(history.best.epoch) for other in candidates)


def _incompatibilities(
    found: ResumeCandidate, identity: dict[str, Any], params: Params
) -> list[str]:
    """List why the run cannot resume from a checkpoint: differences, or too many epochs done."""
    if params.train.resume == "never":
        return ["train.resume: is `never`"]
    if found.content["format"] < FORMAT:
        return [describe_older(found.content)]
    old = found.content["about"]["identity"]
    if params.machine.allow_code_changes:
        old = old | {"code": identity["code"]}
    lines = differences(old, identity)
    done = len(found.history.epochs)
    limits = StopCriteria.of(params)
    if done > limits.epochs:
        lines.append(f"train.epochs: {done} are done, now {limits.epochs} are requested")
    if any(
        History(found.history.epochs[:count]).patience_exceeded(limits) for count in range(1, done)
    ):
        lines.append("train.early_stopping_patience: with the new value training had ended earlier")
    return lines


def _log_differences(path: Path, lines: list[str]) -> None:
    log.warning("%s will not be resumed:", path)
    for line in lines:
        log.warning("  - %s", line)
