"""Checks that values are HU: air, lung and soft tissue must be where CT has them.

The checks use a sample without constant values: padding, background or a frame of -1000 or 0 is
similar to air or tissue, in raw values as well as in HU. Noise around such a value is not constant,
so most checks leave out the values near -1000 and 0.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from multi_abnormality.utils.errors import UnusableScan, first_few

HU_MIN, HU_MAX = -1024, 32767  # below air is only padding; the maximum is that of int16
AIR = (-1100, -500)  # air and lung
# Lung and the edges of the body: above the noise of air, and below halved HU. Small fields of view
# of an abdomen have 0.0009 of their non-constant voxels there, chests 0.02.
LUNG_AND_EDGES = (-750, -550)
MIN_LUNG_AND_EDGES = 2e-4
HALVED_AIR = (-550, -350)  # of HU that were multiplied by 0.5
MIN_HALVED_AIR = 2e-3
MIN_AIR = 1e-3
MIN_CLIPPED = -450  # HU: lower end of a window; below is the air of halved HU
LUNG = (-900, -500)
SOFT_TISSUE = (-200, 300)
# HU rescaled twice by -1024 have their dense bone near 0, up to 0.2 % of a chest, and a noisy frame
# of 0 within 30 of it. Seven public CTs have 25 % tissue and more.
WATER = (-30, 30)
MIN_TISSUE = 0.02
# Lungs segmented on a constant background have 0.3 to 0.5 voxels of tissue per voxel of lung, whole
# chests 1.8 and more.
MIN_TISSUE_TO_LUNG = 0.7
CUT_OUT_FRACTION = 0.2  # of constant voxels: with more, a scan may be a segmentation
# Of voxels that are neither air nor lung, raw values have 32 to 66 % above 500; contrast agent and
# metal reach 5 %. In a wide field of view raw values may have only 7 %, of which nine tenths are in
# the range of raw soft tissue; of bone and contrast agent a third is.
DENSE = 500
MAX_DENSE = 0.3
SUSPECT_DENSE = 0.05
RAW_TISSUE = (800, 1300)
MAX_RAW_TISSUE = 0.7
# HU * 1.5, HU * 2 and HU - 1024 have air below -1200, and little in the range of lungs; noise of
# 250 HU and resampled edges of padding put less there than in the range of lungs.
BELOW_AIR = -1200
MIN_BELOW_AIR = 0.02
MAX_BELOW_AIR = 0.6  # of the voxels below air and in lung

# A value counts as padding or background if it has at least this fraction of the voxels, and is
# this many times as frequent as the neighbouring values: the histogram of a scanner's values is
# smooth, even if they were rounded.
CONSTANT_FRACTION = 0.005
CONSTANT_RATIO = 8
# Difference, HU, of low, middle and high values of two planes if one lacks its rescale.
_MISSING_RESCALE = (600, 1400)
_QUANTILES = (0.05, 0.5, 0.95)
_SAMPLED_LINES = 16  # along each side of a plane, to compare planes
# Minimum of non-constant voxels in a plane: number of sampled ones, and relative to the median.
_MIN_USED = 20
_MIN_USED_FRACTION = 0.25

_CONVERT = "Convert the scan again from its source"


@dataclass(frozen=True, eq=False)
class Sample:
    """Histogram of a sample of a scan."""

    values: np.ndarray  # unique values, ascending
    counts: np.ndarray  # number of voxels with each value

    @classmethod
    def of(cls, voxels: np.ndarray) -> "Sample":
        return cls(*np.unique(voxels, return_counts=True))

    @cached_property
    def constants(self) -> np.ndarray:
        """Return the values of padding and background."""
        found = []
        for index in np.flatnonzero(self.counts >= CONSTANT_FRACTION * self.counts.sum()).tolist():
            low = max(0, index - 2)
            others = np.sort(np.delete(self.counts[low : index + 3], index - low))
            # Compared with the second most frequent neighbour, as constants may come in pairs.
            if not others.size or self.counts[index] > CONSTANT_RATIO * others[-2:][0]:
                found.append(self.values[index])
        return np.array(found, np.float32)

    @cached_property
    def varying_counts(self) -> np.ndarray:
        """Return the counts, set to 0 for constants."""
        return np.where(np.isin(self.values, self.constants), 0, self.counts)

    def count(self, low: float, high: float) -> int:
        """Return the number of non-constant voxels from one value to another, inclusive."""
        first = np.searchsorted(self.values, low)
        return int(self.varying_counts[first : np.searchsorted(self.values, high, "right")].sum())

    def fraction(self, low: float, high: float) -> float:
        """Return the fraction of the non-constant voxels from one value to another, inclusive."""
        return self.count(low, high) / max(int(self.varying_counts.sum()), 1)

    def describe(self, rescale: str) -> str:
        text = f"values from {self.values[0]:g} to {self.values[-1]:g}{rescale}"
        if self.constants.size:
            text += f", of them {first_few([f'{value:g}' for value in self.constants])} constant"
        return text


def refuse_non_hu(sample: Sample, rescale: str) -> None:
    """Refuse raw values, scaled or shifted HU, windowed images, cut-out lungs and other modalities.

    Args:
        sample: sample of values after the rescale, not clipped at -1024.
        rescale: description of the rescale for errors, or "".
    """
    values = sample.describe(rescale)
    prefix = "does not look like HU"
    has_lung_edges = sample.fraction(*LUNG_AND_EDGES) >= MIN_LUNG_AND_EDGES
    has_air = sample.fraction(*AIR) >= MIN_AIR
    if _is_raw(sample, SUSPECT_DENSE if has_air and has_lung_edges else 0.0):
        raise UnusableScan(
            f"{prefix}: soft tissue near {_median_above(sample, DENSE):.0f}, not near 0 ({values})."
            " Raw CT values without their rescale? Store HU = value * RescaleSlope + "
            "RescaleIntercept",
            "not HU",
        )
    lowest = _lowest_tissue(sample)
    is_clipped = lowest in sample.constants and lowest >= MIN_CLIPPED
    if is_clipped and not has_lung_edges and sample.fraction(lowest, np.inf) >= MIN_TISSUE:
        raise UnusableScan(
            f"is clipped to a window: nothing is below {lowest:g} ({values}), so air and "
            "lung are lost; give the scan with all its HU",
            "not HU",
        )
    if not has_air or (not has_lung_edges and sample.fraction(*HALVED_AIR) > MIN_HALVED_AIR):
        low, high = LUNG_AND_EDGES if has_air else AIR
        raise UnusableScan(
            f"{prefix}: hardly any values from {low} to {high}, where air, lung and the edges of "
            f"the body are ({values}). Not rescaled, by another factor, or "
            f"clipped? {_CONVERT}",
            "not HU",
        )
    tissue = sample.fraction(SOFT_TISSUE[0], WATER[0]) + sample.fraction(WATER[1], SOFT_TISSUE[1])
    if tissue < MIN_TISSUE:
        raise UnusableScan(
            f"{prefix}: hardly any soft tissue near 0 ({values}). Rescaled twice, or clipped to a "
            f"window for lungs? {_CONVERT}",
            "not HU",
        )
    below, lung = sample.fraction(-np.inf, BELOW_AIR), sample.fraction(*LUNG)
    if below > MIN_BELOW_AIR and below > MAX_BELOW_AIR * (below + lung):
        raise UnusableScan(
            f"{prefix}: {below:.0%} of its values lie below {BELOW_AIR}, where air is -1000 "
            f"({values}). Multiplied, or rescaled twice? {_CONVERT}",
            "not HU",
        )
    is_cut_out = sample.varying_counts.sum() < (1 - CUT_OUT_FRACTION) * sample.counts.sum()
    if is_cut_out and sample.fraction(*SOFT_TISSUE) < MIN_TISSUE_TO_LUNG * lung:
        raise UnusableScan(
            f"contains only the lungs, cut out on a constant background ({values}); "
            "give the whole scan",
            "not HU",
        )


def _is_raw(sample: Sample, min_dense: float) -> bool:
    """Return whether soft tissue is in the range of raw values, near 1000 or above."""
    solid, dense = sample.count(AIR[1], np.inf), sample.count(DENSE, np.inf)
    if dense > MAX_DENSE * solid:
        return True
    return dense > min_dense * solid and sample.count(*RAW_TISSUE) > MAX_RAW_TISSUE * dense


def _median_above(sample: Sample, low: float) -> float:
    counts = np.where(sample.values > low, sample.varying_counts, 0).cumsum()
    return float(sample.values[np.searchsorted(counts, counts[-1] / 2)])


def _lowest_tissue(sample: Sample) -> float:
    """Return the lowest value above air and lung, constants included."""
    above = sample.values[sample.values >= LUNG_AND_EDGES[1]]
    return float(above[0] if above.size else sample.values[-1])


def refuse_partly_rescaled(planes: np.ndarray, constants: np.ndarray) -> None:
    """Refuse a scan in which some slices have their rescale and others do not.

    Args:
        planes: (N, rows, columns) HU.
        constants: values of padding and background.
    """
    count, *sides = planes.shape
    lines = [slice(None, None, max(1, side // _SAMPLED_LINES)) for side in sides]
    values = planes[:, lines[0], lines[1]].reshape(count, -1)
    is_used = values > HU_MIN
    for constant in np.clip(constants, HU_MIN, HU_MAX):
        is_used &= values != constant
    sizes = is_used.sum(1)
    # Other planes are padding, or only the edge of the body.
    used = np.flatnonzero(sizes >= max(_MIN_USED, _MIN_USED_FRACTION * np.median(sizes)))
    means = np.where(is_used, values, 0).sum(1)[used] / sizes[used]
    for first in np.flatnonzero(np.abs(np.diff(means)) > _MISSING_RESCALE[0] / 2).tolist():
        before, after = (
            np.quantile(values[index][is_used[index]], _QUANTILES)
            for index in used[first : first + 2]
        )
        offset = after - before
        is_missing = (np.abs(offset) > _MISSING_RESCALE[0]) & (np.abs(offset) < _MISSING_RESCALE[1])
        if is_missing.all() and np.unique(np.sign(offset)).size == 1:
            raise UnusableScan(
                f"does not look like HU: all values of plane {used[first + 1]} lie about "
                f"{np.abs(offset).mean():.0f} from those of the plane before, as where the rescale "
                "is missing in a part; convert the scan again from its source",
                "not HU",
            )
