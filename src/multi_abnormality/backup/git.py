"""Git plumbing commands without hooks, signatures, prompts or user settings."""

import copy
import os
import subprocess
from pathlib import Path

# Variables set by a Git hook or alias; they would redirect Git to another repository.
_INHERITED = {
    "GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX", "GIT_WORK_TREE", "SSH_ASKPASS",
}  # fmt: skip
_CONFIG = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.quotePath=false", "gc.auto=0",
    "log.showSignature=false", "fetch.fsckObjects=true", "transfer.fsckObjects=true",
)  # fmt: skip
_COMMAND = ["git", *(part for setting in _CONFIG for part in ("-c", setting))]
_AUTHOR = {"NAME": "multi-abnormality backup", "EMAIL": "backup@multi-abnormality.invalid"}


class GitError(Exception):
    """A Git command failed; the message is its error output."""


class Git:
    """Runs Git commands in a folder.

    Args:
        index: index file to use instead of the user's.
        timeout: time limit of a command, in seconds; None for no limit.
    """

    def __init__(
        self, folder: Path, index: Path | None = None, timeout: float | None = None
    ) -> None:
        self.folder = folder
        self._timeout = timeout
        self._environment = {k: v for k, v in os.environ.items() if k not in _INHERITED}
        self._environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        for role in ("AUTHOR", "COMMITTER"):
            self._environment |= {f"GIT_{role}_{key}": value for key, value in _AUTHOR.items()}
        if index is not None:
            self._environment["GIT_INDEX_FILE"] = str(index)

    def bytes(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run a command and return its output."""
        try:
            done = subprocess.run(
                [*_COMMAND, *arguments], cwd=self.folder, env=self._environment, input=stdin,
                capture_output=True, check=True, timeout=self._timeout,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            errors = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-1:]
            reason = "; ".join(errors) or f"exit status {error.returncode}"
            raise GitError(f"git {arguments[0]}: {reason}") from error
        except subprocess.TimeoutExpired as error:
            raise GitError(f"git {arguments[0]}: no answer within {error.timeout:.0f} s") from error
        except OSError as error:
            raise GitError(f"git cannot be run: {error}") from error
        return done.stdout

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Run a command on text and return its stripped output."""
        output = self.bytes(*arguments, stdin=os.fsencode(stdin))
        return output.decode(errors="replace").strip()

    def find(self, *arguments: str, stdin: str = "") -> str | None:
        """Return a command's output, or None if it fails or prints nothing."""
        try:
            return self(*arguments, stdin=stdin) or None
        except GitError:
            return None

    def names(self, *arguments: str) -> list[str]:
        """Return the file names that a command prints with `-z`."""
        return [os.fsdecode(name) for name in self.bytes(*arguments).split(b"\0") if name]

    def check_length(self, *arguments: str, limit: int) -> None:
        """Check that a command prints at most `limit` bytes; kill it otherwise."""
        with subprocess.Popen(
            [*_COMMAND, *arguments], cwd=self.folder, env=self._environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdout is not None  # a pipe
            if len(process.stdout.read(limit + 1)) > limit:
                process.kill()
                raise GitError(f"git {arguments[0]}: more than {limit:,} bytes of names")

    def with_date(self, seconds: int) -> "Git":
        """Return a copy that commits with this date, in seconds since the epoch."""
        git = copy.copy(self)
        date = f"{seconds} +0000"
        git._environment = self._environment | {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        return git

    def non_interactive(self) -> "Git":
        """Disable SSH prompts, for commands that contact a remote."""
        if not (self.find("config", "core.sshCommand") or "GIT_SSH" in self._environment):
            self._environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        return self


def repository_of(folder: Path) -> Git | None:
    """Return Git at the top of the work tree that contains a folder, or None."""
    top = Git(folder).find("rev-parse", "--show-toplevel")
    return Git(Path(top)) if top else None


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
