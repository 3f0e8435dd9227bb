"""The one exception for what a user can mend."""

from collections.abc import Sequence


class InputError(Exception):
    """A file, key or value that the user gave is wrong.

    The message names it, says what is wrong with it and what to do next. Programs print it
    without a traceback and exit with 1.
    """


class UnusableScan(InputError):
    """A scan that is no input for the model.

    Args:
        message: as of every InputError.
        reason: the kind of fault, to count by, such as "not HU".
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Names in a row, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def raise_faults(faults: Sequence[str], title: str) -> None:
    """Raise one InputError that lists every fault, or return when there is none."""
    if faults:
        raise InputError("\n".join([title, *(f"  - {fault}" for fault in faults)]))
