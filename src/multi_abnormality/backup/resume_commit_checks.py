"""Checks of what a resume commit would write into a work tree.

Others may have write access to the remote that a resume commit comes from. A file of the commit is
written only if its name, type and size are safe, and dvc.lock and .dvc files only with contents
that DVC itself writes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError, model_validator
from ruamel.yaml.error import YAMLError

from multi_abnormality.backup.dvc_recorder import STAGE
from multi_abnormality.backup.git import Git
from multi_abnormality.backup.resume_commit import ObjectHash
from multi_abnormality.config.field_types import Section
from multi_abnormality.config.yaml_reader import load_yaml

MAX_FILE_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 20
MAX_NAMES = 16 << 20  # bytes of all names, which nested equal folders can multiply
EXECUTABLE = "100755"
_FILE_MODES = {"100644", EXECUTABLE}
_OTHER_MODES = {"120000": "a symbolic link", "160000": "a Git submodule"}
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\:\ud800-\udfff]")
# Characters that some file systems ignore in names, so that `.g\u200cit` would be `.git`.
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_GIT_SHORT_NAME = re.compile(r"git~\d+")  # of `.git` on NTFS
_POINTER_KEYS = {"outs", "desc", "meta"}


class UnsafeTreeError(ValueError):
    """A commit contains an entry that must never be written; the message names it."""


@dataclass(frozen=True)
class Blob:
    """Content of a file in a commit."""

    mode: str
    hash: str


Changes = Mapping[str, Blob | None]  # by path from the top; None: deleted


def read_tree(git: Git, commit: str) -> dict[str, Blob]:
    """Return the files of a commit, by path from the top."""
    listing = ("ls-tree", "-r", "-z")
    git.check_length(*listing, "--name-only", commit, limit=MAX_NAMES)
    found: dict[str, Blob] = {}
    for entry in git.names(*listing, commit):
        fields, _, name = entry.partition("\t")
        mode, _, hash_ = fields.split()
        if name in found:
            raise UnsafeTreeError(f"{name!r} occurs twice")
        found[name] = Blob(mode, hash_)
    return found


def changes_between(old: Mapping[str, Blob], new: Mapping[str, Blob]) -> dict[str, Blob | None]:
    """Return the files that differ between two trees, as they are in `new`."""
    return {name: new.get(name) for name in {**old, **new} if old.get(name) != new.get(name)}


def check_changes(git: Git, changes: Changes) -> None:
    """Check that changes are regular files of sensible size inside of the work tree."""
    for name, blob in changes.items():
        _check_name(name)
        if blob is not None and blob.mode not in _FILE_MODES:
            kind = _OTHER_MODES.get(blob.mode, f"an entry of mode {blob.mode}")
            raise UnsafeTreeError(f"{name!r} is {kind}; only regular files are restored")
    written = {name: blob.hash for name, blob in changes.items() if blob is not None}
    children = {parent: name for name in written for parent in parents_of(name)}
    for parent, child in children.items():
        if parent in written:
            raise UnsafeTreeError(f"{parent!r} is both a file and a folder")
        if (git.folder / parent).is_symlink():
            raise UnsafeTreeError(
                f"{child!r} lies behind {parent!r}, which is a link in this work tree"
            )
    _check_sizes(git, written)


def _check_name(name: str) -> None:
    if _FORBIDDEN.search(name):
        raise UnsafeTreeError(f"{name!a} contains a character that is not allowed")
    for part in name.split("/"):
        plain = _IGNORED.sub("", part).casefold().rstrip(". ")
        if plain in ("", ".git") or _GIT_SHORT_NAME.fullmatch(plain):
            raise UnsafeTreeError(f"{name!r} is not an allowed file name")


def parents_of(name: str) -> list[str]:
    """Return all parent folders of a path."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _check_sizes(git: Git, hashes: Mapping[str, str]) -> None:
    lines = git("cat-file", "--batch-check", stdin="\n".join(hashes.values())).splitlines()
    total = 0
    for name, line in zip(hashes, lines, strict=True):
        fields = line.split()
        if len(fields) != 3 or fields[1] != "blob":
            raise UnsafeTreeError(f"the content of {name!r} is missing")
        size = int(fields[2])
        total += size
        if size > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
            raise UnsafeTreeError(
                f"{name!r} has {size:,} bytes; the limits are {MAX_FILE_BYTES:,} a file and "
                f"{MAX_TOTAL_BYTES:,} in all"
            )


def ignored_names(git: Git, changes: Changes) -> list[str]:
    """Return the names that this clone's .gitignore excludes, such as .venv/ and checkpoints/."""
    names = "\0".join(name for name, blob in changes.items() if blob is not None)
    found = git.find("check-ignore", "-z", "--stdin", stdin=names)  # fails if there are none
    return [name for name in (found or "").split("\0") if name]


def _check_relative(path: str) -> str:
    parts = re.split(r"[/\\]", path)
    if path.startswith("~") or ":" in path or {"..", ""} & set(parts):
        raise ValueError("is not a path inside the project")
    return path


class _Entry(Section):
    """Entry of a dvc.lock or .dvc file.

    DVC also accepts `files`, a list that nothing verifies, and reads entries without `hash: md5`
    from another folder of the remote.
    """

    path: Annotated[str, AfterValidator(_check_relative)]
    md5: ObjectHash = ""
    hash: Literal["md5", ""] = ""
    size: int = 0
    nfiles: int = 0
    isexec: bool = False

    @model_validator(mode="after")
    def check_hash(self) -> "_Entry":
        if self.md5 and not self.hash:
            raise ValueError("has no `hash: md5`")
        return self


class _Stage(BaseModel):
    deps: list[_Entry] = []
    outs: list[_Entry] = []


_STAGES = TypeAdapter(dict[str, _Stage])
_ENTRIES = TypeAdapter(list[_Entry])


def read_lock(text: str) -> dict[str, Any]:
    """Parse a dvc.lock and return its stages."""
    try:
        content = load_yaml(text)
    except YAMLError as error:
        raise UnsafeTreeError(f"its dvc.lock is not valid YAML: {error}") from error
    stages: dict[str, Any] | None = content.get("stages") if isinstance(content, dict) else None
    try:
        _STAGES.validate_python(stages)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "stages"
        raise UnsafeTreeError(f"its dvc.lock: {key}: {first['msg']}") from error
    assert stages is not None  # validated
    try:
        epochs = stages[STAGE]["params"]["params.yaml"]["train"]["epochs"]
    except (KeyError, TypeError):
        epochs = None
    if not isinstance(epochs, int):
        raise UnsafeTreeError(f"its dvc.lock: the stage {STAGE!r} has no train.epochs")
    return stages


def read_pointer(text: str | None) -> list[dict[str, Any]] | None:
    """Return the entries of a .dvc file; None unless it only points to data, as by `dvc add`."""
    try:
        content = load_yaml(text or "")
        if not isinstance(content, dict) or not content.keys() <= _POINTER_KEYS:
            return None
        _ENTRIES.validate_python(content.get("outs"))
    except (YAMLError, ValidationError):
        return None
    return content["outs"] or None
