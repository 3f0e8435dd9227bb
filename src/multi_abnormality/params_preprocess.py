"""params.yaml's section on preprocessing: what a stored volume is."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator

from multi_abnormality.section import Count, Positive, Section


class Recipe(Section):
    """What a stored volume is. Axes are (Z, Y, X): to the head, to the back, to the left."""

    spacing: tuple[Positive, Positive, Positive]  # mm
    shape: tuple[Count, Count, Count]  # voxels
    hu_codes: tuple[tuple[int, int], ...] = Field(min_length=2)  # (HU, 8-bit code) knots

    @field_validator("hu_codes")
    @classmethod
    def rise(cls, knots: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        hu, codes = zip(*knots, strict=True)
        rising = all(a < b for column in (hu, codes) for a, b in pairwise(column))
        if not rising or codes[0] != 0 or codes[-1] != 255:
            raise ValueError("must rise in both columns, its codes from 0 to 255")
        return knots


class Preprocess(Recipe):
    on_error: Literal["stop", "skip"]  # over volumes that cannot be used

    @property
    def recipe(self) -> Recipe:
        """The part of it that stored volumes depend on."""
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})
