"""Ways from a .nii.gz to a small volume, each with all of its own steps.

    python -m speed.contenders NAME SCAN RECIPE     # prints seconds and peak memory as JSON

The scan is taken twice, and the second time counts: a program that goes through a data set has
its imports and its first memory behind it.
"""

import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from multi_abnormality.params_preprocess import Recipe

Way = Callable[[Path, Recipe], object]


def ours() -> Way:
    """Hash, read, orient, resample with antialiasing, compress, write durably."""
    from multi_abnormality.data.io.read import read_volume
    from multi_abnormality.data.resample import standardize
    from multi_abnormality.data.store_writer import write_part
    from multi_abnormality.memory import keep_freed_memory

    keep_freed_memory()  # as the stage's workers do
    out = Path(tempfile.mkdtemp(dir=Path.cwd()))

    def run(scan: Path, recipe: Recipe) -> object:
        with scan.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        volume = read_volume(scan)
        return write_part(out, "train_1_a_1", sha256, volume, standardize(volume, recipe))

    return run


def monai() -> Way:
    """MONAI's transforms in their usual order. Nothing is hashed or written."""
    from monai import transforms

    def run(scan: Path, recipe: Recipe) -> object:
        low, high = recipe.hu_codes[0][0], recipe.hu_codes[-1][0]
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

    def run(scan: Path, recipe: Recipe) -> object:
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
        margins = []
        for count, wanted in zip(reversed(volume.shape), reversed(shape), strict=True):
            before = (wanted - count) // 2
            margins += [before, wanted - count - before]
        return functional.pad(volume, margins, value=-1.0)

    return run


def bare_decompression() -> Way:
    """Only unpacks, by the fastest library there is, into nothing."""
    from isal import igzip

    def run(scan: Path, recipe: Recipe) -> object:  # noqa: ARG001
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
    settings = Recipe.model_validate_json(recipe)
    for _ in range(2):
        start = time.perf_counter()
        run(Path(scan), settings)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
