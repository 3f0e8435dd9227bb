"""Snapshot of the tracked files as a commit, without changes to branch, index or work tree."""

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from multi_abnormality.backup.git import Git
from multi_abnormality.backup.snapshot_metadata import LOCAL, SnapshotMetadata, branch_of


class Snapshot:
    """Snapshot of all tracked files at the start of training; each commit adds its results.

    Args:
        git: repository, at the top of the work tree.
        folder: directory for a separate index file.

    Raises:
        GitError: the work tree can't be read.
    """

    def __init__(self, git: Git, folder: Path) -> None:
        self.branch = branch_of(git)
        self.head = git.find("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        self.top = git.folder
        index = folder / "backup.index"
        index.unlink(missing_ok=True)
        index.with_name(f"{index.name}.lock").unlink(missing_ok=True)  # left by a killed Git
        users = self.top / git("rev-parse", "--git-path", "index")
        if users.exists():
            shutil.copy2(users, index)  # keeps its mtime, which Git compares with the files'
        self._git = Git(git.folder, index)
        self._git("add", "--update", ":/")
        if self.head:  # the config may hold addresses: use the committed version
            self._git("reset", "--quiet", "HEAD", "--", ":(top,glob)**/.dvc/config")

    def untracked(self, paths: Iterable[str]) -> list[str]:
        """Return files below paths that are neither tracked nor ignored by Git."""
        return self._git.names("ls-files", "-z", "--others", "--exclude-standard", "--", *paths)

    def commit(self, written: Iterable[Path], metadata: SnapshotMetadata) -> str:
        """Create a commit with a ref below refs/resume/, and return its hash.

        Its time is always later than that of the previous state, even if the clock was set back,
        since states are ordered by it.

        Args:
            written: files to read from the work tree again, tracked or not.
            metadata: content of the commit message.
        """
        names = [path.relative_to(self.top).as_posix() for path in written]
        self._git("update-index", "--add", "--remove", "--", *names)
        parent = ("-p", self.head) if self.head else ()
        tree = self._git("write-tree")
        ref = f"{LOCAL}/{metadata.run}"
        before = self._git.find("log", "-1", "--format=%ct", ref)
        dated = self._git.with_date(max(int(time.time()), int(before or 0) + 1))
        commit = dated("commit-tree", tree, *parent, "-F", "-", stdin=metadata.message())
        self._git("update-ref", ref, commit)
        return commit
