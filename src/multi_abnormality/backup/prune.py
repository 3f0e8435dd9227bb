"""Removal of superseded backups."""

from multi_abnormality.backup.dvc_remote import Remote
from multi_abnormality.backup.git import Git
from multi_abnormality.backup.publish import drop_bundles, fetch_refs
from multi_abnormality.backup.references import referenced_objects
from multi_abnormality.backup.upload_log import UploadLog


def prune(
    remote: Remote, git: Git | None, upload_log: UploadLog, run: str, keep: int,
    git_remote: str | None,
) -> int:  # fmt: skip
    """Delete the objects of all but a run's newest generations, in the cache and on the remote.

    Deletes only objects that this run added or uploaded and that no commit or experiment
    references.

    Args:
        remote: DVC remote with the objects.
        git: repository of the project, if any.
        upload_log: upload log with the run's generations.
        run: <branch>/<fingerprint>.
        keep: number of generations to keep.
        git_remote: name of the Git remote for resume commits, if any.

    Returns:
        Number of objects deleted from the remote.
    """
    generations = upload_log.generations(run)
    kept = [item for item in generations if item.sent][-keep:]
    old = [item for item in generations if item not in kept]
    if git is None or not old or _is_on_another_branch(remote, run):
        return 0
    drop_bundles(remote, run, keep)
    if git_remote:
        fetch_refs(git, git_remote, "*")
    needed = referenced_objects(git, remote).union(*(item.objects for item in kept))
    on_other_remotes = [item for item in old if item.uploaded and item.remote != remote.id]
    on_this_remote = [item for item in old if item not in on_other_remotes]
    superseded = {hash_ for item in on_this_remote for hash_ in item.uploaded} - needed
    superseded -= remote.missing_objects(superseded)
    _delete(remote, superseded)
    for hash_ in {hash_ for item in old for hash_ in item.own} - needed:
        if remote.cache.exists(hash_):
            remote.cache.delete(hash_)
    upload_log.set_generations(run, [*on_other_remotes, *kept])
    return len(superseded)


def _delete(remote: Remote, hashes: set[str]) -> None:
    """Clear DVC's index before and after, so that a concurrent push trusts no stale entries."""
    if hashes:
        remote.clear_index()
        remote.delete(hashes)
        remote.clear_index()


def _is_on_another_branch(remote: Remote, run: str) -> bool:
    """Whether the same run has bundles under another branch, which may share its objects."""
    fingerprint = run.rpartition("/")[2]
    runs = {name.rpartition("/")[0] for name in remote.bundles()}
    return any(other != run and other.endswith(f"/{fingerprint}") for other in runs)
