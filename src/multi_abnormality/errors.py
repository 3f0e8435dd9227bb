"""The one exception for what a user can mend."""

from collections.abc import Sequence


class InputError(Exception):
    """A file, key or value that the user gave is wrong.

    The message names it, says what is wrong with it and what to do next. Programs print it
    without a traceback and exit with 1.
    """


def raise_faults(faults: Sequence[str], title: str) -> None:
    """Raise one InputError that lists every fault, or return when there is none."""
    if faults:
        raise InputError("\n".join([title, *(f"  - {fault}" for fault in faults)]))
