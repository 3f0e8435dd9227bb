"""Speed of reading and predicting scans of every format, beside decoding alone.

Whole processes on two cores, in turns with their baseline.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.rows import Row, Settings, compared, in_turns
from speed import scan_files
from speed.phantom import draw_phantom
from speed.processes import measure, predict, whole_process

READ = """import sys
from pathlib import Path
from multi_abnormality.data.io.read import read_volume
read_volume(Path(sys.argv[1]))"""
UNCOMPRESSED, JPEG_LOSSLESS, MANY = 275, 248, 1200  # slices of 512 x 512


def run(settings: Settings) -> list[Row]:
    scan = settings.scan or draw_phantom(512, settings.size(300, 40))
    slices = settings.size(UNCOMPRESSED, 20)
    lossless = settings.size(JPEG_LOSSLESS, 20)
    many = settings.size(MANY, 60)
    rows = [
        *time_series("uncompressed", scan_files.dicom_series(scan, slices), settings),
        *time_series("jpeg_lossless", scan_files.jpeg_lossless_series(scan, lossless), settings),
    ]
    costs = [predict(scan_files.nifti(scan, many)) for _ in range(settings.rounds)]
    name = f"predict, .nii.gz of {many} slices"
    rows += [
        Row(name, statistics.median(cost.seconds for cost in costs), "s"),
        Row(f"{name}: peak memory", max(cost.peak for cost in costs), "GB", target="at most 1 GB"),
    ]
    writers = {"nii.gz": scan_files.nifti, "mha": scan_files.metaimage, "nrrd": scan_files.nrrd}
    for suffix, write in writers.items():
        name = f"reading a .{suffix} of {slices} slices, one core"
        rows.append(time_reading(name, write(scan, slices), settings))
    return rows


def time_series(kind: str, folder: Path, settings: Settings) -> list[Row]:
    """Time predict on a series, and reading it as HU, beside decoding alone."""
    alone = [sys.executable, "-m", "speed.decoding_alone", kind, str(folder)]
    reads = [sys.executable, "-c", READ, str(folder)]
    calls: dict[str, Callable[[], float]] = {
        "predict": lambda: predict(folder).seconds,
        "reading as HU": lambda: whole_process(reads).seconds,
        "decoding alone": lambda: whole_process(alone).seconds,
    }
    found = in_turns(settings.rounds, calls, warm_up=True)
    name = f"{len(list(folder.iterdir()))} slices, {kind.replace('_', ' ')}"
    peer = "decoding alone"
    return [
        compared(f"{what}, {name}", "s", found[what], peer, found[peer], "at most 1.5")
        for what in ("predict", "reading as HU")
    ]


def time_reading(name: str, path: Path, settings: Settings) -> Row:
    """Time the reader on one core, beside bare decompression."""
    calls = {
        way: partial(measure, "speed.scan_reading", (way, path), settings.folder)
        for way in ("ours", "bare")
    }
    found = in_turns(settings.rounds, calls)
    ours, bare = ([each["seconds"] for each in found[way]] for way in ("ours", "bare"))
    return compared(name, "s", ours, "bare decompression", bare, "about 1.6")
