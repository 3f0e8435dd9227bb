"""Resume commit: all tracked files at the start of training, with its results so far.

The commit's message contains the run that it belongs to and the DVC objects that it needs.
"""

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from multi_abnormality.backup.git import Git, branch_of
from multi_abnormality.config.field_types import Section
from multi_abnormality.utils.errors import plural

LOCAL = "refs/resume"  # this machine's newest state of each run
PUBLISHED = "refs/heads/resume"  # on a Git remote
FORMAT = 2  # version of the metadata; newer ones are rejected
MAX_BYTES = 4 << 20  # of a commit message
_TITLE = "Resume state"
_RUN = r"^.+/[0-9a-f]{12,16}$"

ObjectHash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]  # MD5, as DVC names objects
Hashes = Annotated[tuple[ObjectHash, ...], Field(max_length=1_000_000)]
Epochs = Annotated[int, Field(ge=0, le=10_000_000)]


class Generation(Section):
    """DVC objects of one backup."""

    epochs: Epochs  # completed epochs
    objects: Hashes  # hashes of all objects of the stage's persistent outputs
    own: Hashes = ()  # hashes of the objects that this run added to the cache
    uploaded: Hashes = ()  # hashes of the objects in `own` that were uploaded, or were about to be
    # Digest of the remote's address (`Remote.id`); "" in a resume commit.
    remote: Annotated[str, Field(pattern=r"^[0-9a-f]*$")] = ""
    sent: bool = False  # whether everything arrived on the remote, including the resume commit


class ResumeMetadata(Section):
    """Message of a resume commit, after its title."""

    format: int = FORMAT  # version of this layout
    run: Annotated[str, Field(pattern=_RUN, max_length=300)]  # <branch>/<fingerprint>
    epochs: Epochs  # completed epochs
    # Backups on the remote, oldest first; the last one is this commit's.
    generations: Annotated[tuple[Generation, ...], Field(min_length=1, max_length=1000)]
    # What the run's fingerprint is made of, or {} if unknown.
    identity: dict[str, Any] = Field(default_factory=dict)

    @field_validator("format")
    @classmethod
    def check_format(cls, version: int) -> int:
        if version > FORMAT:
            raise ValueError(
                f"written by a newer version of this project (known: {FORMAT}); update this "
                "clone with `git pull`"
            )
        return version

    @field_validator("identity")
    @classmethod
    def check_identity(cls, identity: dict[str, Any]) -> dict[str, Any]:
        """Reject an identity without the keys that a resume compares."""
        types = {"findings": list, "processed": str, "code": dict}
        if identity and not all(isinstance(identity.get(key), types[key]) for key in types):
            raise ValueError("must have findings, processed and code")
        return identity

    @property
    def branch(self) -> str:
        return self.run.rpartition("/")[0]

    @property
    def fingerprint(self) -> str:
        return self.run.rpartition("/")[2]

    def message(self) -> str:
        """Return the commit message."""
        title = f"{_TITLE} of {self.run}: {plural(self.epochs, 'epoch', 'epochs')} done"
        return f"{title}\n\n{self.model_dump_json()}\n"

    @classmethod
    def read(cls, git: Git, commit: str) -> "ResumeMetadata":
        """Read and check the message of a commit."""
        if int(git("cat-file", "-s", commit)) > MAX_BYTES:
            raise ValueError(f"the message of commit {commit} is longer than {MAX_BYTES:,} bytes")
        title, _, body = git("log", "-1", "--format=%B", commit).partition("\n\n")
        if not title.startswith(_TITLE):
            raise ValueError(f"{commit} is not a resume commit")
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"])) or "metadata"
            raise ValueError(f"the metadata of commit {commit}: {key}: {first['msg']}") from error


class ResumeCommits:
    """Creates resume commits: all tracked files at the start of training, and the results so far.

    The user's branch, index and work tree do not change.

    Args:
        folder: directory for a separate index file.

    Raises:
        GitError: the work tree can't be read.
    """

    def __init__(self, git: Git, folder: Path) -> None:
        self.branch = branch_of(git)
        self.head = git.find("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        self.top = git.folder
        index = folder / "backup.index"
        for left in (index, index.with_name(f"{index.name}.lock")):  # by a killed Git
            left.unlink(missing_ok=True)
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

    def commit(self, written: Iterable[Path], metadata: ResumeMetadata) -> str:
        """Create a commit with a ref below refs/resume/, and return its hash.

        Its time is always later than that of the previous state, even if the clock was set back,
        since states are ordered by it.

        Args:
            written: files to read from the work tree again, tracked or not.
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
