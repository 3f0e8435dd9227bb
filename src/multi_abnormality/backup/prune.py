"""Superseded backups go, and nothing else does."""

from multi_abnormality.backup.git import Git
from multi_abnormality.backup.ledger import Ledger
from multi_abnormality.backup.named import named_objects
from multi_abnormality.backup.publish import drop_bundles, fetch_refs
from multi_abnormality.backup.remote import Remote


def prune(
    remote: Remote, git: Git | None, ledger: Ledger, run: str, keep: int, git_remote: str | None
) -> int:  # fmt: skip
    """Take away the objects of all but a run's newest generations, here and on the remote.

    Only what this run itself made or sent, and what no commit and no experiment names, goes.

    Args:
        remote: of DVC.
        git: of the repository, where there is one.
        ledger: knows the run's generations.
        run: <branch>/<fingerprint>.
        keep: generations.
        git_remote: name of the Git remote that has resume commits.

    Returns:
        How many objects left the remote.
    """
    generations = ledger.generations(run)
    kept = [item for item in generations if item.sent][-keep:]
    old = [item for item in generations if item not in kept]
    if git is None or not old or _has_a_twin(remote, run):
        return 0
    drop_bundles(remote, run, keep)
    if git_remote:
        fetch_refs(git, git_remote, "*")
    needed = named_objects(git, remote).union(*(item.objects for item in kept))
    elsewhere = [item for item in old if item.uploaded and item.remote != remote.id]
    there = {hash_ for item in old if item not in elsewhere for hash_ in item.uploaded} - needed
    there -= remote.lacks(there)
    _delete(remote, there)
    for hash_ in {hash_ for item in old for hash_ in item.own} - needed:
        if remote.cache.exists(hash_):
            remote.cache.delete(hash_)
    ledger.set_generations(run, [*elsewhere, *kept])
    return len(there)


def _delete(remote: Remote, hashes: set[str]) -> None:
    """Before and after, so that no push in between takes DVC's note of what is there for true."""
    if hashes:
        remote.forget_what_is_there()
        remote.delete(hashes)
        remote.forget_what_is_there()


def _has_a_twin(remote: Remote, run: str) -> bool:
    """Whether the same training left bundles under another branch: its objects may be the same."""
    fingerprint = run.rpartition("/")[2]
    runs = {name.rpartition("/")[0] for name in remote.bundles()}
    return any(other != run and other.endswith(f"/{fingerprint}") for other in runs)
