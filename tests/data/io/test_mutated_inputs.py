"""Flipped bits, cut files, absurd headers and bombs end in a message, whatever the format."""

import pytest

from mutations.formats import FORMATS
from mutations.reading import Outcome
from mutations.running import read_all


def check(outcomes: list[Outcome], count: int) -> None:
    """Assert that no input gave a traceback, a hang, an ended process, too much memory, or other
    voxels than its original's where the format would notice; and that inputs were refused at all.
    """
    faults = [
        f"{one.index} {one.format}, {one.change}: {one.fault}" for one in outcomes if one.fault
    ]
    assert not faults, "\n".join(faults)
    assert len(outcomes) == count
    refused = {one.format for one in outcomes if one.result == "refused" and any(one.messages)}
    if count >= 10 * len(FORMATS):
        assert refused == set(FORMATS)
    assert refused


@pytest.mark.slow
def test_mutated_files_of_every_format_are_refused_or_read_right() -> None:
    check(read_all(seed=1, indices=range(2 * len(FORMATS))), 2 * len(FORMATS))


@pytest.mark.slow
def test_500_mutated_files_are_refused_or_read_right() -> None:
    check(read_all(seed=0, indices=range(500)), 500)
