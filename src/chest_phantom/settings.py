"""Settings of a sample, and the error for wrong ones."""

from dataclasses import dataclass

DEFAULT_PATIENTS = 540
DEFAULT_SIZE = 128  # pixels across a slice
DEFAULT_SLICES = 42  # approximate number per volume


@dataclass(frozen=True)
class Settings:
    """Settings of a generated sample: equal settings give equal bytes."""

    patients: int = DEFAULT_PATIENTS
    seed: int = 0
    size: int = DEFAULT_SIZE
    slices: int = DEFAULT_SLICES


class PhantomError(Exception):
    """An argument is invalid, or a file cannot be written.

    The message names it and the fix; the program prints it without a traceback.
    """
