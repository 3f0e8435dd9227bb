"""Settings and results of the benchmarks."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """Options of a run of the benchmarks.

    Attributes:
        folder: temporary directory, on the file system of the cached phantoms (for hard links).
        rounds: repetitions of each measurement, of which the median counts.
        quick: whether sizes are reduced, to check that everything runs.
        scan: .nii.gz of a real chest; None for a phantom.
        tables: directory with CT-RATE's tables.
    """

    folder: Path
    rounds: int = 3
    quick: bool = False
    scan: Path | None = None
    tables: Path | None = None

    def size(self, full: T, quick: T) -> T:
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """A measurement.

    Attributes:
        name: what was measured.
        value: median over the rounds.
        unit: unit of both values.
        peer: name of the baseline or peer; empty for none.
        peer_value: the peer's median; None if it was not measured.
        ratio: median over the rounds of value / peer value.
        target: target of the ratio, or else of the value.
    """

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    target: str = ""


def compared(
    name: str, unit: str, values: list[float], peer: str, peer_values: list[float], target: str = ""
) -> Row:
    """Create a row from two measurements that took turns."""
    ratios = [value / other for value, other in zip(values, peer_values, strict=True)]
    medians = (statistics.median(each) for each in (values, peer_values, ratios))
    value, peer_value, ratio = medians
    return Row(name, value, unit, peer, peer_value, ratio, target)


def in_turns(
    rounds: int, calls: Mapping[str, Callable[[], T]], warm_up: bool = False
) -> dict[str, list[T]]:
    """Run all calls in turns, so that other load on the machine affects them equally.

    Args:
        rounds: number of rounds.
        calls: functions by name.
        warm_up: whether to discard a first round, which fills the cache of files.
    """
    found = [{name: call() for name, call in calls.items()} for _ in range(rounds + warm_up)]
    return {name: [each[name] for each in found[warm_up:]] for name in calls}
