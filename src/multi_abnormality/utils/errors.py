"""Exceptions for errors that users can fix."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class InputError(Exception):
    """Error in a file, key or value that the user gave.

    The message names it, what is wrong, and the fix. Programs print it without a traceback and exit
    with 1.
    """


class UnusableScan(InputError):
    """A scan that cannot be used as input of the model.

    Args:
        message: message of the InputError.
        reason: category of the error, for counts, such as "not HU".
        path: file or folder that the message begins with; None: a caller adds it by `naming`.
    """

    def __init__(self, message: str, reason: str, path: object = None) -> None:
        super().__init__(message, reason, path)
        self.reason, self.path = reason, path

    def __str__(self) -> str:
        message = str(self.args[0])
        return message if self.path is None else f"{self.path}: {message}"


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Begin the messages of UnusableScan with the path of the scan, if they have none yet."""
    try:
        yield
    except UnusableScan as error:
        if error.path is not None:
            raise
        raise UnusableScan(str(error), error.reason, path) from None


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Join the first names with commas, and append the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def raise_errors(errors: Sequence[str], title: str) -> None:
    """Raise one InputError that lists all errors, if there are any."""
    if errors:
        raise InputError("\n".join([title, *(f"  - {error}" for error in errors)]))
