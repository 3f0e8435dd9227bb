"""HU as codes of 8 bits, and back: the recipe's knots, with straight lines between them."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from multi_abnormality.params_preprocess import Recipe

STEPS_PER_HU = 8  # of the table from HU to codes


def code_table(recipe: "Recipe") -> np.ndarray:
    """(256,) float32: the HU of each code, linear between the knots."""
    hu, codes = zip(*recipe.hu_codes, strict=True)
    table: np.ndarray = np.interp(np.arange(256), codes, hu)
    return table.astype(np.float32)


def encoding_table(recipe: "Recipe") -> np.ndarray:
    """(T,) uint8: the code at each eighth of a HU, from the lowest knot to the highest.

    Looking up is several times as fast as interpolating, and rounding to the eighth takes away
    what float32 sums leave behind: whole HU have exactly their code.
    """
    hu, codes = zip(*recipe.hu_codes, strict=True)
    steps = np.arange((hu[-1] - hu[0]) * STEPS_PER_HU + 1)
    table: np.ndarray = np.rint(np.interp(hu[0] + steps / STEPS_PER_HU, hu, codes))
    return table.astype(np.uint8)
