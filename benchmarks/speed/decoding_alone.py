"""Baseline for reading a DICOM series: decode its voxels by two threads or processes.

    python -m speed.decoding_alone KIND FOLDER      # KIND: uncompressed | jpeg_lossless

No geometry, no HU, no checks, and no imports beyond those required.
"""

import mmap
import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SHAPE = (512, 512)


def uncompressed(paths: list[Path], cores: int) -> np.ndarray:
    import pydicom

    voxels = np.empty((len(paths), *SHAPE), np.int16)

    def read(index: int) -> None:
        content = pydicom.dcmread(paths[index]).PixelData
        voxels[index] = np.frombuffer(content, "<i2").reshape(SHAPE)

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(read, range(len(paths))))
    return voxels


def jpeg_lossless(paths: list[Path], cores: int) -> np.ndarray:
    """Decode in processes, each every n-th slice, into shared memory."""
    import gdcm

    voxels = np.frombuffer(mmap.mmap(-1, len(paths) * 2 * SHAPE[0] * SHAPE[1]), np.int16)
    voxels = voxels.reshape(len(paths), *SHAPE)

    def decode(worker: int) -> None:
        for index in range(worker, len(paths), cores):
            reader = gdcm.ImageReader()
            reader.SetFileName(str(paths[index]))
            if not reader.Read():
                raise RuntimeError(f"gdcm cannot read {paths[index]}")
            content = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
            voxels[index] = np.frombuffer(content, "<i2").reshape(SHAPE)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=decode, args=(worker,)) for worker in range(cores)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return voxels


KINDS = {"uncompressed": uncompressed, "jpeg_lossless": jpeg_lossless}


def main() -> None:
    kind, folder = sys.argv[1:]
    paths = sorted(Path(folder).iterdir())
    voxels = KINDS[kind](paths, len(os.sched_getaffinity(0)))
    if not voxels.any(axis=(1, 2)).all():
        raise RuntimeError("a slice was not decoded")


if __name__ == "__main__":
    main()
