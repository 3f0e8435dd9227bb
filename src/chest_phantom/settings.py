"""Settings of a generated sample: equal settings give equal bytes."""

from dataclasses import dataclass

from chest_phantom.phantom_error import PhantomError

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

    def check(self) -> None:
        """Raise PhantomError that lists every value out of its range."""
        ranges = {"patients": (2, 100_000), "seed": (0, 2**63), "size": (64, 1024)}
        ranges["slices"] = (24, 2000)
        errors = [
            f"  - --{name} must be from {low} to {high}, not {getattr(self, name)}"
            for name, (low, high) in ranges.items()
            if not low <= getattr(self, name) <= high
        ]
        if errors:
            raise PhantomError("\n".join(["The sample cannot be generated:", *errors]))
