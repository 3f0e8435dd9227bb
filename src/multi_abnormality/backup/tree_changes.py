"""Files that a commit changes, and which of them may be written into a work tree.

Others may have write access to the remote that a resume commit comes from. A file of the commit is
written only if its name, type and size pass `check_changes`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from multi_abnormality.backup.git import Git

MAX_FILE_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 20
MAX_NAMES = 16 << 20  # bytes of all changed names, which nested equal folders can multiply
_FILE_MODES = {"100644", "100755"}
_OTHER_MODES = {"120000": "a symbolic link", "160000": "a Git submodule"}
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\:\ud800-\udfff]")
# Characters that some file systems ignore in names, so that `.g\u200cit` would be `.git`.
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_GIT_SHORT_NAME = re.compile(r"git~\d+")  # of `.git` on NTFS


class UnsafeTreeError(ValueError):
    """A commit contains an entry that must never be written; the message names it."""


@dataclass(frozen=True)
class Blob:
    """Content of a file in a commit."""

    mode: str
    hash: str

    @property
    def is_executable(self) -> bool:
        return self.mode == "100755"


Changes = Mapping[str, Blob | None]  # by path from the top; None: deleted


def changes_between(git: Git, old: str, new: str) -> dict[str, Blob | None]:
    """Return the files that differ between two commits or trees, as they are in `new`."""
    # diff-tree prints nothing until it has compared whole trees, so check the size by ls-tree.
    git.check_length("ls-tree", "-r", "-z", "--name-only", new, limit=MAX_NAMES)
    fields = git.names("diff-tree", "-r", "-z", "--no-renames", old, new)
    found: dict[str, Blob | None] = {}
    for raw, name in zip(fields[::2], fields[1::2], strict=True):
        _, mode, _, hash_, status = raw.lstrip(":").split()
        if name in found and status != "D" and found[name] is not None:
            raise UnsafeTreeError(f"{name!r} occurs twice")
        found[name] = None if status == "D" else Blob(mode, hash_)
    return found


def check_changes(git: Git, changes: Changes) -> None:
    """Check that changes are regular files of sensible size inside of the work tree.

    Raises:
        UnsafeTreeError: one is not; the message names the first.
    """
    for name, blob in changes.items():
        _check_name(name)
        if blob is not None and blob.mode not in _FILE_MODES:
            kind = _OTHER_MODES.get(blob.mode, f"an entry of mode {blob.mode}")
            raise UnsafeTreeError(f"{name!r} is {kind}; only regular files are restored")
    written = [name for name, blob in changes.items() if blob is not None]
    _check_parents(git, written)
    _check_sizes(git, {name: blob.hash for name, blob in changes.items() if blob is not None})


def _check_name(name: str) -> None:
    if _FORBIDDEN.search(name):
        raise UnsafeTreeError(f"{name!a} contains a character that is not allowed")
    for part in name.split("/"):
        plain = _IGNORED.sub("", part).casefold().rstrip(". ")
        if plain in ("", ".git") or _GIT_SHORT_NAME.fullmatch(plain):
            raise UnsafeTreeError(f"{name!r} is not an allowed file name")


def _check_parents(git: Git, names: list[str]) -> None:
    """Check that no path is both file and folder, or lies behind a link in the work tree."""
    known, seen = set(names), set()
    for name in names:
        parts = name.split("/")
        for count in range(1, len(parts)):
            parent = "/".join(parts[:count])
            if parent in known:
                raise UnsafeTreeError(f"{parent!r} is both a file and a folder")
            if parent not in seen and (git.folder / parent).is_symlink():
                raise UnsafeTreeError(
                    f"{name!r} lies behind {parent!r}, which is a link in this work tree"
                )
            seen.add(parent)


def ignored_names(git: Git, changes: Changes) -> list[str]:
    """Return the names that this clone's .gitignore excludes, such as .venv/ and checkpoints/."""
    names = [name for name, blob in changes.items() if blob is not None]
    if not names:
        return []
    return git.matches("check-ignore", "-z", "--stdin", stdin="\0".join(names))


def _check_sizes(git: Git, hashes: Mapping[str, str]) -> None:
    if not hashes:
        return
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
