"""Restoring a resume state into the work tree. Branch and index stay as they are."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from multi_abnormality.backup.discovery import State
from multi_abnormality.backup.git import Git, GitError
from multi_abnormality.backup.params_merge import MergeConflictError, changed_keys, merge_params
from multi_abnormality.backup.record import CHECKPOINTS, COMPLETE, STAGE
from multi_abnormality.backup.snapshot_metadata import LOCAL
from multi_abnormality.backup.tree_changes import (
    Blob,
    Changes,
    UnsafeTreeError,
    changes_between,
    check_changes,
    ignored_names,
)
from multi_abnormality.errors import InputError
from multi_abnormality.files import write_durably
from multi_abnormality.params import parse_params
from multi_abnormality.run_fingerprint import RAISABLE
from multi_abnormality.yaml12 import load_yaml

PREPROCESS = "preprocess"
RESULT_SECTIONS = ("seed", "data", "preprocess", "model", "train")  # that decide a run's result
MACHINES_OWN = ".dvc/config"  # has addresses of remotes; never restored
_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
_POINTER_KEYS = {"outs", "desc", "meta"}
# Keys of an entry in dvc.lock and .dvc files. DVC would also take `files`, a list that nothing
# verifies, and reads entries without `hash: md5` from another place of the remote.
_ENTRY_TYPES = {"path": str, "md5": str, "hash": str, "size": int, "nfiles": int, "isexec": bool}
_SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Inspected:
    """A state whose files are safe to write.

    Attributes:
        state: the state.
        base: the newest commit that it and HEAD have in common.
        changes: what it changes since then.
        moved: what HEAD changes since then.
        lock: its dvc.lock, without stages that are somebody else's.
        pointers: the .dvc files that it changes, by name.
        ignored: names in it that .gitignore excludes; they are left out.
    """

    state: State
    base: str
    changes: Changes
    moved: Changes
    lock: dict[str, Any]
    pointers: dict[str, dict[str, Any]]
    ignored: frozenset[str]

    def folders(self) -> set[str]:
        """Return the hashes of all folders that DVC would check out."""
        outs = [out for stage in self.lock["stages"].values() for out in stage.get("outs", ())]
        outs += [out for pointer in self.pointers.values() for out in pointer["outs"]]
        return {out["md5"] for out in outs if out.get("md5", "").endswith(".dir")}

    def drop_missing_preprocess(self, faults: Mapping[str, str]) -> bool:
        """Forget the preprocess stage if what it made never reached the remote, as was warned of.

        Args:
            faults: what is wrong with objects, by their hash.
        """
        outs = (self.lock["stages"].get(PREPROCESS) or {}).get("outs", ())
        if any(out.get("md5") in faults and "not on the remote" in faults[out["md5"]]
               for out in outs):  # fmt: skip
            del self.lock["stages"][PREPROCESS]
            return True
        return False

    def objects(self) -> set[str]:
        """Return the hashes of what training needs: preprocessed volumes and checkpoints."""
        stages = (self.lock["stages"].get(name) or {} for name in (PREPROCESS, STAGE))
        outs = (out for stage in stages for out in stage.get("outs", ()))
        return {out["md5"] for out in outs if "md5" in out and _is_cached(out)}


def _is_cached(out: dict[str, Any]) -> bool:
    """Whether DVC, not Git, has it: folders, here."""
    return bool(out["md5"].endswith(".dir"))


class WorkTree:
    """The work tree, and what a state would change in it.

    Args:
        git: the repository, at its top.
        root: DVC's folder.
        outputs: files that the pipeline writes and Git keeps; they may be overwritten.
    """

    def __init__(self, git: Git, root: Path, outputs: list[Path]) -> None:
        self.git = git
        self.top = git.folder
        self._lock = self._name(root / "dvc.lock")
        self._params = self._name(root / "params.yaml")
        self._config = self._name(root / MACHINES_OWN)
        self._results = {self._lock, *map(self._name, outputs)}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.top).as_posix()

    def inspect(self, state: State, allow_code_changes: bool = False) -> Inspected:
        """Check that a state's files are safe to write.

        Args:
            state: the state.
            allow_code_changes: whether its code, and so what its parameters may be, is its own.

        Raises:
            UnsafeTreeError: one of them is not, or the state has no commit in common with HEAD.
            GitError: an object is missing.
        """
        base = self.git.find("merge-base", "HEAD", state.commit)
        if base is None:
            raise UnsafeTreeError(
                "it has no commit in common with HEAD: it is of another project, or the branch's "
                "history was rewritten since"
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
        moved = changes_between(self.git, base, "HEAD")
        own = self._own_stages(lock)
        return Inspected(state, base, changes, moved, {"stages": own}, pointers, ignored)

    def _own_stages(self, lock: dict[str, Any]) -> dict[str, Any]:
        """Return the entries of the run's stages, and those that HEAD has as well."""
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
                f"{error}. If it comes with code of its own, `--allow-code-changes` restores both"
            ) from error

    def ends_of(self, found: Inspected) -> list[str]:
        """Return the hashes of the checkpoints in which the same run ended, according to dvc.lock
        here or as committed.
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

    def plan(self, found: Inspected, allow_code_changes: bool) -> dict[str, Blob | bytes | None]:
        """Return what has to be written, by name; None: to be deleted.

        Args:
            found: the state.
            allow_code_changes: whether the state may change code.

        Raises:
            InputError: the state would change code, the same was changed here, or what would be
                trained then is not the state's run. The message names files and keys.
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
            if name not in (self._params, self._lock) and found.moved.get(name, "") != blob
            and (allow_code_changes or not _is_ignore_list(name))
            and not self._is_there(name, blob)
        }  # fmt: skip
        for name, text in ((self._params, params), (self._lock, self._lock_text(found))):
            file = self.top / name
            if not file.is_file() or file.read_text(encoding="utf-8") != text:
                plan[name] = text.encode()
        return plan

    def _lock_text(self, found: Inspected) -> str:
        """Return the state's dvc.lock, as it is unless it has other stages' entries."""
        from dvc.utils.serialize import dumps_yaml

        text = self._text(found.state.commit, self._lock) or ""
        if load_yaml(text)["stages"] == found.lock["stages"]:
            return text
        dumped: str = dumps_yaml({"schema": "2.0", **found.lock})
        return dumped

    def apply(self, plan: dict[str, Blob | bytes | None], state: State) -> None:
        """Write what was planned, and keep the state's commit."""
        for name, content in sorted(plan.items(), key=lambda item: item[1] is not None):
            self._write(name, content)
        self.git("update-ref", f"{LOCAL}/{state.metadata.run}", state.commit)

    def unpushed(self, found: Inspected) -> list[str]:
        """Return the commits, with their subjects, that the state builds on and HEAD lacks."""
        lines = self.git("log", "--format=%h %s", f"HEAD..{found.state.commit}^")
        return lines.splitlines()

    def _text(self, commit: str, name: str) -> str | None:
        try:
            return self.git.bytes("cat-file", "blob", f"{commit}:{name}").decode(errors="replace")
        except GitError:
            return None

    def _is_code(self, name: str, found: Inspected) -> bool:
        """Whether a file decides what runs: all but results, parameters and pointers to data."""
        if name in self._results or name == self._params:
            return False
        here, there = _pointer(self._text("HEAD", name)), found.pointers.get(name)
        return not (name.endswith(".dvc") and here and there and _paths(here) == _paths(there))

    def _check_code(self, found: Inspected, allowed: bool) -> None:
        code = sorted(
            name for name in found.changes
            if found.moved.get(name, "") != found.changes[name] and self._is_code(name, found)
            and not _is_ignore_list(name) and not self._is_there(name, found.changes[name])
        )  # fmt: skip
        if code and not allowed:
            commit = found.state.commit[:12]
            raise InputError(
                f"the resume state ({found.state.place}) has other code than this clone:\n"
                + _listed(code)
                + f"\n`git diff HEAD {commit}` shows it. If you trust everyone who can write to "
                "the remote, `--allow-code-changes` restores it, and `--state COMMIT` takes an "
                "earlier state; " + self._how_to_get_commits(found)
            )

    def _how_to_get_commits(self, found: Inspected) -> str:
        unpushed = self.unpushed(found)
        if not unpushed:
            return "it was not committed when the backup was made"
        return "it is of commits that this branch lacks:\n" + _listed(unpushed)

    def _check_conflicts(self, found: Inspected, local: set[str], allowed: bool) -> None:
        free = self._results | {self._params}
        if not allowed:  # and so not restored
            free |= {name for name in found.changes if _is_ignore_list(name)}
        both = sorted(
            name for name, blob in found.changes.items()
            if name not in free and name in found.moved and found.moved[name] != blob
        )  # fmt: skip
        if both:
            raise InputError(
                f"the branch has moved on since the resume state ({found.state.place}) was made, "
                "in the same files:\n" + _listed(both) + self._two_ways(found)
            )
        wanted = {part for name in found.changes for part in _with_parents(name)}
        blocked = sorted(
            name for name in local
            if name not in free and (name in wanted or name.endswith(".dvc"))
            and not self._is_known(name, found.state)
        )  # fmt: skip
        if blocked:
            raise InputError(
                "the work tree has changes of its own, which the resume state would overwrite:\n"
                + _listed(blocked)
                + "\n`git stash --include-untracked` keeps them for later"
            )

    def _two_ways(self, found: Inspected) -> str:
        return (
            f"\n`git switch --create resumed {found.state.commit[:12]}` continues the backed-up "
            "run as it was, `dvc repro` trains what is here"
        )

    def _merged_params(self, found: Inspected) -> str:
        file = self.top / self._params
        backup = self._text(found.state.commit, self._params)
        if backup is None:
            raise InputError(f"the resume state ({found.state.place}) has no {self._params}")
        here = file.read_text(encoding="utf-8") if file.is_file() else backup
        base = self._text(found.base, self._params) or backup
        try:
            return merge_params(base, backup, here)
        except MergeConflictError as error:
            raise InputError(self._other_params(str(error).splitlines(), found)) from error
        except ValueError as error:
            raise InputError(f"{self._params}: {error}") from error

    def _other_params(self, lines: list[str], found: Inspected) -> str:
        return (
            f"params.yaml here and the backup ({found.state.place}) describe two runs:\n"
            + _listed(lines)
            + "\nTo continue the backed-up run, give these keys the backup's values (`git checkout "
            "-- params.yaml` drops what is not committed) and resume again. To train with what is "
            "here, start a new run: `dvc repro`"
        )

    def _check_same_run(self, found: Inspected, params: str, local: set[str]) -> None:
        """Compare what would be trained with what the state's run is made of."""
        backup = self._text(found.state.commit, self._params) or ""
        lines = [
            line for line in changed_keys(backup, params, RESULT_SECTIONS)
            if line.partition(":")[0].removeprefix("train.") not in RAISABLE
        ]  # fmt: skip
        if lines:
            raise InputError(self._other_params(lines, found))
        code = self._other_code(found, local)
        if code and not _accepts_changed_code(params):
            raise InputError(
                "code that decides the result differs from the code that the backed-up run "
                f"({found.state.place}) uses:\n" + _listed(code) + self._two_ways(found)
                + ", and `machine.accept_changed_code: true` continues the run with the code that "
                "is here"
            )  # fmt: skip

    def _other_code(self, found: Inspected, local: set[str]) -> list[str]:
        """Return the dependencies of the run's stages that differ, here and in the state."""
        stages = (found.lock["stages"].get(name) or {} for name in (PREPROCESS, STAGE))
        deps = {dep["path"] for stage in stages for dep in stage.get("deps", ())}
        here = {name for name in found.moved if name not in found.changes} | {
            name for name in local if not self._is_known(name, found.state)
        }
        prefix = self._lock.removesuffix("dvc.lock")
        return sorted(
            name for name in here - self._results - {self._params}
            if any(f"{name}/".startswith(f"{prefix}{dep}/") for dep in deps)
            or name.removesuffix(".dvc") in {f"{prefix}{dep}" for dep in deps}
        )  # fmt: skip

    def _local_changes(self, wanted: Iterable[str]) -> set[str]:
        """Return tracked files that differ from HEAD, and untracked ones that are in the way."""
        tracked = set(self.git.names("ls-files", "-z"))
        untracked = {
            blocking
            for name in wanted if name not in tracked
            for blocking in _with_parents(name)
            if (self.top / blocking).is_file() and blocking not in tracked
        }  # fmt: skip
        changed = self.git.names("diff", "--name-only", "-z", "--no-renames", "HEAD")
        return untracked.union(changed) - {self._config}

    def _is_known(self, name: str, state: State) -> bool:
        """Whether a file is as in this state, or in one that was restored or made here before."""
        file = self.top / name
        here = self.git("hash-object", "--", name) if file.is_file() else None
        known = (state.commit, f"{LOCAL}/{state.metadata.run}")
        return here in [
            self.git.find("rev-parse", "--verify", "--quiet", f"{commit}:{name}")
            for commit in known if self.git.find("rev-parse", "--verify", "--quiet", commit)
        ]  # fmt: skip

    def _is_there(self, name: str, blob: Blob | None) -> bool:
        file = self.top / name
        if blob is None or not file.is_file() or file.is_symlink():
            return blob is None and not file.exists()
        return blob.hash == self.git("hash-object", "--", name)

    def _write(self, name: str, content: Blob | bytes | None) -> None:
        path = self.top / name
        if content is None:
            path.unlink(missing_ok=True)
        elif isinstance(content, bytes):
            write_durably(content, path)
        else:
            text = self.git.bytes("cat-file", "--filters", f"--path={name}", content.hash)
            write_durably(text, path)
            if content.is_executable:
                path.chmod(0o755)


