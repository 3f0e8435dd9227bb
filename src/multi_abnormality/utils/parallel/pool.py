"""Interface of task pools, and a pool without workers."""

from collections.abc import Callable, Collection
from concurrent import futures
from typing import Any, Protocol, TypeVar

Function = Callable[..., Any]
Arguments = tuple[Any, ...]


class Future(Protocol):
    """Common interface of standard futures and Dask's."""

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None: ...


F = TypeVar("F", bound=Future)

# Kinds of failure, as counts and tables name them.
CRASHED = "crashed its reader"
OUT_OF_MEMORY = "out of memory"


class WorkerKilled(Exception):
    """A worker was killed while it ran an item, or another item of the same pool.

    Args:
        message: message for the user.
        kind: CRASHED or OUT_OF_MEMORY.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class TaskNotStarted(Exception):
    """A worker ended before it had started an item, which therefore is not a suspect."""


class Pool(Protocol[F]):
    """Runs functions in workers.

    Attributes:
        hint: what a user can do if memory is short.
    """

    hint: str

    def max_in_flight(self) -> int:
        """Return how many items to submit at a time to keep all workers busy."""

    def submit(self, name: str, function: Function, arguments: Arguments) -> F: ...

    def result(self, future: F) -> Any:
        """Return the function's result, or raise its exception.

        Raises:
            WorkerKilled, TaskNotStarted: the worker ended before the function did.
            InputError: no worker is left.
        """

    def run_serially(self) -> None:
        """Run one item at a time from now on."""

    def check_alive(self, names: Collection[str]) -> None:
        """Log a warning if no worker is connected to run these items."""

    def close(self) -> None: ...


class SerialPool:
    """Runs items one at a time in the calling process."""

    hint = "give the machine more memory"

    def max_in_flight(self) -> int:
        return 1

    def submit(self, _name: str, function: Function, arguments: Arguments) -> futures.Future[Any]:
        future: futures.Future[Any] = futures.Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future: futures.Future[Any]) -> Any:
        return future.result()

    def run_serially(self) -> None:
        """No-op."""

    def check_alive(self, _names: Collection[str]) -> None:
        """No-op."""

    def close(self) -> None:
        """No-op."""
