"""The work tree's tracked files as a commit that no branch, index or file notices."""

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from multi_abnormality.backup.git import Git
from multi_abnormality.backup.snapshot_metadata import LOCAL, SnapshotMetadata, branch_of


class Snapshot:
    """Every tracked file as it is when training starts; what it writes is added at each commit.

    Args:
        git: at the top of the work tree.
        folder: takes in an index of its own.

    Raises:
        GitError: the work tree can't be read.
    """

    def __init__(self, git: Git, folder: Path) -> None:
        self.branch = branch_of(git)
        self.head = git.find("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        self.top = git.folder
        index = folder / "backup.index"
        index.unlink(missing_ok=True)
        index.with_name(f"{index.name}.lock").unlink(missing_ok=True)  # of a git that was killed
        users = self.top / git("rev-parse", "--git-path", "index")
        if users.exists():
            shutil.copy2(users, index)  # its time tells Git which files may have changed since
        self._git = Git(git.folder, index)
        self._git("add", "--update", ":/")
        if self.head:  # DVC's configuration has addresses: as committed, not as it is here
            self._git("reset", "--quiet", "HEAD", "--", ":(top,glob)**/.dvc/config")

    def untracked(self, paths: Iterable[str]) -> list[str]:
        """Files below paths that neither Git nor its ignore lists know."""
        return self._git.names("ls-files", "-z", "--others", "--exclude-standard", "--", *paths)

    def commit(self, written: Iterable[Path], metadata: SnapshotMetadata) -> str:
        """Commit, and note it under refs/resume/; its hash.

        Its time is after that of the state before it, also where the clock has jumped back: the
        newest is found by it.

        Args:
            written: files to take as they are now, tracked or not.
            metadata: the commit's message.
        """
        names = [path.relative_to(self.top).as_posix() for path in written]
        self._git("update-index", "--add", "--remove", "--", *names)
        parent = ("-p", self.head) if self.head else ()
        tree = self._git("write-tree")
        ref = f"{LOCAL}/{metadata.run}"
        before = self._git.find("log", "-1", "--format=%ct", ref)
        dated = self._git.at(max(int(time.time()), int(before or 0) + 1))
        commit = dated("commit-tree", tree, *parent, "-F", "-", given=metadata.message())
        self._git("update-ref", ref, commit)
        return commit
