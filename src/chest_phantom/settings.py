"""Settings of a generated sample: equal settings give equal bytes."""

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
