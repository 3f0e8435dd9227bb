"""Metadata of a resume commit: the run it belongs to and the DVC objects that it needs."""

import json
import re
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from multi_abnormality.backup.git import Git
from multi_abnormality.config.field_types import Section

LOCAL = "refs/resume"  # this machine's newest state of each run
PUBLISHED = "refs/heads/resume"  # on a Git remote
FORMAT = 2  # version of the metadata; newer ones are rejected
MAX_BYTES = 4 << 20  # of a commit message
_TITLE = "Resume state"
_RUN = re.compile(r"(?P<branch>.+)/(?P<fingerprint>[0-9a-f]{12,16})")

ObjectHash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]  # MD5, as DVC names objects
Hashes = Annotated[tuple[ObjectHash, ...], Field(max_length=1_000_000)]
Epochs = Annotated[int, Field(ge=0, le=10_000_000)]


class Generation(Section):
    """DVC objects of one backup.

    Attributes:
        epochs: completed epochs.
        objects: hashes of all objects of the stage's persistent outputs.
        own: hashes of the objects that this run added to the cache.
        uploaded: hashes of the objects in `own` that were uploaded, or were about to be.
        remote: digest of the remote's address (`Remote.id`); "" in a resume commit.
        sent: whether everything arrived on the remote, including the resume commit.
    """

    epochs: Epochs
    objects: Hashes
    own: Hashes = ()
    uploaded: Hashes = ()
    remote: Annotated[str, Field(pattern=r"^[0-9a-f]*$")] = ""
    sent: bool = False


class SnapshotMetadata(Section):
    """Message of a resume commit, after its title.

    Attributes:
        run: <branch>/<fingerprint>.
        epochs: completed epochs.
        generations: backups on the remote, oldest first; the last one is this commit's.
        identity: what the run's fingerprint is made of, or {} if unknown.
        format: version of this layout.
    """

    run: Annotated[str, Field(pattern=rf"^{_RUN.pattern}$", max_length=300)]
    epochs: Epochs
    generations: Annotated[tuple[Generation, ...], Field(min_length=1, max_length=1000)]
    identity: dict[str, Any] = Field(default_factory=dict)
    format: int = FORMAT

    @field_validator("identity")
    @classmethod
    def check_identity(cls, identity: dict[str, Any]) -> dict[str, Any]:
        """Reject an identity without the keys that a resume compares."""
        if identity and not (
            isinstance(identity.get("findings"), list)
            and isinstance(identity.get("processed"), str)
            and isinstance(identity.get("code"), dict)
        ):
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
        title = f"{_TITLE} of {self.run}: {self.epochs} epochs done"
        return f"{title}\n\n{self.model_dump_json()}\n"

    @classmethod
    def read(cls, git: Git, commit: str) -> "SnapshotMetadata":
        """Read and check the message of a commit.

        Raises:
            ValueError: it is not a resume commit, is malformed, or was written by a newer version.
        """
        if int(git("cat-file", "-s", commit)) > MAX_BYTES:
            raise ValueError(f"the message of commit {commit} is longer than {MAX_BYTES:,} bytes")
        title, _, body = git("log", "-1", "--format=%B", commit).partition("\n\n")
        if not title.startswith(_TITLE):
            raise ValueError(f"{commit} is not a resume commit")
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"the message of commit {commit} is not valid JSON: {error}"
            ) from error
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise ValueError(
                f"commit {commit} was written by a newer version of this project (format "
                f"{version}, known: {FORMAT}); update this clone with `git pull`"
            )
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"])) or "metadata"
            raise ValueError(f"the metadata of commit {commit}: {key}: {first['msg']}") from error


def branch_of(git: Git) -> str:
    """Return the branch's name, or the start of HEAD's hash if no branch is checked out.

    On a resume branch, return the name of the branch that it belongs to.
    """
    branch = git.find("symbolic-ref", "--quiet", "--short", "HEAD")
    if branch is None:
        return (git.find("rev-parse", "--verify", "--quiet", "HEAD") or "unborn")[:12]
    if branch.startswith("resume/"):
        return branch.removeprefix("resume/").rpartition("/")[0] or branch
    return branch
