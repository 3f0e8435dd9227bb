"""Restore of a resume state into the work tree, without changes to branch and index."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import multi_abnormality
from multi_abnormality.backup.dvc_recorder import CHECKPOINTS, COMPLETE, STAGE
from multi_abnormality.backup.git import Git, GitError
from multi_abnormality.backup.params_merge import MergeConflictError, merge_params
from multi_abnormality.backup.resume_commit import LOCAL
from multi_abnormality.backup.resume_commit_checks import (
    EXECUTABLE,
    Blob,
    Changes,
    UnsafeTreeError,
    changes_between,
    check_changes,
    ignored_names,
    parents_of,
    read_lock,
    read_pointer,
    read_tree,
)
from multi_abnormality.backup.resume_states import State
from multi_abnormality.config.schema import parse_params
from multi_abnormality.config.yaml_reader import load_yaml
from multi_abnormality.runtime.run_fingerprint import NOT_IN_FINGERPRINT, differences, result_code
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError

PREPROCESS = "preprocess"
RESULT_SECTIONS = ("seed", "data", "preprocess", "model", "train")  # that affect a run's result
LOCAL_CONFIG = ".dvc/config"  # contains addresses of remotes; never restored
_MAX_NAMES_SHOWN = 10

Plan = dict[str, Blob | bytes | None]  # contents to write, by file name; None: delete


@dataclass(frozen=True)
class InspectedState:
    """A resume state whose files are safe to write."""

    state: State  # the resume state
    base: str  # merge base of the state and HEAD
    tree: Mapping[str, Blob]  # files of the state
    changes: Changes  # changes of the state since `base`
    head_changes: Changes  # changes of HEAD since `base`
    lock: dict[str, Any]  # entries of its dvc.lock
    stages: dict[str, Any]  # those of the run's stages, and those equal to HEAD's
    pointers: dict[str, list[dict[str, Any]]]  # entries of its changed .dvc files, by name
    ignored: frozenset[str]  # names of files that are not restored, since .gitignore excludes them

    def folders(self) -> set[str]:
        """Return the hashes of all folders that `dvc pull` would check out."""
        outs = [out for stage in self.stages.values() for out in stage.get("outs", ())]
        outs += [out for pointer in self.pointers.values() for out in pointer]
        return {out["md5"] for out in outs if out.get("md5", "").endswith(".dir")}

    def drop_missing_preprocess(self, errors: Mapping[str, str]) -> bool:
        """Drop the preprocess stage if its outputs are not on the remote; return whether it was."""
        outs = self.stages.get(PREPROCESS, {}).get("outs", ())
        is_missing = any("not on the remote" in errors.get(out.get("md5"), "") for out in outs)
        if is_missing:
            del self.stages[PREPROCESS]
        return is_missing

    def objects(self) -> set[str]:
        """Return the hashes of the folders of preprocessed volumes and of checkpoints."""
        stages = (self.stages.get(name, {}) for name in (PREPROCESS, STAGE))
        outs = (out for stage in stages for out in stage.get("outs", ()))
        return {out["md5"] for out in outs if out.get("md5", "").endswith(".dir")}

    def is_pending(self, name: str) -> bool:
        """Whether HEAD does not already have this file of the state."""
        return self.head_changes.get(name, "") != self.changes[name]


class WorkTree:
    """The work tree that a resume state is restored into.

    Args:
        results: files that may be overwritten, see `committed_files`.
    """

    def __init__(self, git: Git, root: Path, results: list[Path]) -> None:
        self.git = git
        self.top = git.folder
        self._lock = self._name(root / "dvc.lock")
        self._params = self._name(root / "params.yaml")
        self._config = self._name(root / LOCAL_CONFIG)
        self._results = set(map(self._name, results))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.top).as_posix()

    def inspect(self, state: State, allow_code_changes: bool = False) -> InspectedState:
        """Check that a state's files are safe to write.

        Args:
            allow_code_changes: whether the state's code is restored, too; its parameters are then
                not validated by this clone's schema.

        Raises:
            UnsafeTreeError: a file is not safe, or the state has no commit in common with HEAD.
            GitError: an object is missing.
        """
        base = self.git.find("merge-base", "HEAD", state.commit)
        if base is None:
            raise UnsafeTreeError(
                "it has no commit in common with HEAD: it belongs to another project, or the "
                "branch's history was rewritten"
            )
        tree, base_tree = read_tree(self.git, state.commit), read_tree(self.git, base)
        changes = changes_between(base_tree, tree)
        changes.pop(self._config, None)
        check_changes(self.git, changes)
        ignored = frozenset(ignored_names(self.git, changes))
        changes = {name: blob for name, blob in changes.items() if name not in ignored}
        lock = read_lock(self._text(state.commit, self._lock) or "")
        pointers = {
            name: entries for name in changes
            if name.endswith(".dvc") and (entries := read_pointer(self._text(state.commit, name)))
        }  # fmt: skip
        if not allow_code_changes:
            self._check_params(state)
        head_changes = changes_between(base_tree, read_tree(self.git, "HEAD"))
        head = _stages(self._text("HEAD", self._lock))
        own = {
            name: stage for name, stage in lock.items()
            if name in (PREPROCESS, STAGE) or stage == head.get(name)
        }  # fmt: skip
        return InspectedState(
            state, base, tree, changes, head_changes, lock, own, pointers, ignored
        )

    def _check_params(self, state: State) -> None:
        try:
            parse_params(self._text(state.commit, self._params) or "", Path("its params.yaml"))
        except InputError as error:
            raise UnsafeTreeError(
                f"{error}. If they need the state's own code, `--allow-code-changes` restores both"
            ) from error

    def finished_checkpoints(self, found: InspectedState) -> list[str]:
        """Return the hashes of the same run's final checkpoints, if dvc.lock (in the work tree or
        in HEAD) records the run as finished.
        """
        unfinished = found.stages.get(STAGE, {})
        file = self.top / self._lock
        here = file.read_text(encoding="utf-8") if file.is_file() else ""
        entries = [_stages(text).get(STAGE, {}) for text in (here, self._text("HEAD", self._lock))]
        return [
            out["md5"]
            for entry in entries if _finished(entry, unfinished)
            for out in entry["outs"] if out["path"] == CHECKPOINTS
        ]  # fmt: skip

    def plan_changes(self, found: InspectedState, allow_code_changes: bool) -> Plan:
        """Return the contents to write, by file name; None means delete.

        Raises:
            InputError: the state would change code, conflicts with changes here, or would not
                continue the same run. The message names files and keys.
        """
        local = self._local_changes(found.changes)
        here = self._hashes({*local, *found.changes})
        edited = self._edited(local, here, found)
        pending: Plan = {
            name: blob for name, blob in found.changes.items()
            if found.is_pending(name) and here.get(name) != (blob.hash if blob else None)
        }  # fmt: skip
        if not allow_code_changes:
            pending = {name: pending[name] for name in pending if not _is_ignore_list(name)}
            self._check_code(found, pending)
        self._check_conflicts(found, edited, allow_code_changes)
        params = self._merged_params(found)
        if not allow_code_changes and params != self._text(found.state.commit, self._params):
            parse_params(params, self.top / self._params)
        self._check_same_run(found, params, edited)
        for name, text in ((self._params, params), (self._lock, self._lock_text(found))):
            pending.pop(name, None)
            file = self.top / name
            if not file.is_file() or file.read_text(encoding="utf-8") != text:
                pending[name] = text.encode()
        return pending

    def restore(self, plan: Plan, state: State) -> None:
        """Delete and write the planned files, and set the run's local ref to the commit."""
        for name in (name for name, content in plan.items() if content is None):
            path = self.top / name
            path.unlink(missing_ok=True)
            with suppress(OSError):  # as Git does, remove folders that are empty now
                os.removedirs(path.parent)
        for name, content in plan.items():
            path = self.top / name
            if isinstance(content, bytes):
                atomic_write(content, path)
            elif content is not None:
                data = self.git.bytes("cat-file", "--filters", f"--path={name}", content.hash)
                atomic_write(data, path)
                if content.mode == EXECUTABLE:
                    path.chmod(0o755)
        self.git("update-ref", f"{LOCAL}/{state.metadata.run}", state.commit)

    def unpushed(self, found: InspectedState) -> list[str]:
        """Return hashes and subjects of the commits that the state builds on and HEAD lacks."""
        return self.git("log", "--format=%h %s", f"HEAD..{found.state.commit}^").splitlines()

    def _text(self, commit: str, name: str) -> str | None:
        try:
            return self.git.bytes("cat-file", "blob", f"{commit}:{name}").decode(errors="replace")
        except GitError:
            return None

    def _lock_text(self, found: InspectedState) -> str:
        """Return the text of the state's dvc.lock without entries of other stages."""
        from dvc.utils.serialize import dumps_yaml

        if found.stages == found.lock:
            return self._text(found.state.commit, self._lock) or ""
        dumped: str = dumps_yaml({"schema": "2.0", "stages": found.stages})
        return dumped

    def _local_changes(self, names: Iterable[str]) -> set[str]:
        """Return tracked files that differ from HEAD, and untracked ones among `names`."""
        tracked = set(self.git.names("ls-files", "-z"))
        untracked = {
            blocking for name in names if name not in tracked
            for blocking in (*parents_of(name), name)
            if (self.top / blocking).is_file() and blocking not in tracked
        }  # fmt: skip
        changed = self.git.names("diff", "--name-only", "-z", "--no-renames", "HEAD")
        return untracked.union(changed) - {self._config}

    def _hashes(self, names: Iterable[str]) -> dict[str, str]:
        """Return the Git hashes of regular files in the work tree."""
        paths = ((name, self.top / name) for name in sorted(names) if "\n" not in name)
        files = [name for name, path in paths if path.is_file() and not path.is_symlink()]
        hashes = self.git("hash-object", "--stdin-paths", stdin="\n".join(files)).split()
        return dict(zip(files, hashes, strict=True))

    def _edited(self, local: set[str], here: dict[str, str], found: InspectedState) -> set[str]:
        """Return the local changes that were made neither by this state nor by the run's last one
        on this machine.
        """
        last = f"{LOCAL}/{found.state.metadata.run}"
        is_known = self.git.find("rev-parse", "--verify", "--quiet", last)
        trees = [found.tree, *([read_tree(self.git, last)] if is_known else [])]
        return {
            name for name in local
            if here.get(name) not in [
                blob.hash if (blob := tree.get(name)) else None for tree in trees
            ]
        }  # fmt: skip

    def _is_code(self, name: str, found: InspectedState) -> bool:
        """Whether a file affects what runs: all but results, parameters and pointers to data."""
        if name in self._results or name == self._params:
            return False
        head, restored = read_pointer(self._text("HEAD", name)), found.pointers.get(name)
        is_same_data = head and restored and _paths(head) == _paths(restored)
        return not (name.endswith(".dvc") and is_same_data)

    def _check_code(self, found: InspectedState, pending: Plan) -> None:
        code = sorted(name for name in pending if self._is_code(name, found))
        if not code:
            return
        commit, unpushed = found.state.commit[:12], self.unpushed(found)
        origin = "it was not committed at the time of the backup"
        if unpushed:
            origin = "it comes from commits that this branch lacks:\n" + _listed(unpushed)
        raise InputError(
            f"the resume state ({found.state.location}) has other code than this clone:\n"
            + _listed(code)
            + f"\n`git diff HEAD {commit}` shows it. If you trust everyone who can write to "
            "the remote, `--allow-code-changes` restores it, and `--state COMMIT` selects an "
            "earlier state; " + origin
        )

    def _check_conflicts(self, found: InspectedState, edited: set[str], allowed: bool) -> None:
        free = self._results | {self._params}
        if not allowed:  # then they are not restored
            free |= {name for name in found.changes if _is_ignore_list(name)}
        both = sorted(
            name for name in found.changes
            if name not in free and name in found.head_changes and found.is_pending(name)
        )  # fmt: skip
        if both:
            raise InputError(
                f"the branch and the resume state ({found.state.location}) changed the same "
                "files:\n" + _listed(both) + _hint(found)
            )
        replaced = {part for name in found.changes for part in (*parents_of(name), name)}
        blocking = sorted(
            name for name in edited - free if name in replaced or name.endswith(".dvc")
        )
        if blocking:
            raise InputError(
                "the work tree has local changes, which the resume state would overwrite:\n"
                + _listed(blocking)
                + "\n`git stash --include-untracked` saves them"
            )

    def _merged_params(self, found: InspectedState) -> str:
        file = self.top / self._params
        backup = self._text(found.state.commit, self._params)
        if backup is None:
            raise InputError(f"the resume state ({found.state.location}) has no {self._params}")
        here = file.read_text(encoding="utf-8") if file.is_file() else backup
        base = self._text(found.base, self._params) or backup
        try:
            return merge_params(base, backup, here)
        except MergeConflictError as error:
            raise InputError(_params_message(str(error).splitlines(), found)) from error
        except ValueError as error:
            raise InputError(f"{self._params}: {error}") from error

    def _check_same_run(self, found: InspectedState, params: str, edited: set[str]) -> None:
        """Check that the restored work tree would continue the state's run."""
        backup = self._text(found.state.commit, self._params) or ""
        theirs, ours = (
            {name: load_yaml(text).get(name) for name in RESULT_SECTIONS}
            for text in (backup, params)
        )
        lines = [
            line for line in differences(theirs, ours)
            if line.partition(":")[0].removeprefix("train.") not in NOT_IN_FINGERPRINT
        ]  # fmt: skip
        if lines:
            raise InputError(_params_message(lines, found))
        code = self._changed_dependencies(found, edited)
        if code and not (load_yaml(params).get("machine") or {}).get("allow_code_changes"):
            raise InputError(
                "code that affects the result differs from that of the backed-up run "
                f"({found.state.location}):\n" + _listed(code) + _hint(found)
                + ", and `machine.allow_code_changes: true` continues the run with this clone's "
                "code"
            )  # fmt: skip

    def _changed_dependencies(self, found: InspectedState, edited: set[str]) -> list[str]:
        """Return the dependencies of the run's stages that differ from the state's.

        Training compares its own code by its meaning. Preprocessing would run again, as DVC
        compares bytes, and needs data that this machine may lack.
        """
        prefix = self._lock.removesuffix("dvc.lock")
        package = Path(multi_abnormality.__file__).parent
        is_same_code = found.state.metadata.identity.get("code") == result_code(package)
        names = (PREPROCESS,) if is_same_code else (PREPROCESS, STAGE)
        stages = (found.stages.get(name, {}) for name in names)
        deps = {f"{prefix}{dep['path']}" for stage in stages for dep in stage.get("deps", ())}
        newer = {name for name in found.head_changes if name not in found.changes}
        return sorted(
            name for name in (newer | edited) - self._results - {self._params}
            if deps & {*parents_of(name), name, name.removesuffix(".dvc")}
        )  # fmt: skip


