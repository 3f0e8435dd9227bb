"""Reading of volumes in random order.

python -m speed.reading KIND FOLDER     # KIND: set | raw; prints volumes/s as JSON
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.utils.rng import generator

READS = 600


def open_set(folder: Path) -> tuple[Callable[[str], np.ndarray], Sequence[str]]:
    processed = ProcessedDataset(folder)
    return processed.read, processed.names


def open_raw(folder: Path) -> tuple[Callable[[str], np.ndarray], Sequence[str]]:
    """Plain uint8 .npy files, as a baseline."""
    return np.load, sorted(map(str, folder.glob("*.npy")))


KINDS = {"set": open_set, "raw": open_raw}


def main() -> None:
    kind, folder = sys.argv[1:]
    read, names = KINDS[kind](Path(folder))
    for name in names:  # fills the page cache, so that disk speed does not count
        read(name)
    order = generator(0, "reading").integers(len(names), size=READS)
    start = time.perf_counter()
    for index in order:
        read(names[index])
    sys.stdout.write(json.dumps(READS / (time.perf_counter() - start)))


if __name__ == "__main__":
    main()
