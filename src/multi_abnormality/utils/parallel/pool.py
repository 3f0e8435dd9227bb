"""Base class of task pools, which also runs tasks in the calling process."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

# Kinds of failure, as counts and tables name them.
CRASHED = "crashed its reader"
OUT_OF_MEMORY = "out of memory"


class WorkerKilled(Exception):
    """A worker was killed while it ran a task, or another task of the same pool.

    Args:
        message: message for the user.
        kind: CRASHED or OUT_OF_MEMORY.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class Pool:
    """Runs tasks one at a time in the calling process; subclasses run them in workers.

    Attributes:
        hint: what a user can do if memory is short.
    """

    hint = "give the machine more memory"

    def max_in_flight(self) -> int:
        """Return how many tasks to submit at a time to keep all workers busy."""
        return 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future: Future[Any]) -> Any:
        """Return the result of a finished task, or raise its exception.

        Raises:
            WorkerKilled: a worker was killed.
            InputError: no worker is left.
        """
        return future.result()

    def run_serially(self) -> None:
        """Run one task at a time from now on."""

    def check_alive(self, names: Iterable[str]) -> None:
        """Log a warning if no worker is connected to run these tasks."""

    def close(self) -> None:
        """Stop all workers at once."""
