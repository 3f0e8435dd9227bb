"""What a resume state is called, and what its commit says."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from multi_abnormality.backup.git import Git

LOCAL = "refs/resume"  # this machine's newest state of each run
PUBLISHED = "refs/heads/resume"  # on a Git remote
_TITLE = "Resume state"


@dataclass(frozen=True)
class Generation:
    """One backup's objects of DVC.

    Attributes:
        epochs: whole epochs done.
        objects: hashes of all objects of the stage's persistent outputs.
        own: those that this run made: they were not in the cache before.
        uploaded: those of its own that it put onto the remote, or was about to.
        remote: address of the remote.
        sent: whether all of it arrived, the resume commit included.
    """

    epochs: int
    objects: tuple[str, ...]
    own: tuple[str, ...] = ()
    uploaded: tuple[str, ...] = ()
    remote: str = ""
    sent: bool = False

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Generation":
        lists = {key: tuple(content[key]) for key in ("objects", "own", "uploaded")}
        return cls(**content | lists)


@dataclass(frozen=True)
class About:
    """What a resume commit's message says, beside its title."""

    run: str  # <branch>/<fingerprint>
    epochs: int
    generations: tuple[Generation, ...] = field(default=())  # on the remote, the oldest first

    def message(self) -> str:
        title = f"{_TITLE} of {self.run}: {self.epochs} epochs done"
        return f"{title}\n\n{json.dumps(asdict(self))}\n"

    @classmethod
    def read(cls, git: Git, commit: str) -> "About":
        """Read a commit's message.

        Raises:
            ValueError: it is no resume commit.
        """
        title, _, body = git("log", "-1", "--format=%B", commit).partition("\n\n")
        if not title.startswith(_TITLE):
            raise ValueError(f"{commit} is no resume commit")
        content = json.loads(body)
        generations = tuple(Generation.from_json(item) for item in content.pop("generations"))
        return cls(**content, generations=generations)


def branch_of(git: Git) -> str:
    """The branch's name, or the start of HEAD's hash where none is checked out.

    On a resume branch that someone checked out, the name of the branch that it belongs to.
    """
    branch = git.find("symbolic-ref", "--quiet", "--short", "HEAD")
    if branch is None:
        return (git.find("rev-parse", "--verify", "--quiet", "HEAD") or "unborn")[:12]
    if branch.startswith("resume/"):
        return branch.removeprefix("resume/").rpartition("/")[0] or branch
    return branch