def _hint(found: InspectedState) -> str:
    return (
        f"\n`git switch --create resumed {found.state.commit[:12]}` continues the backed-up "
        "run as it was, `dvc repro` starts a new run from this work tree"
    )


def _params_message(lines: list[str], found: InspectedState) -> str:
    return (
        f"params.yaml and the backup ({found.state.location}) describe different runs:\n"
        + _listed(lines)
        + "\nTo continue the backed-up run, set these keys to the backup's values (`git "
        "checkout -- params.yaml` drops uncommitted changes) and resume again. To train with "
        "the parameters in the work tree, start a new run: `dvc repro`"
    )


def _is_ignore_list(name: str) -> bool:
    """Whether a file is a .gitignore, to which DVC adds missing lines by itself."""
    return name.rpartition("/")[2] == ".gitignore"


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_NAMES_SHOWN
    lines = [f"  - {name}" for name in names[:_MAX_NAMES_SHOWN]]
    return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])


@lru_cache(maxsize=2)  # those of the work tree and of HEAD
def _stages(text: str | None) -> dict[str, Any]:
    """Return the entries of this clone's own dvc.lock."""
    return (load_yaml(text or "") or {}).get("stages") or {}


def _paths(pointer: list[dict[str, Any]]) -> list[str]:
    return sorted(out["path"] for out in pointer)


def _finished(entry: dict[str, Any], unfinished: dict[str, Any]) -> bool:
    """Whether an entry of dvc.lock is the finished run that `unfinished` is a state of."""
    outs = {out["path"] for out in entry.get("outs", ()) if "md5" in out}
    if COMPLETE not in outs or not unfinished:
        return False
    (ended, params), (done, other) = _split(entry), _split(unfinished)
    return params == other and entry.get("deps") == unfinished.get("deps") and ended >= done


def _split(entry: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return an entry's epochs and the parameters that determine the result."""
    params = entry["params"]["params.yaml"]
    train = {key: value for key, value in params["train"].items() if key not in NOT_IN_FINGERPRINT}
    return params["train"]["epochs"], params | {"train": train}
