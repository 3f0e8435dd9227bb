"""How often the maximum of `predict --explain`'s heat map lies on the lesion, on phantoms.

    python benchmarks/heat_map_accuracy.py --scans 40   # after `dvc repro`, in its directory

Each scan of the sample's test split is drawn with and without each of its findings; where the two
differ is the lesion. Of the findings that the model predicts as positive, it compares the slice and
the maximum with random ones within the scan and the body.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chest_phantom.cohort import Scan, plan_cohort
from chest_phantom.finding_names import FINDINGS
from chest_phantom.rasterize import draw_scan
from chest_phantom.settings import DEFAULT_PATIENTS
from multi_abnormality import load_model
from multi_abnormality.data.io.read import Volume
from multi_abnormality.evaluation.body_mask import body
from multi_abnormality.inference.explanation import explain_scan
from multi_abnormality.inference.predictor import Model
from multi_abnormality.utils import console

CHANGE = 80  # HU
MARGIN = 2  # pixels around the lesion that count as a hit, less than a voxel of the model


class Result(NamedTuple):
    """Whether slice and maximum hit the lesion of one finding, and what chance would hit."""

    slice_hit: bool
    slice_chance: float
    peak_hit: bool
    peak_chance: float


def measure(model: Model, scan: Scan) -> Iterator[Result]:
    """Yield a result for each finding of a scan that is also predicted."""
    hu, protocol = draw_scan(scan)
    volume = Volume(
        hu, protocol.spacing, hu.shape[::-1], protocol.spacing[::-1], "LPS", affine=np.eye(4)
    )
    prediction = model.predict_volume(Path("phantom"), volume)
    for one in explain_scan(model, volume, prediction):
        index = FINDINGS.index(one.finding.name)
        if not scan.labels[index] or one.peak is None:
            continue
        labels = tuple(0 if each == index else value for each, value in enumerate(scan.labels))
        without, _ = draw_scan(replace(scan, labels=labels))
        lesion = np.abs(hu.astype(np.int32) - without) > CHANGE
        shown = lesion[one.first : one.last + 1].any(axis=0)
        y, x = np.indices(shown.shape)
        near = np.zeros(shown.shape, bool)
        for row, column in np.argwhere(shown):
            near |= (abs(y - row) <= MARGIN) & (abs(x - column) <= MARGIN)
        inside = body(hu[one.slice])
        yield Result(
            bool(shown.any()),
            float(lesion.any(axis=(1, 2)).mean()),
            bool(near[one.peak]),
            float((near & inside).sum() / max(inside.sum(), 1)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("model_weights"))
    parser.add_argument("--scans", type=int, default=40)
    options = parser.parse_args()
    model = load_model(options.model)
    scans = [scan for scan in plan_cohort(DEFAULT_PATIENTS, 0) if scan.split == "valid"]
    results = np.array(
        [result for scan in scans[: options.scans] for result in measure(model, scan)], float
    )
    slice_hit, slice_chance, peak_hit, peak_chance = results.mean(axis=0)
    console.log.info(f"{len(results)} findings of {min(options.scans, len(scans))} scans")
    console.log.info(
        f"the slice shows the lesion: {slice_hit:.2f}, a random slice {slice_chance:.2f}"
    )
    console.log.info(
        f"the maximum lies on the lesion: {peak_hit:.2f}, a random point {peak_chance:.2f}"
    )


if __name__ == "__main__":
    console.run(main)