def _with_parents(name: str) -> list[str]:
    """Return a name and those of the folders that it lies in."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _is_ignore_list(name: str) -> bool:
    """Whether it is a .gitignore: DVC adds lines to it, and again wherever they are missing."""
    return name.rpartition("/")[2] == ".gitignore"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    lines = [f"  - {name}" for name in names[:_SHOWN]]
    return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])


def _checked_lock(text: str) -> dict[str, Any]:
    """Read a dvc.lock; only what DVC itself writes there is accepted.

    Raises:
        UnsafeTreeError: it is not valid.
    """
    try:
        content = load_yaml(text)
    except yaml.YAMLError as error:
        raise UnsafeTreeError(f"its dvc.lock is not valid YAML: {error}") from error
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(s, dict) for s in stages.values()):
        raise UnsafeTreeError("its dvc.lock names no stages")
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
    """Whether these are paths inside of the project, with hashes of objects."""
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
    """Read a .dvc file; None unless it only says which data there is, as `dvc add` writes it."""
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


def _accepts_changed_code(params: str) -> bool:
    content = load_yaml(params)
    return bool((content.get("machine") or {}).get("accept_changed_code"))


def _finished(entry: dict[str, Any], unfinished: dict[str, Any]) -> bool:
    """Whether an entry of dvc.lock is the end of the run that another is an earlier state of."""
    outs = {out["path"] for out in entry.get("outs", ()) if "md5" in out}
    if COMPLETE not in outs or not unfinished:
        return False
    (ended, params), (done, other) = _split(entry), _split(unfinished)
    return params == other and entry.get("deps") == unfinished.get("deps") and ended >= done


def _split(entry: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the epochs, and all other parameters."""
    params = entry["params"]["params.yaml"]
    train = {key: value for key, value in params["train"].items() if key != "epochs"}
    return params["train"]["epochs"], params | {"train": train}
