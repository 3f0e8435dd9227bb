"""One sample volume at the size of clinical scans, generated once and cached."""

import tempfile
from dataclasses import replace
from pathlib import Path

from chest_phantom.anatomy import draw_subject
from chest_phantom.cohort import Scan, plan_cohort
from chest_phantom.nifti_writer import encode_nifti
from chest_phantom.rasterize import draw_scan
from chest_phantom.scanner import draw_protocol, store
from multi_abnormality.utils.atomic_io import atomic_write

CACHE = Path(tempfile.gettempdir()) / "multi_abnormality_benchmarks"
ORIENTATION = "LPS"  # of CT-RATE's volumes


def draw_phantom(size: int, slices: int) -> Path:
    """Return the path of a .nii.gz of size x size x slices int16, generated if not cached."""
    path = CACHE / f"phantom_{size}x{size}x{slices}.nii.gz"
    if not path.exists():
        scan, asked = _find(size, slices)
        volume, protocol = draw_scan(scan, 1, size, asked)
        stored, affine = store(volume, replace(protocol, orientation=ORIENTATION))
        atomic_write(encode_nifti(stored, affine), path)
    return path


def _find(size: int, slices: int) -> tuple[Scan, int]:
    """Find a scan, and the number of slices to request: the resulting number varies by scan."""
    for scan in plan_cohort(patients=50, seed=0):
        subject = draw_subject(scan)
        for asked in range(int(slices * 0.86), int(slices * 1.2)):
            if draw_protocol(subject, 1, size, asked).slices == slices:
                return scan, asked
    raise ValueError(f"no scan of the sample has {slices} slices")
