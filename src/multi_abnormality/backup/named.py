"""Which objects a commit, an experiment or a file of the work tree names."""

import re
from typing import TYPE_CHECKING

from multi_abnormality.backup.git import Git

if TYPE_CHECKING:
    from multi_abnormality.backup.remote import Remote

_HASH = re.compile(rb"\b[0-9a-f]{32}(?:\.dir)?(?![0-9a-z.])")
_FILES = (":(glob)**/dvc.lock", ":(glob)**/*.dvc")


def named_objects(git: Git, remote: "Remote") -> set[str]:
    """Hashes in every dvc.lock and *.dvc of all commits that a ref reaches, stashes and the index
    of experiments included, and of the work tree; with the files of the folders among them.

    Args:
        git: at the top of the work tree.
        remote: whose objects are asked about.

    Raises:
        GitError: Git can't be asked. OSError and others: the remote can't.
    """
    blobs = _blobs(git)
    text = git.bytes("cat-file", "--batch", given="\n".join(sorted(blobs)).encode())
    listed = git.names("ls-files", "-z", "--cached", "--others", "--exclude-standard", *_FILES)
    files = [git.folder / name for name in listed]
    text += b"\n".join(file.read_bytes() for file in files if file.is_file())
    names = {found.decode() for found in _HASH.findall(text)}
    folders = {name for name in names if name.endswith(".dir")}
    return names.union(*(_files_of(folder, remote) for folder in folders))


def _blobs(git: Git) -> set[str]:
    """Hashes of every version of the files. A stash's older entries are in its reflog alone."""
    stashes = git("for-each-ref", "--format=%(refname)", "refs/stash", "refs/exps").split()
    entries = [git("log", "--walk-reflogs", "--format=%H", name, "--") for name in stashes]
    commits = sorted({commit for entry in entries for commit in entry.split()})
    lines = git("rev-list", "--objects", "--all", *commits, "--", *_FILES).splitlines()
    pairs = (line.split(" ", 1) for line in lines if " " in line)
    return {hash_ for hash_, path in pairs if path.endswith(("dvc.lock", ".dvc"))}


def _files_of(folder: str, remote: "Remote") -> list[str]:
    """Hashes of a folder's files. A folder that is nowhere keeps nothing: nobody can restore it."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    for odb in (remote.cache, remote.odb):
        if odb.exists(folder):
            return [info.value for _, _, info in Tree.load(odb, HashInfo("md5", folder))]
    return []
