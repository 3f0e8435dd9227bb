"""Volumes read in random order.

python -m speed.reading KIND FOLDER     # KIND: set | raw; prints volumes/s as JSON
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from multi_abnormality.data.randomness import generator
from multi_abnormality.data.store import ProcessedSet

READS = 600


def open_set(folder: Path) -> tuple[Callable[[str], np.ndarray], Sequence[str]]:
    processed = ProcessedSet(folder)
    return processed.read, processed.names


def open_raw(folder: Path) -> tuple[Callable[[str], np.ndarray], Sequence[str]]:
    """Plain uint8 .npy files: as little work as reading can be."""
    return np.load, sorted(map(str, folder.glob("*.npy")))


KINDS = {"set": open_set, "raw": open_raw}


def main() -> None:
    kind, folder = sys.argv[1:]
    read, names = KINDS[kind](Path(folder))
    for name in names:  # both kinds from memory: what is compared is the work, not the disk
        read(name)
    order = generator(0, "reading").integers(len(names), size=READS)
    start = time.perf_counter()
    for place in order:
        read(names[place])
    sys.stdout.write(json.dumps(READS / (time.perf_counter() - start)))


if __name__ == "__main__":
    main()
