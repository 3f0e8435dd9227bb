"""DVC objects referenced by commits, experiments and files of the work tree."""

import re
from typing import TYPE_CHECKING

from multi_abnormality.backup.git import Git

if TYPE_CHECKING:
    from multi_abnormality.backup.dvc_remote import Remote

_HASH = re.compile(rb"\b[0-9a-f]{32}(?:\.dir)?(?![0-9a-z.])")
_FILES = (":(glob)**/dvc.lock", ":(glob)**/*.dvc")


def referenced_objects(git: Git, remote: "Remote") -> set[str]:
    """Return the hashes in every dvc.lock and *.dvc file of the work tree and of all commits
    reachable from a ref, stashes and experiments included. Folders are expanded to their files.

    Args:
        git: repository, at the top of the work tree.
        remote: DVC remote to read folder lists from that are not in the cache.

    Raises:
        GitError: a Git command failed.
        Exception: the file system's own, if the remote can't be read.
    """
    blobs = _blobs(git)
    text = git.bytes("cat-file", "--batch", stdin="\n".join(sorted(blobs)).encode())
    listed = git.names("ls-files", "-z", "--cached", "--others", "--exclude-standard", *_FILES)
    files = [git.folder / name for name in listed]
    text += b"\n".join(file.read_bytes() for file in files if file.is_file())
    names = {found.decode() for found in _HASH.findall(text)}
    folders = {name for name in names if name.endswith(".dir")}
    return names.union(*(_files_of(folder, remote) for folder in folders))


def _blobs(git: Git) -> set[str]:
    """Return the blobs of all versions of the files. Older stash entries are only in the reflog."""
    stashes = git("for-each-ref", "--format=%(refname)", "refs/stash", "refs/exps").split()
    entries = [git("log", "--walk-reflogs", "--format=%H", name, "--") for name in stashes]
    commits = sorted({commit for entry in entries for commit in entry.split()})
    lines = git("rev-list", "--objects", "--all", *commits, "--", *_FILES).splitlines()
    pairs = (line.split(" ", 1) for line in lines if " " in line)
    return {hash_ for hash_, path in pairs if path.endswith(("dvc.lock", ".dvc"))}


def _files_of(folder: str, remote: "Remote") -> list[str]:
    """Return the hashes of a folder's files, or none if its list is lost."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    for odb in (remote.cache, remote.odb):
        if odb.exists(folder):
            return [info.value for _, _, info in Tree.load(odb, HashInfo("md5", folder))]
    return []
