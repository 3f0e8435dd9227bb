"""Preprocessing of a .nii.gz to a small volume, by this project and its peers.

    python -m speed.contenders NAME SCAN RECIPE     # prints seconds and peak memory as JSON

The scan is processed twice, and the second time is reported, without imports and first allocations.
"""

import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from multi_abnormality.config.schema import PreprocessSpec

Way = Callable[[Path, PreprocessSpec], object]


def ours() -> Way:
    """Hash, read, orient, resample with antialiasing, compress, write atomically."""
    from multi_abnormality.data.io.read import read_volume
    from multi_abnormality.data.preprocessing.resample import resample_and_quantize
    from multi_abnormality.data.storage.dataset_writer import write_part
    from multi_abnormality.utils.system_memory import tune_malloc

    tune_malloc()  # as the stage's workers do
    out = Path(tempfile.mkdtemp(dir=Path.cwd()))

    def run(scan: Path, recipe: PreprocessSpec) -> object:
        with scan.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        volume = read_volume(scan)
        return write_part(out, "train_1_a_1", sha256, volume, resample_and_quantize(volume, recipe))

    return run


def monai() -> Way:
    """MONAI's transforms in their usual order. Nothing is hashed or written."""
    from monai import transforms

    def run(scan: Path, recipe: PreprocessSpec) -> object:
        low, high = recipe.hu_to_uint8[0][0], recipe.hu_to_uint8[-1][0]
        steps = transforms.Compose(
            [
                transforms.LoadImage(image_only=True, ensure_channel_first=True),
                transforms.Orientation(axcodes="LPS", labels=None),
                transforms.Spacing(pixdim=recipe.spacing[::-1], mode="bilinear"),
                transforms.ScaleIntensityRange(low, high, 0.0, 1.0, clip=True),
                transforms.ResizeWithPadOrCrop(recipe.shape[::-1]),
            ]
        )
        return steps(scan)

    return run


def ct_clip() -> Way:
    """As CT-CLIP prepares CT-RATE: float64 voxels, rescale, clip, trilinear interpolation, then
    crop or pad about the centre. Nothing is oriented, hashed or written.
    """
    import nibabel
    import numpy as np
    import torch
    from torch.nn import functional

    def run(scan: Path, recipe: PreprocessSpec) -> object:
        image = nibabel.load(scan)
        hu = image.get_fdata() * 1.0 + 0.0  # slope and intercept out of the metadata
        hu = np.clip(hu, -1000, 1000)
        volume = torch.from_numpy((hu / 1000).astype(np.float32).transpose(2, 1, 0).copy())
        spacing = image.header.get_zooms()[::-1]
        size = [
            max(1, round(count * mm / wanted))
            for count, mm, wanted in zip(volume.shape, spacing, recipe.spacing, strict=True)
        ]
        small = functional.interpolate(volume[None, None], size, mode="trilinear")[0, 0]
        return _crop_or_pad(small, recipe.shape)

    def _crop_or_pad(volume: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
        padding = []
        for count, wanted in zip(reversed(volume.shape), reversed(shape), strict=True):
            before = (wanted - count) // 2
            padding += [before, wanted - count - before]
        return functional.pad(volume, padding, value=-1.0)

    return run


def bare_decompression() -> Way:
    """Only decompress, by the fastest library, and discard the output."""
    from isal import igzip

    def run(scan: Path, recipe: PreprocessSpec) -> object:  # noqa: ARG001
        with igzip.open(scan) as stream:
            while stream.read(1 << 20):
                pass

    return run


CONTENDERS: dict[str, Callable[[], Way]] = {
    "ours": ours,
    "monai": monai,
    "ct_clip": ct_clip,
    "bare": bare_decompression,
}


def main() -> None:
    name, scan, recipe = sys.argv[1:]
    run = CONTENDERS[name]()
    settings = PreprocessSpec.model_validate_json(recipe)
    for _ in range(2):
        start = time.perf_counter()
        run(Path(scan), settings)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
