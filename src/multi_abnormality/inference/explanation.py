"""Explanation of a scan's positive findings: slices and heat maps in the scan's own grid."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.evaluation.body_mask import heat_outside
from multi_abnormality.evaluation.slice_rendering import in_scan
from multi_abnormality.inference.occlusion import heat_maps
from multi_abnormality.inference.onnx_model import SLICE_LOGIT
from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from multi_abnormality.data.io.read import Volume
    from multi_abnormality.inference.onnx_model import Finding, Model, Prediction


@dataclass(frozen=True, eq=False)
class ExplainedFinding:
    """What the decision on a positive finding rests on. Slices are the scan's own, from the feet.

    Attributes:
        finding: name, probability, threshold.
        slice: index of the slice with the most evidence.
        first, last: slices that the model saw as this one, which the heat map is of.
        heat: (Y, X) float32 from 0 to 1, at the scan's own resolution.
        outside: fraction of the heat outside of the body.
        attention: fraction of the attention on these slices.
        padding: fraction of the attention outside of the scan.
    """

    finding: "Finding"
    slice: int
    first: int
    last: int
    heat: np.ndarray
    outside: float
    attention: float
    padding: float

    @property
    def peak(self) -> tuple[int, int] | None:
        """Row and column of the highest heat; None if the heat is 0 everywhere."""
        if not self.heat.any():
            return None
        row, column = np.unravel_index(self.heat.argmax(), self.heat.shape)
        return int(row), int(column)


def require_explainable(model: "Model") -> None:
    """Refuse a model without logits of slices.

    Raises:
        InputError: it is an ensemble, or was exported before they were an output.
    """
    if model.path.suffix != ".onnx":
        raise InputError(
            f"{model.path.parent}: is an ensemble, whose members have heat maps of their own; "
            "explain one of them: --model with its .onnx file in that folder"
        )
    if not model.has_slice_logits:
        raise InputError(
            f"{model.path}: has no output {SLICE_LOGIT}, which --explain needs: it was exported "
            "by an earlier version; export it again by `dvc repro --force export`"
        )


def explain_scan(
    model: "Model", volume: "Volume", prediction: "Prediction"
) -> list[ExplainedFinding]:
    """Explain the positive findings of a scan, in the model's order.

    Args:
        model: model with logits of slices.
        volume: the scan.
        prediction: prediction of that volume.
    """
    positive = [index for index, one in enumerate(prediction.findings) if one.positive]
    assert prediction.slice_logits is not None
    assert prediction.codes is not None
    inside = in_scan(prediction.codes)
    evidence = prediction.attention / (1 + np.exp(-prediction.slice_logits.clip(-80, 80)))
    best = np.where(inside, evidence, -1).argmax(axis=1)
    explained = {}
    for z in sorted({int(best[index]) for index in positive}):
        columns = [index for index in positive if best[index] == z]
        maps = heat_maps(
            lambda codes: model.run(prediction.scan, codes)[SLICE_LOGIT],
            prediction.codes,
            z,
            columns,
            model.card.adjacent_slices,
        )
        for index, heat in zip(columns, maps, strict=True):
            attention = prediction.attention[index]
            explained[index] = ExplainedFinding(
                finding=prediction.findings[index],
                heat=_in_plane(heat, volume, model.spacing),
                outside=heat_outside(heat, prediction.volume[z]),
                attention=float(attention[z]),
                padding=float(attention[~inside].sum()),
                **_own_slices(z, len(attention), volume, model.spacing),
            )
    return [explained[index] for index in positive]


def _own_slices(
    z: int, depth: int, volume: "Volume", spacing: tuple[float, float, float]
) -> dict[str, int]:
    """Return the scan's own slice at the middle of one of the model's, and the first and last."""
    count = len(volume.hu)
    offset = _model_indices(count, volume.spacing[0], depth, spacing[0]) - z
    covered = np.flatnonzero(np.abs(offset) <= 0.5)
    middle = int(np.abs(offset).argmin())
    if not covered.size:  # the scan's slices are thicker
        covered = np.array([middle])
    return {"slice": middle, "first": int(covered[0]), "last": int(covered[-1])}


def _in_plane(
    heat: np.ndarray, volume: "Volume", spacing: tuple[float, float, float]
) -> np.ndarray:
    """Interpolate a heat map (Y, X) of the model's grid in the scan's own, linearly; 1 at most."""
    for axis in (0, 1):
        count, depth = volume.hu.shape[axis + 1], heat.shape[axis]
        index = _model_indices(count, volume.spacing[axis + 1], depth, spacing[axis + 1])
        within = np.abs(index - (depth - 1) / 2) <= depth / 2
        low = np.floor(index.clip(0, depth - 1)).astype(int)
        fraction = np.expand_dims(index.clip(0, depth - 1) - low, 1 - axis)
        above = heat.take((low + 1).clip(0, depth - 1), axis=axis)
        between = (1 - fraction) * heat.take(low, axis=axis) + fraction * above
        heat = between * np.expand_dims(within, 1 - axis)
    highest = heat.max()
    return (heat / highest if highest > 0 else heat).astype(np.float32)


def _model_indices(count: int, mm: float, depth: int, model_mm: float) -> np.ndarray:
    """Return the position (count,) of the scan's slices among `depth` slices of the model.

    Both have the same middle (resample_and_quantize).
    """
    index: np.ndarray = (np.arange(count) - (count - 1) / 2) * mm / model_mm + (depth - 1) / 2
    return index
