"""8-bit quantization of HU, piecewise linear between the recipe's knots."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from multi_abnormality.config.schema import PreprocessSpec

STEPS_PER_HU = 8  # resolution of the table from HU to codes


def code_table(recipe: "PreprocessSpec") -> np.ndarray:
    """Return (256,) float32, the HU of each code."""
    hu, codes = zip(*recipe.hu_to_uint8, strict=True)
    table: np.ndarray = np.interp(np.arange(256), codes, hu)
    return table.astype(np.float32)


def encoding_table(recipe: "PreprocessSpec") -> np.ndarray:
    """Return (T,) uint8, the code of each eighth of a HU from the lowest knot to the highest.

    A lookup is several times as fast as interpolation, and rounding to eighths removes the rounding
    errors of float32 sums: whole HU get exactly their code.
    """
    hu, codes = zip(*recipe.hu_to_uint8, strict=True)
    steps = np.arange((hu[-1] - hu[0]) * STEPS_PER_HU + 1)
    table: np.ndarray = np.rint(np.interp(hu[0] + steps / STEPS_PER_HU, hu, codes))
    return table.astype(np.uint8)
