"""Exceptions for errors that users can fix."""

from collections.abc import Sequence


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
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Join the first names with commas, and append the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def raise_errors(errors: Sequence[str], title: str) -> None:
    """Raise one InputError that lists all errors, if there are any."""
    if errors:
        raise InputError("\n".join([title, *(f"  - {error}" for error in errors)]))
