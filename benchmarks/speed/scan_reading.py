"""Reading of a compressed scan by this project, or bare decompression.

    python -m speed.scan_reading WAY PATH     # WAY: ours | bare; prints seconds and peak as JSON

The scan is read twice, and the second time is reported.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path


def ours() -> Callable[[Path], object]:
    from multi_abnormality.data.io.read import read_volume
    from multi_abnormality.utils.system_memory import tune_malloc

    tune_malloc()  # as the stage's workers do
    return read_volume


def bare() -> Callable[[Path], object]:
    """Decompress by the fastest library in chunks, and discard the output."""
    from isal import isal_zlib

    starts = {".gz": (b"", 31), ".mha": (b"LOCAL\n", 15), ".nrrd": (b"\n\n", 31)}

    def run(path: Path) -> None:
        mark, wbits = starts[path.suffix]
        with path.open("rb") as file:
            head = file.read(4096)
            file.seek(head.index(mark) + len(mark))
            decompressor = isal_zlib.decompressobj(wbits=wbits)
            while data := file.read(1 << 18):
                decompressor.decompress(data)

    return run


WAYS = {"ours": ours, "bare": bare}


def main() -> None:
    way, path = sys.argv[1:]
    run = WAYS[way]()
    for _ in range(2):
        start = time.perf_counter()
        run(Path(path))
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
