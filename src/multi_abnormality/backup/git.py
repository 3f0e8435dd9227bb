"""Git by its plumbing, such that no hook, signature, prompt or missing name gets in the way."""

import copy
import os
import subprocess
from pathlib import Path

# What a hook or an alias that started this process would make Git work on in place of `folder`.
_LEAKED = {
    "GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX", "GIT_WORK_TREE", "SSH_ASKPASS",
}  # fmt: skip
_QUIET = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.quotePath=false", "gc.auto=0",
    "log.showSignature=false",
    "fetch.fsckObjects=true", "transfer.fsckObjects=true",
)  # fmt: skip
_AUTHOR = {"NAME": "multi-abnormality backup", "EMAIL": "backup@multi-abnormality.invalid"}


class GitError(Exception):
    """Git refused; the message is what it said."""


class Git:
    """Runs Git in a folder.

    Args:
        folder: inside a repository.
        index: the index file to work on, where it is not the user's.
        patience: seconds that a command gets; None: no end.
    """

    def __init__(
        self, folder: Path, index: Path | None = None, patience: float | None = None
    ) -> None:
        self.folder = folder
        self._patience = patience
        self._environment = {k: v for k, v in os.environ.items() if k not in _LEAKED}
        self._environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        for role in ("AUTHOR", "COMMITTER"):
            self._environment |= {f"GIT_{role}_{key}": value for key, value in _AUTHOR.items()}
        if index is not None:
            self._environment["GIT_INDEX_FILE"] = str(index)

    def bytes(self, *arguments: str, given: bytes = b"") -> bytes:
        """Run a command.

        Args:
            arguments: of git.
            given: its standard input.

        Raises:
            GitError: it failed, or there is no git.
        """
        settings = [part for setting in _QUIET for part in ("-c", setting)]
        try:
            done = subprocess.run(
                ["git", *settings, *arguments],
                cwd=self.folder, env=self._environment, input=given, capture_output=True,
                check=True, timeout=self._patience,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            said = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-1:]
            reason = "; ".join(said) or f"exit status {error.returncode}"
            raise GitError(f"git {arguments[0]}: {reason}") from error
        except subprocess.TimeoutExpired as error:
            raise GitError(f"git {arguments[0]}: no answer within {error.timeout:.0f} s") from error
        except OSError as error:
            raise GitError(f"git cannot be run: {error}") from error
        return done.stdout

    def __call__(self, *arguments: str, given: str = "") -> str:
        """As `bytes`, with text in and stripped text out."""
        return self.bytes(*arguments, given=given.encode()).decode(errors="replace").strip()

    def find(self, *arguments: str) -> str | None:
        """What a question answers; None where Git has no answer."""
        try:
            return self(*arguments) or None
        except GitError:
            return None

    def check_length(self, *arguments: str, limit: int) -> None:
        """Check that a command prints no more than `limit` bytes; end it where it does.

        Raises:
            GitError: it prints more, or failed.
        """
        settings = [part for setting in _QUIET for part in ("-c", setting)]
        with subprocess.Popen(
            ["git", *settings, *arguments], cwd=self.folder, env=self._environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdout is not None  # a pipe
            if len(process.stdout.read(limit + 1)) > limit:
                process.kill()
                raise GitError(f"git {arguments[0]}: more than {limit:,} bytes of names")
        if process.returncode:
            raise GitError(f"git {arguments[0]}: exit status {process.returncode}")

    def matches(self, *arguments: str, given: str) -> list[str]:
        """Return the names that a question with `-z` answers; Git ends with 1 where none is."""
        try:
            answer = self.bytes(*arguments, given=os.fsencode(given))
        except GitError as error:
            if getattr(error.__cause__, "returncode", None) == 1:
                return []
            raise
        return _split(answer)

    def names(self, *arguments: str) -> list[str]:
        """File names that a command lists with `-z`."""
        return _split(self.bytes(*arguments))

    def at(self, seconds: int) -> "Git":
        """This, with another time for commits, in seconds of the epoch."""
        git = copy.copy(self)
        date = f"{seconds} +0000"
        git._environment = self._environment | {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        return git

    def unattended(self) -> "Git":
        """This, for commands that reach a remote: SSH asks nothing either."""
        if not (self.find("config", "core.sshCommand") or "GIT_SSH" in self._environment):
            self._environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        return self


def _split(answer: bytes) -> list[str]:
    return [os.fsdecode(name) for name in answer.split(b"\0") if name]


def repository_of(folder: Path) -> Git | None:
    """Git at the top of the work tree that a folder is in; None where there is none."""
    top = Git(folder).find("rev-parse", "--show-toplevel")
    return Git(Path(top)) if top else None
