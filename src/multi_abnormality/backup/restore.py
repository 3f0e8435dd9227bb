"""Restore of a resume state into the work tree, without changes to branch and index."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from multi_abnormality.backup.discovery import State
from multi_abnormality.backup.dvc_recorder import CHECKPOINTS, COMPLETE, STAGE
from multi_abnormality.backup.git import Git, GitError
from multi_abnormality.backup.params_merge import MergeConflictError, changed_keys, merge_params
from multi_abnormality.backup.snapshot_metadata import LOCAL
from multi_abnormality.backup.tree_changes import (
    Blob,
    Changes,
    UnsafeTreeError,
    changes_between,
    check_changes,
    ignored_names,
)
from multi_abnormality.config.schema import parse_params
from multi_abnormality.config.yaml_reader import load_yaml
from multi_abnormality.runtime.run_fingerprint import RAISABLE
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError

PREPROCESS = "preprocess"
RESULT_SECTIONS = ("seed", "data", "preprocess", "model", "train")  # that affect a run's result
LOCAL_CONFIG = ".dvc/config"  # contains addresses of remotes; never restored
_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
_POINTER_KEYS = {"outs", "desc", "meta"}
# Keys of an entry in dvc.lock and .dvc files. DVC also accepts `files`, a list that nothing
# verifies, and reads entries without `hash: md5` from another folder of the remote.
_ENTRY_TYPES = {"path": str, "md5": str, "hash": str, "size": int, "nfiles": int, "isexec": bool}
_MAX_NAMES_SHOWN = 10


@dataclass(frozen=True)
class InspectedState:
    """A resume state whose files are safe to write.

    Attributes:
        state: the resume state.
        base: merge base of the state and HEAD.
        changes: changes of the state since `base`.
        head_changes: changes of HEAD since `base`.
        lock: dvc.lock of the state, without entries of other stages.
        pointers: changed .dvc files of the state, by name.
        ignored: names of files that are not restored, since .gitignore excludes them.
    """

    state: State
    base: str
    changes: Changes
    head_changes: Changes
    lock: dict[str, Any]
    pointers: dict[str, dict[str, Any]]
    ignored: frozenset[str]

    def folders(self) -> set[str]:
        """Return the hashes of all folders that `dvc pull` would check out."""
        outs = [out for stage in self.lock["stages"].values() for out in stage.get("outs", ())]
        outs += [out for pointer in self.pointers.values() for out in pointer["outs"]]
        return {out["md5"] for out in outs if out.get("md5", "").endswith(".dir")}

    def drop_missing_preprocess(self, errors: Mapping[str, str]) -> bool:
        """Drop the preprocess stage if its outputs are not on the remote; return whether it was.

        Args:
            errors: error text by object hash.
        """
        outs = (self.lock["stages"].get(PREPROCESS) or {}).get("outs", ())
        if any(out.get("md5") in errors and "not on the remote" in errors[out["md5"]]
               for out in outs):  # fmt: skip
            del self.lock["stages"][PREPROCESS]
            return True
        return False

    def objects(self) -> set[str]:
        """Return the hashes of the preprocessed volumes and of the checkpoints."""
        stages = (self.lock["stages"].get(name) or {} for name in (PREPROCESS, STAGE))
        outs = (out for stage in stages for out in stage.get("outs", ()))
        return {out["md5"] for out in outs if "md5" in out and _is_folder(out)}


def _is_folder(out: dict[str, Any]) -> bool:
    """Whether an output is a folder; only folders are in DVC's cache, not in Git."""
    return bool(out["md5"].endswith(".dir"))


