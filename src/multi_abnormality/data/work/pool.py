"""What hands out items need of those who work on them."""

from collections.abc import Callable, Collection
from concurrent import futures
from typing import Any, Protocol, TypeVar

Function = Callable[..., Any]
Arguments = tuple[Any, ...]


class Future(Protocol):
    """What standard futures and Dask's have in common, and is used here."""

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None: ...


F = TypeVar("F", bound=Future)

# Why an item could not be done, as counts and tables name it.
CRASHED = "crashed its reader"
OUT_OF_MEMORY = "out of memory"


class WorkerKilled(Exception):
    """A worker ended while it worked on an item, or on one beside it.

    Args:
        message: for the user.
        kind: CRASHED or OUT_OF_MEMORY.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class NotBegun(Exception):
    """A worker ended before it had begun with an item: nothing can be held against that one."""


class Pool(Protocol[F]):
    way_out: str  # what a user can do where memory lacks

    def room(self) -> int:
        """How many items may be handed out, so that nobody waits for work."""

    def submit(self, name: str, function: Function, arguments: Arguments) -> F: ...

    def result(self, future: F) -> Any:
        """What the function returned or raised.

        Raises:
            WorkerKilled, NotBegun: it did neither.
            InputError: nobody works any more.
        """

    def isolate(self) -> None:
        """From now on hand out one item at a time, with nothing beside it."""

    def look_after(self, names: Collection[str]) -> None:
        """Tell the user if nobody is there to work on these."""

    def close(self) -> None: ...


class ThisProcess:
    """No worker at all: an item at a time, in the process that asks."""

    way_out = "give the machine more memory"

    def room(self) -> int:
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

    def isolate(self) -> None:
        """It always is."""

    def look_after(self, _names: Collection[str]) -> None:
        """Nothing is under way when it could be asked."""

    def close(self) -> None:
        """Nothing is open."""
