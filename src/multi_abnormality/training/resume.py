"""Where training goes on from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multi_abnormality.console import log
from multi_abnormality.errors import InputError
from multi_abnormality.params import Params
from multi_abnormality.run_fingerprint import differences, fingerprint
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.checkpoints import BEST, LAST, kept_names, names_of_epoch
from multi_abnormality.training.files import NewerFormatError, load_checkpoint, save_checkpoint
from multi_abnormality.training.history import History, Limits
from multi_abnormality.training.position import Position

_TENSORS = {"state_dict", "current_model_state", "averaging_state", "optimizer_states"}


@dataclass(frozen=True)
class Found:
    """A valid checkpoint, without its tensors."""

    path: Path
    content: dict[str, Any]

    @property
    def position(self) -> Position:
        return Position(**self.content["position"])

    @property
    def history(self) -> History:
        return History.from_state(self.content["history"])

    @property
    def progress(self) -> tuple[Position, bool, bool]:
        """By what is inside: names and times of files say nothing that could be relied on."""
        return self.position, self.content["complete"], self.path.name == LAST

    @classmethod
    def read(cls, path: Path) -> "Found":
        """Raises InputError as load_checkpoint does."""
        return cls(path, {k: v for k, v in load_checkpoint(path).items() if k not in _TENSORS})

    def ends(self, epoch: int) -> bool:
        """Whether it was saved at the end of this epoch, counted from 0."""
        return self.position == Position(epoch + 1, 0)


class Folder:
    """The checkpoints that a training finds when it starts.

    Args:
        path: of the folder.
        aside: takes in what training does not go on from.

    Raises:
        InputError: the folder can't be written.
    """

    def __init__(self, path: Path, aside: Aside) -> None:
        self.path = path
        self.aside = aside
        self._check_writable()

    def find(self, about: dict[str, Any], params: Params) -> Found | None:
        """The newest checkpoint of this very training; all others are put out of the way.

        Args:
            about: the training that is to go on.
            params: how it is to go on.

        Raises:
            InputError: train.resume is `must` and there is none, or one is of a newer version.
        """
        name = fingerprint(about["identity"])

        def why_not(found: Found) -> list[str]:
            return _why_not(found, about["identity"], params)

        ours = self._sort_out(why_not, name)
        if params.train.resume != "never" and self._is_further_aside(ours, why_not, name):
            log.info("going back to what %s holds", self.aside.place(name))
            self.aside.bring_back(self.path, name)
            ours = self._sort_out(why_not, name)
        chosen = next((found for found in ours if _has_best(found, ours)), None)
        if chosen:
            self._settle(chosen, ours, about, params)
            return chosen
        if ours:
            log.warning("the best epoch's checkpoint is damaged, and no earlier one is left")
            self._clear(ours, [], name)
        if params.train.resume == "must":
            raise InputError(
                f"train.resume is `must`, and {self.path} holds no checkpoint to go on from; "
                "`dvc pull --allow-missing checkpoints` may bring one, `auto` starts without one"
            )
        return None

    def _sort_out(self, why_not: Callable[[Found], list[str]], name: str) -> list[Found]:
        """Those to go on from, the furthest first; the others are put out of the way."""
        valid, damaged = _read(self.path)
        reasons = {found.path: why_not(found) for found in valid}
        ours = [found for found in valid if not reasons[found.path]]
        if valid and valid[0] not in ours:
            _tell_differences(valid[0].path, reasons[valid[0].path])
        self._clear([found for found in valid if found not in ours], damaged, name)
        return ours

    def _is_further_aside(
        self, ours: list[Found], why_not: Callable[[Found], list[str]], name: str
    ) -> bool:
        """Whether this training was further before something else came to lie in the folder."""
        if self.aside.is_mirror(self.path, name):
            return False
        before = [found for found in _read(self.aside.place(name))[0] if not why_not(found)]
        furthest = max((found.progress for found in ours), default=())
        return bool(before) and before[0].progress > furthest

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

    def _clear(self, others: list[Found], damaged: list[Path], name: str) -> None:
        """Put files out of the way, and keep those of which there is no other copy.

        Those of this very training, `name`, go to a place that it does not write to.
        """
        places = {found.path: fingerprint(found.content["about"]["identity"]) for found in others}
        places |= dict.fromkeys(damaged, "damaged")
        kept = {
            taken
            for path, place in places.items()
            if (taken := self.aside.keep(path, f"{place}-before" if place == name else place))
        }
        for place in sorted(kept):
            log.warning("what was in its way is kept in %s; `cp %s/* %s/` brings it back",
                        place, place, self.path)  # fmt: skip

    def _settle(
        self, chosen: Found, ours: list[Found], about: dict[str, Any], params: Params
    ) -> None:
        """Write those files that the chosen one's epochs leave, where a kill prevented it.

        An epoch's end is saved as several files of equal content; any of them serves for all.
        """
        history = chosen.history
        if not history.epochs:
            return
        sources = {BEST: next(found for found in ours if found.ends(history.best.epoch))}
        if chosen.ends(history.epochs[-1].epoch):
            names = names_of_epoch(history, params.train.save_every_n_epochs)
            if history.is_over(Limits.of(params)):
                names.append(LAST)
            sources |= dict.fromkeys(names, chosen)
        there = {found.path.name: found.position for found in ours}
        for name, source in sources.items():
            if there.get(name) != source.position:
                content = load_checkpoint(source.path) | {"complete": False, "about": about}
                save_checkpoint(content, self.path / name)
        kept = kept_names(history, params.train.save_every_n_epochs)
        self.aside.restore(self.path, fingerprint(about["identity"]), kept)


def _read(folder: Path) -> tuple[list[Found], list[Path]]:
    """Valid checkpoints, the furthest first, and damaged ones."""
    for leftover in folder.glob(".*.tmp"):  # of a save that was killed
        leftover.unlink()
    valid, damaged = [], []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            found = Found.read(path)
        except NewerFormatError:
            raise
        except InputError as error:
            log.warning("%s; skipped", error)
            damaged.append(path)
        else:
            valid.append(found)
    return sorted(valid, key=lambda found: found.progress, reverse=True), damaged


def _has_best(found: Found, others: list[Found]) -> bool:
    history = found.history
    return not history.epochs or any(other.ends(history.best.epoch) for other in others)


def _why_not(found: Found, identity: dict[str, Any], params: Params) -> list[str]:
    """Why training can't go on from it: what differs, or how it is further than is wanted."""
    if params.train.resume == "never":
        return ["train.resume: is `never`"]
    old = found.content["about"]["identity"]
    if params.machine.accept_changed_code:
        old = old | {"code": identity["code"]}
    lines = differences(old, identity)
    done = len(found.history.epochs)
    limits = Limits.of(params)
    if done > limits.epochs:
        lines.append(f"train.epochs: {done} epochs are done, now {limits.epochs} are wanted")
    if any(History(found.history.epochs[:count]).stalled(limits) for count in range(1, done)):
        lines.append("train.early_stopping_patience: is now so low that training would have ended")
    return lines


def _tell_differences(path: Path, lines: list[str]) -> None:
    log.warning("%s is of another training and not gone on from. What differs:", path)
    for line in lines:
        log.warning("  - %s", line)
