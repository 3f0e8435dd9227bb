"""Removal of superseded backups: only of objects that nothing else refers to."""

import re

from multi_abnormality.backup.dvc_remote import Remote
from multi_abnormality.backup.git import Git
from multi_abnormality.backup.resume_states import fetch_refs
from multi_abnormality.backup.upload_log import UploadLog

_HASH = re.compile(rb"\b[0-9a-f]{32}(?:\.dir)?(?![0-9a-z.])")
_FILES = (":(glob)**/dvc.lock", ":(glob)**/*.dvc")


def prune(
    remote: Remote, git: Git | None, upload_log: UploadLog, run: str, keep: int,
    git_remote: str | None,
) -> int:  # fmt: skip
    """Delete the objects of all but a run's newest generations, in the cache and on the remote.

    Deletes only objects that this run added or uploaded and that no commit or experiment
    references.

    Returns:
        Number of objects deleted from the remote.
    """
    generations = upload_log.generations(run)
    kept = [item for item in generations if item.sent][-keep:]
    old = [item for item in generations if item not in kept]
    if git is None or not old:
        return 0
    bundles = remote.bundles()
    if _is_on_another_branch(bundles, run):
        return 0
    for name in [name for name in bundles if name.rpartition("/")[0] == run][:-keep]:
        remote.delete_bundle(name)
    if git_remote:
        fetch_refs(git, git_remote, "*")
    needed = _referenced_objects(git, remote).union(*(item.objects for item in kept))
    on_other_remotes = [item for item in old if item.uploaded and item.remote != remote.id]
    on_this_remote = [item for item in old if item not in on_other_remotes]
    superseded = {hash_ for item in on_this_remote for hash_ in item.uploaded} - needed
    superseded -= remote.missing_objects(superseded)
    remote.delete(superseded)
    for hash_ in {hash_ for item in old for hash_ in item.own} - needed:
        if remote.cache.exists(hash_):
            remote.cache.delete(hash_)
    upload_log.set_generations(run, [*on_other_remotes, *kept])
    return len(superseded)


def _is_on_another_branch(bundles: list[str], run: str) -> bool:
    """Whether the same run has bundles under another branch, which may share its objects."""
    fingerprint = run.rpartition("/")[2]
    runs = {name.rpartition("/")[0] for name in bundles}
    return any(other != run and other.endswith(f"/{fingerprint}") for other in runs)


def _referenced_objects(git: Git, remote: Remote) -> set[str]:
    """Return the hashes in every dvc.lock and *.dvc file of the work tree and of all commits
    reachable from a ref, stashes and experiments included. Folders are expanded to their files.
    """
    text = git.bytes("cat-file", "--batch", stdin="\n".join(sorted(_blobs(git))).encode())
    listed = git.names("ls-files", "-z", "--cached", "--others", "--exclude-standard", *_FILES)
    files = [git.folder / name for name in listed]
    text += b"\n".join(file.read_bytes() for file in files if file.is_file())
    names = {found.decode() for found in _HASH.findall(text)}
    folders = {name for name in names if name.endswith(".dir")}
    return names.union(*map(remote.files_of, folders))


def _blobs(git: Git) -> set[str]:
    """Return the blobs of all versions of the files. Older stash entries are only in the reflog."""
    stashes = git("for-each-ref", "--format=%(refname)", "refs/stash", "refs/exps").split()
    entries = [git("log", "--walk-reflogs", "--format=%H", name, "--") for name in stashes]
    commits = sorted({commit for entry in entries for commit in entry.split()})
    lines = git("rev-list", "--objects", "--all", *commits, "--", *_FILES).splitlines()
    pairs = (line.split(" ", 1) for line in lines if " " in line)
    return {hash_ for hash_, path in pairs if path.endswith(("dvc.lock", ".dvc"))}
