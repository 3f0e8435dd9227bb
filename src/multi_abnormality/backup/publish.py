"""Publishing of resume commits: on a Git remote, or as bundles on the DVC remote."""

import re
import tempfile
from contextlib import suppress
from pathlib import Path

from multi_abnormality.backup.dvc_remote import BUNDLE_SUFFIX, Remote
from multi_abnormality.backup.git import Git, GitError
from multi_abnormality.backup.snapshot_metadata import LOCAL, PUBLISHED

_TEMPORARY_REF = "refs/resume-bundle"  # of a bundle that is being fetched
_BUNDLE_HEAD = re.compile(r"([0-9a-f]{40}) (refs/resume/[^\s]+)")
MAX_BUNDLE_BYTES = 128 << 20
UNBUNDLE_TIMEOUT = 300.0  # s


def push_ref(git: Git, remote: str, commit: str, run: str, dry_run: bool = False) -> None:
    """Push a resume commit to a Git remote.

    Args:
        git: repository with the commit.
        remote: name of the Git remote.
        commit: hash of the commit.
        run: <branch>/<fingerprint>.
        dry_run: check write access without pushing.

    Raises:
        GitError: the push failed.
    """
    options = ["--dry-run"] if dry_run else []
    git.non_interactive()(
        "push", "--quiet", "--force", "--no-verify", "--no-signed", "--recurse-submodules=no",
        *options, remote, f"{commit}:{PUBLISHED}/{run}",
    )  # fmt: skip


def fetch_refs(git: Git, remote: str, pattern: str) -> list[str]:
    """Fetch resume commits from a Git remote and return their hashes.

    Args:
        git: repository to fetch into.
        remote: name of the Git remote.
        pattern: glob of run names, such as "main/*".
    """
    refs = f"{PUBLISHED}/{pattern}"
    lines = git.non_interactive()("ls-remote", "--refs", remote, refs).splitlines()
    found = {name: commit for commit, name in (line.split("\t") for line in lines)}
    if found:
        specs = [f"+{name}:refs/remotes/{remote}/{name.removeprefix('refs/heads/')}"
                 for name in found]  # fmt: skip
        git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, *specs)
    return [commit for name, commit in found.items() if name.count("/") == refs.count("/")]


def put_bundle(git: Git, remote: Remote, commit: str, run: str) -> str:
    """Upload a commit to the DVC remote and return the bundle's name; the newest sorts last.

    The bundle contains only what the published branches do not.
    """
    time = git("log", "-1", "--format=%ct", commit)
    name = f"{run}/{int(time):012d}-{commit[:12]}{BUNDLE_SUFFIX}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bundle"
        published = ("--not", "--exclude=*/resume/*", "--remotes")
        git("bundle", "create", "--quiet", str(file), f"{LOCAL}/{run}", *published)
        remote.put_bundle(file, name)
    return name


def fetch_bundle(git: Git, remote: Remote, name: str) -> str:
    """Fetch a bundle's commit into this repository, without a ref, and return its hash.

    Raises:
        GitError: the bundle is damaged, too large, or builds on commits that are missing here.
    """
    if (size := remote.bundle_size(name)) > MAX_BUNDLE_BYTES:
        raise GitError(f"it has {size:,} bytes, the limit is {MAX_BUNDLE_BYTES:,}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bundle"
        remote.get_bundle(name, file)
        unbundler = Git(git.folder, timeout=UNBUNDLE_TIMEOUT)
        heads = git("bundle", "list-heads", str(file)).splitlines()
        found = _BUNDLE_HEAD.fullmatch(heads[0]) if len(heads) == 1 else None
        if found is None:
            raise GitError("it is not a bundle of this project: it must contain one resume commit")
        commit, ref = found.groups()
        try:
            _unbundle(unbundler, file, ref)
        except GitError as error:
            if "prerequisite" not in str(error):
                raise
            _fetch_history(git)
            try:
                _unbundle(unbundler, file, ref)
            except GitError as error:
                raise GitError(f"{error}; {_missing_history(git)}") from error
    return commit


def _unbundle(git: Git, file: Path, ref: str) -> None:
    options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    git("fetch", *options, str(file), f"+{ref}:{_TEMPORARY_REF}")
    git("update-ref", "-d", _TEMPORARY_REF)


def _fetch_history(git: Git) -> None:
    """Fetch from all Git remotes: this clone may be older than the backup."""
    if git.find("rev-parse", "--is-shallow-repository") == "true":
        return
    with suppress(GitError):  # the bundle's own error is more specific
        git.non_interactive()("fetch", "--quiet", "--all", "--no-recurse-submodules")


def _missing_history(git: Git) -> str:
    """Hint for a bundle that builds on commits that are missing here."""
    if git.find("rev-parse", "--is-shallow-repository") == "true":
        return "this clone is shallow: `git fetch --unshallow` fetches the missing commits"
    return (
        "no Git remote of this clone has these commits: the branch's history was rewritten since "
        "the backup, or it belongs to another project. Push them from a clone that has them, or "
        "start a new run with `dvc repro`"
    )


def drop_bundles(remote: Remote, run: str, keep: int) -> None:
    """Delete all but a run's `keep` newest bundles."""
    branch = run.rpartition("/")[0]
    names = [name for name in remote.bundles(branch) if name.startswith(f"{run}/")]
    for name in names[:-keep]:
        remote.delete_bundle(name)
