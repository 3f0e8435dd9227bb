"""What decides the sample's bytes."""

from dataclasses import dataclass

from multi_abnormality.errors import raise_faults

DEFAULT_PATIENTS = 540
DEFAULT_SIZE = 128  # pixels across a slice
DEFAULT_SLICES = 42  # about how many a volume has


@dataclass(frozen=True)
class Settings:
    """What decides the sample's bytes."""

    patients: int = DEFAULT_PATIENTS
    seed: int = 0
    size: int = DEFAULT_SIZE
    slices: int = DEFAULT_SLICES

    def check(self) -> None:
        """Raises InputError that lists every value out of its range."""
        ranges = {"patients": (2, 100_000), "seed": (0, 2**63), "size": (64, 1024)}
        ranges["slices"] = (24, 2000)
        faults = [
            f"--{name} must be from {low} to {high}, not {getattr(self, name)}"
            for name, (low, high) in ranges.items()
            if not low <= getattr(self, name) <= high
        ]
        raise_faults(faults, "The sample cannot be drawn:")