class WorkTree:
    """The work tree that a resume state is restored into.

    Args:
        git: repository, at the top of the work tree.
        root: root directory of the DVC repository.
        outputs: outputs of the pipeline that Git tracks; they may be overwritten.
    """

    def __init__(self, git: Git, root: Path, outputs: list[Path]) -> None:
        self.git = git
        self.top = git.folder
        self._lock = self._name(root / "dvc.lock")
        self._params = self._name(root / "params.yaml")
        self._config = self._name(root / LOCAL_CONFIG)
        self._results = {self._lock, *map(self._name, outputs)}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.top).as_posix()

    def inspect(self, state: State, allow_code_changes: bool = False) -> InspectedState:
        """Check that a state's files are safe to write.

        Args:
            state: resume state to check.
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
        changes = changes_between(self.git, base, state.commit)
        changes.pop(self._config, None)
        check_changes(self.git, changes)
        ignored = frozenset(ignored_names(self.git, changes))
        changes = {name: blob for name, blob in changes.items() if name not in ignored}
        lock = _checked_lock(self._text(state.commit, self._lock) or "")
        pointers = {
            name: content
            for name in changes if name.endswith(".dvc")
            if (content := _pointer(self._text(state.commit, name)))
        }  # fmt: skip
        if not allow_code_changes:
            self._check_params(state)
        head_changes = changes_between(self.git, base, "HEAD")
        own = self._own_stages(lock)
        return InspectedState(
            state, base, changes, head_changes, {"stages": own}, pointers, ignored
        )

    def _own_stages(self, lock: dict[str, Any]) -> dict[str, Any]:
        """Return the entries of the run's stages, and entries equal to HEAD's."""
        head = (yaml.safe_load(self._text("HEAD", self._lock) or "") or {}).get("stages") or {}
        return {
            name: stage for name, stage in lock["stages"].items()
            if name in (PREPROCESS, STAGE) or stage == head.get(name)
        }  # fmt: skip

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
        unfinished = found.lock["stages"].get(STAGE) or {}
        file = self.top / self._lock
        here = file.read_text(encoding="utf-8") if file.is_file() else ""
        committed = self._text("HEAD", self._lock) or ""
        entries = ((yaml.safe_load(text) or {}).get("stages", {}) for text in (here, committed))
        return [
            out["md5"]
            for stages in entries if _finished(entry := stages.get(STAGE) or {}, unfinished)
            for out in entry["outs"] if out["path"] == CHECKPOINTS
        ]  # fmt: skip

    def plan_changes(
        self, found: InspectedState, allow_code_changes: bool
    ) -> dict[str, Blob | bytes | None]:
        """Return the contents to write, by file name; None means delete.

        Args:
            found: resume state to restore.
            allow_code_changes: whether the state may change code.

        Raises:
            InputError: the state would change code, conflicts with changes here, or would not
                continue the same run. The message names files and keys.
        """
        local = self._local_changes(found.changes)
        self._check_code(found, allow_code_changes)
        self._check_conflicts(found, local, allow_code_changes)
        params = self._merged_params(found)
        if not allow_code_changes:
            parse_params(params, self.top / self._params)
        self._check_same_run(found, params, local)
        plan: dict[str, Blob | bytes | None] = {
            name: blob
            for name, blob in found.changes.items()
            if name not in (self._params, self._lock) and found.head_changes.get(name, "") != blob
            and (allow_code_changes or not _is_ignore_list(name))
            and not self._is_unchanged(name, blob)
        }  # fmt: skip
        for name, text in ((self._params, params), (self._lock, self._lock_text(found))):
            file = self.top / name
            if not file.is_file() or file.read_text(encoding="utf-8") != text:
                plan[name] = text.encode()
        return plan

    def _lock_text(self, found: InspectedState) -> str:
        """Return the text of the state's dvc.lock without entries of other stages."""
        from dvc.utils.serialize import dumps_yaml

        text = self._text(found.state.commit, self._lock) or ""
        if load_yaml(text)["stages"] == found.lock["stages"]:
            return text
        dumped: str = dumps_yaml({"schema": "2.0", **found.lock})
        return dumped

    def restore(self, plan: dict[str, Blob | bytes | None], state: State) -> None:
        """Write the planned contents, and set the run's local ref to the state's commit."""
        for name, content in sorted(plan.items(), key=lambda item: item[1] is not None):
            self._write(name, content)
        self.git("update-ref", f"{LOCAL}/{state.metadata.run}", state.commit)

    def unpushed(self, found: InspectedState) -> list[str]:
        """Return hashes and subjects of the commits that the state builds on and HEAD lacks."""
        lines = self.git("log", "--format=%h %s", f"HEAD..{found.state.commit}^")
        return lines.splitlines()

    def _text(self, commit: str, name: str) -> str | None:
        try:
            return self.git.bytes("cat-file", "blob", f"{commit}:{name}").decode(errors="replace")
        except GitError:
            return None

    def _is_code(self, name: str, found: InspectedState) -> bool:
        """Whether a file affects what runs: all but results, parameters and pointers to data."""
        if name in self._results or name == self._params:
            return False
        head, restored = _pointer(self._text("HEAD", name)), found.pointers.get(name)
        is_same_data = head and restored and _paths(head) == _paths(restored)
        return not (name.endswith(".dvc") and is_same_data)

    def _check_code(self, found: InspectedState, allowed: bool) -> None:
        code = sorted(
            name for name in found.changes
            if found.head_changes.get(name, "") != found.changes[name]
            and self._is_code(name, found) and not _is_ignore_list(name)
            and not self._is_unchanged(name, found.changes[name])
        )  # fmt: skip
        if code and not allowed:
            commit = found.state.commit[:12]
            raise InputError(
                f"the resume state ({found.state.location}) has other code than this clone:\n"
                + _listed(code)
                + f"\n`git diff HEAD {commit}` shows it. If you trust everyone who can write to "
                "the remote, `--allow-code-changes` restores it, and `--state COMMIT` selects an "
                "earlier state; " + self._origin_of_code(found)
            )

    def _origin_of_code(self, found: InspectedState) -> str:
        unpushed = self.unpushed(found)
        if not unpushed:
            return "it was not committed at the time of the backup"
        return "it comes from commits that this branch lacks:\n" + _listed(unpushed)

    def _check_conflicts(self, found: InspectedState, local: set[str], allowed: bool) -> None:
        free = self._results | {self._params}
        if not allowed:  # then they are not restored
            free |= {name for name in found.changes if _is_ignore_list(name)}
        both = sorted(
            name for name, blob in found.changes.items()
            if name not in free and name in found.head_changes and found.head_changes[name] != blob
        )  # fmt: skip
        if both:
            raise InputError(
                f"the branch and the resume state ({found.state.location}) changed the same "
                "files:\n" + _listed(both) + self._hint(found)
            )
        replaced = {part for name in found.changes for part in _with_parents(name)}
        blocking_names = sorted(
            name for name in local
            if name not in free and (name in replaced or name.endswith(".dvc"))
            and not self._is_restored(name, found.state)
        )  # fmt: skip
        if blocking_names:
            raise InputError(
                "the work tree has local changes, which the resume state would overwrite:\n"
                + _listed(blocking_names)
                + "\n`git stash --include-untracked` saves them"
            )

    def _hint(self, found: InspectedState) -> str:
        return (
            f"\n`git switch --create resumed {found.state.commit[:12]}` continues the backed-up "
            "run as it was, `dvc repro` starts a new run from this work tree"
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
            raise InputError(self._params_message(str(error).splitlines(), found)) from error
        except ValueError as error:
            raise InputError(f"{self._params}: {error}") from error

    def _params_message(self, lines: list[str], found: InspectedState) -> str:
        return (
            f"params.yaml and the backup ({found.state.location}) describe different runs:\n"
            + _listed(lines)
            + "\nTo continue the backed-up run, set these keys to the backup's values (`git "
            "checkout -- params.yaml` drops uncommitted changes) and resume again. To train with "
            "the parameters in the work tree, start a new run: `dvc repro`"
        )

    def _check_same_run(self, found: InspectedState, params: str, local: set[str]) -> None:
        """Check that the restored work tree would continue the state's run.

        Raises:
            InputError: parameters or code that affect the result differ.
        """
        backup = self._text(found.state.commit, self._params) or ""
        lines = [
            line for line in changed_keys(backup, params, RESULT_SECTIONS)
            if line.partition(":")[0].removeprefix("train.") not in RAISABLE
        ]  # fmt: skip
        if lines:
            raise InputError(self._params_message(lines, found))
        code = self._changed_dependencies(found, local)
        if code and not _allows_code_changes(params):
            raise InputError(
                "code that affects the result differs from that of the backed-up run "
                f"({found.state.location}):\n" + _listed(code) + self._hint(found)
                + ", and `machine.allow_code_changes: true` continues the run with this clone's "
                "code"
            )  # fmt: skip

    def _changed_dependencies(self, found: InspectedState, local: set[str]) -> list[str]:
        """Return the dependencies of the run's stages that differ from the state's."""
        stages = (found.lock["stages"].get(name) or {} for name in (PREPROCESS, STAGE))
        deps = {dep["path"] for stage in stages for dep in stage.get("deps", ())}
        here = {name for name in found.head_changes if name not in found.changes} | {
            name for name in local if not self._is_restored(name, found.state)
        }
        prefix = self._lock.removesuffix("dvc.lock")
        return sorted(
            name for name in here - self._results - {self._params}
            if any(f"{name}/".startswith(f"{prefix}{dep}/") for dep in deps)
            or name.removesuffix(".dvc") in {f"{prefix}{dep}" for dep in deps}
        )  # fmt: skip

    def _local_changes(self, names: Iterable[str]) -> set[str]:
        """Return tracked files that differ from HEAD, and untracked ones among `names`."""
        tracked = set(self.git.names("ls-files", "-z"))
        untracked = {
            blocking
            for name in names if name not in tracked
            for blocking in _with_parents(name)
            if (self.top / blocking).is_file() and blocking not in tracked
        }  # fmt: skip
        changed = self.git.names("diff", "--name-only", "-z", "--no-renames", "HEAD")
        return untracked.union(changed) - {self._config}

    def _is_restored(self, name: str, state: State) -> bool:
        """Whether a file equals that of this state, or of the run's last state on this machine."""
        file = self.top / name
        here = self.git("hash-object", "--", name) if file.is_file() else None
        known = (state.commit, f"{LOCAL}/{state.metadata.run}")
        return here in [
            self.git.find("rev-parse", "--verify", "--quiet", f"{commit}:{name}")
            for commit in known if self.git.find("rev-parse", "--verify", "--quiet", commit)
        ]  # fmt: skip

    def _is_unchanged(self, name: str, blob: Blob | None) -> bool:
        file = self.top / name
        if blob is None or not file.is_file() or file.is_symlink():
            return blob is None and not file.exists()
        return blob.hash == self.git("hash-object", "--", name)

    def _write(self, name: str, content: Blob | bytes | None) -> None:
        path = self.top / name
        if content is None:
            path.unlink(missing_ok=True)
        elif isinstance(content, bytes):
            atomic_write(content, path)
        else:
            text = self.git.bytes("cat-file", "--filters", f"--path={name}", content.hash)
            atomic_write(text, path)
            if content.is_executable:
                path.chmod(0o755)


def _with_parents(name: str) -> list[str]:
    """Return a path and all its parent folders."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _is_ignore_list(name: str) -> bool:
    """Whether a file is a .gitignore, to which DVC adds missing lines by itself."""
    return name.rpartition("/")[2] == ".gitignore"


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_NAMES_SHOWN
    lines = [f"  - {name}" for name in names[:_MAX_NAMES_SHOWN]]
    return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])


def _checked_lock(text: str) -> dict[str, Any]:
    """Parse a dvc.lock; only content that DVC itself writes is accepted.

    Raises:
        UnsafeTreeError: dvc.lock is not valid.
    """
    try:
        content = load_yaml(text)
    except yaml.YAMLError as error:
        raise UnsafeTreeError(f"its dvc.lock is not valid YAML: {error}") from error
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(s, dict) for s in stages.values()):
        raise UnsafeTreeError("its dvc.lock has no stages")
    for name, stage in stages.items():
        for kind in ("deps", "outs"):
            if not _are_entries(stage.get(kind, [])):
                raise UnsafeTreeError(f"its dvc.lock: {kind} of the stage {name!r} are malformed")
    try:
        epochs = stages[STAGE]["params"]["params.yaml"]["train"]["epochs"]
    except (KeyError, TypeError):
        epochs = None
    if not isinstance(epochs, int):
        raise UnsafeTreeError(f"its dvc.lock: the stage {STAGE!r} has no train.epochs")
    return {"stages": stages}


def _are_entries(entries: object) -> bool:
    """Whether all entries have paths inside the project and valid object hashes."""
    if not isinstance(entries, list):
        return False
    for entry in entries:
        if not isinstance(entry, dict) or not _is_relative(entry.get("path")):
            return False
        if not all(type(value) is _ENTRY_TYPES.get(key) for key, value in entry.items()):
            return False
        if "md5" in entry and not (_OBJECT.fullmatch(entry["md5"]) and entry.get("hash") == "md5"):
            return False
    return True


def _is_relative(path: object) -> bool:
    return (
        isinstance(path, str)
        and not path.startswith(("/", "~"))
        and not {"..", ""} & set(re.split(r"[/\\]", path))
        and ":" not in path
    )


def _pointer(text: str | None) -> dict[str, Any] | None:
    """Parse a .dvc file; None unless it only points to data, as written by `dvc add`."""
    try:
        content = load_yaml(text or "")
    except yaml.YAMLError:
        return None
    if not isinstance(content, dict) or not content.keys() <= _POINTER_KEYS:
        return None
    outs = content.get("outs")
    if not outs or not _are_entries(outs):
        return None
    return content


def _paths(pointer: dict[str, Any]) -> list[str]:
    return sorted(out["path"] for out in pointer["outs"])


def _allows_code_changes(params: str) -> bool:
    content = load_yaml(params)
    return bool((content.get("machine") or {}).get("allow_code_changes"))


def _finished(entry: dict[str, Any], unfinished: dict[str, Any]) -> bool:
    """Whether an entry of dvc.lock is the finished run that `unfinished` is a state of."""
    outs = {out["path"] for out in entry.get("outs", ()) if "md5" in out}
    if COMPLETE not in outs or not unfinished:
        return False
    (ended, params), (done, other) = _split(entry), _split(unfinished)
    return params == other and entry.get("deps") == unfinished.get("deps") and ended >= done


def _split(entry: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return an entry's epochs and its other parameters."""
    params = entry["params"]["params.yaml"]
    train = {key: value for key, value in params["train"].items() if key != "epochs"}
    return params["train"]["epochs"], params | {"train": train}
