"""A resume state's files go into the work tree; branch and index stay as they are."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from multi_abnormality.backup.find import State
from multi_abnormality.backup.git import Git
from multi_abnormality.backup.record import CHECKPOINTS, COMPLETE, STAGE
from multi_abnormality.backup.states import LOCAL
from multi_abnormality.errors import InputError
from multi_abnormality.files import write_durably

MACHINES_OWN = ".dvc/config"  # a remote's place is not the same everywhere


class WorkTree:
    """The work tree, and what a state would change in it.

    Args:
        git: at its top.
        root: DVC's folder.
        outputs: files that the pipeline writes and Git keeps: they may be written over.
    """

    def __init__(self, git: Git, root: Path, outputs: list[Path]) -> None:
        self.git = git
        self.top = git.folder
        self._lock = (root / "dvc.lock").relative_to(self.top).as_posix()
        self._config = (root / MACHINES_OWN).relative_to(self.top).as_posix()
        self._outputs = {path.relative_to(self.top).as_posix() for path in outputs}

    def ends_of(self, state: State) -> list[str]:
        """Hashes of the checkpoints in which, by dvc.lock here or as committed, the same training
        ended.
        """
        half = _entry(self.git("show", f"{state.commit}:{self._lock}"))
        file = self.top / self._lock
        here = file.read_text(encoding="utf-8") if file.is_file() else ""
        committed = self.git.find("show", f"HEAD:{self._lock}") or ""
        entries = map(_entry, (here, committed))
        return [
            out["md5"]
            for entry in entries if _finished(entry, half)
            for out in entry["outs"] if out["path"] == CHECKPOINTS
        ]  # fmt: skip

    def put(self, state: State) -> list[str]:
        """Write the state's files; their names.

        Raises:
            InputError: the work tree has other changes, or the branch has moved on in the very
                files.
        """
        changes = self._changes(state)
        local = self._local_changes(changes)
        blocked = sorted(
            name for name in local
            if name not in {self._config, *self._outputs} and not self._is_known(name, state)
        )  # fmt: skip
        if blocked:
            raise InputError(
                "the work tree has changes of its own, so the resume state is not put over them:\n"
                + "\n".join(f"  - {name}" for name in blocked)
                + "\n`git stash` or commit them, or `git checkout -- FILE` gives one up"
            )
        names = [
            name for name, blob in changes.items()
            if not (name == self._config and name in local) and not self._is_there(name, blob)
        ]  # fmt: skip
        for name in names:
            self._write(name, changes[name])
        self.git("update-ref", f"{LOCAL}/{state.about.run}", state.commit)
        return names

    def _changes(self, state: State) -> dict[str, str | None]:
        """What the state holds beside its parent commit: each file's blob, None for no file.

        A branch that has moved on keeps what it has; where both changed a file, a person decides.
        """
        parent = self.git.find("rev-parse", "--verify", "--quiet", f"{state.commit}^")
        empty = self.git("hash-object", "-t", "tree", "--stdin")
        changed = self._blobs(parent or empty, state.commit)
        moved = self._blobs(parent or empty, "HEAD") if parent else {}
        both = sorted(
            name for name, blob in changed.items()
            if name in moved and moved[name] != blob and name not in self._outputs
        )  # fmt: skip
        if both:
            raise InputError(
                f"the branch has moved on since the resume state ({state.place}) was made, in the "
                "same files:\n" + "\n".join(f"  - {name}" for name in both)
                + f"\n`git switch --create resumed {state.commit[:12]}` goes on from the state, "
                "`dvc repro` from the branch"
            )  # fmt: skip
        return {name: blob for name, blob in changed.items() if moved.get(name, "") != blob}

    def _blobs(self, old: str, new: str) -> dict[str, str | None]:
        """Files that differ, each with its blob and mode in `new`."""
        fields = self.git.names("diff-tree", "-r", "-z", "--no-renames", old, new)
        pairs = zip(fields[::2], fields[1::2], strict=True)
        found = ((name, raw.lstrip(":").split()) for raw, name in pairs)
        return {name: None if raw[4] == "D" else f"{raw[1]} {raw[3]}" for name, raw in found}

    def _local_changes(self, wanted: Iterable[str]) -> set[str]:
        """Tracked files that differ from HEAD, and untracked ones in the way."""
        tracked = set(self.git.names("ls-files", "-z"))
        untracked = {name for name in wanted if name not in tracked and (self.top / name).exists()}
        return untracked.union(self.git.names("diff", "--name-only", "-z", "--no-renames", "HEAD"))

    def _is_known(self, name: str, state: State) -> bool:
        """Whether a file is as this state has it, or as one that was put or made here has."""
        file = self.top / name
        here = self.git("hash-object", "--", name) if file.is_file() else None
        known = (state.commit, f"{LOCAL}/{state.about.run}")
        return here in [
            self.git.find("rev-parse", "--verify", "--quiet", f"{commit}:{name}")
            for commit in known if self.git.find("rev-parse", "--verify", "--quiet", commit)
        ]  # fmt: skip

    def _is_there(self, name: str, blob: str | None) -> bool:
        file = self.top / name
        if blob is None or not file.is_file():
            return blob is None and not file.exists()
        return blob.split()[1] == self.git("hash-object", "--", name)

    def _write(self, name: str, blob: str | None) -> None:
        path = self.top / name
        if blob is None:
            path.unlink(missing_ok=True)
            return
        mode, hash_ = blob.split()
        content = self.git.bytes("cat-file", "--filters", f"--path={name}", hash_)
        if mode == "120000":
            path.unlink(missing_ok=True)
            path.symlink_to(os.fsdecode(content))
            return
        write_durably(content, path)
        if mode == "100755":
            path.chmod(0o755)


def _entry(lock: str) -> dict[str, Any]:
    """The train stage's entry in the text of a dvc.lock; empty where it has none."""
    return ((yaml.safe_load(lock) or {}).get("stages") or {}).get(STAGE) or {}


def _finished(entry: dict[str, Any], half: dict[str, Any]) -> bool:
    """Whether an entry of dvc.lock is the end of the training that another is amid of."""
    outs = {out["path"] for out in entry.get("outs", ()) if "md5" in out}
    if COMPLETE not in outs or not half:
        return False
    (ended, params), (done, half_params) = _split(entry), _split(half)
    return params == half_params and entry["deps"] == half["deps"] and ended >= done


def _split(entry: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The epochs, and all the other parameters."""
    params = entry["params"]["params.yaml"]
    train = {key: value for key, value in params["train"].items() if key != "epochs"}
    return params["train"]["epochs"], params | {"train": train}
