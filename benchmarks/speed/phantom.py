"""One volume of the sample at the size that scanners give, drawn once and kept."""

import tempfile
from dataclasses import replace
from pathlib import Path

from multi_abnormality.files import write_durably
from multi_abnormality.sample.anatomy import draw_subject
from multi_abnormality.sample.cohort import Scan, plan_cohort
from multi_abnormality.sample.draw import draw_scan
from multi_abnormality.sample.nifti import encode_nifti
from multi_abnormality.sample.scanner import draw_protocol, store

CACHE = Path(tempfile.gettempdir()) / "multi_abnormality_benchmarks"
ORIENTATION = "LPS"  # how CT-RATE's own volumes lie


def draw_phantom(size: int, slices: int) -> Path:
    """A .nii.gz of size x size x slices int16, drawn if it is not there already."""
    path = CACHE / f"phantom_{size}x{size}x{slices}.nii.gz"
    if not path.exists():
        scan, asked = _find(size, slices)
        volume, protocol = draw_scan(scan, 1, size, asked)
        stored, affine = store(volume, replace(protocol, orientation=ORIENTATION))
        write_durably(encode_nifti(stored, affine), path)
    return path


def _find(size: int, slices: int) -> tuple[Scan, int]:
    """A scan of the sample, and how many slices to ask for: the number given varies by scan."""
    for scan in plan_cohort(patients=50, seed=0):
        subject = draw_subject(scan)
        for asked in range(int(slices * 0.86), int(slices * 1.2)):
            if draw_protocol(subject, 1, size, asked).slices == slices:
                return scan, asked
    raise ValueError(f"no scan of the sample has {slices} slices")
