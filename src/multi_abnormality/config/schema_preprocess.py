"""Section `preprocess` of params.yaml."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator

from multi_abnormality.config.base import Count, Positive, Section


class PreprocessSpec(Section):
    """Form of a stored volume. Axes are (Z, Y, X), towards head, back and left."""

    spacing: tuple[Positive, Positive, Positive]  # mm
    shape: tuple[Count, Count, Count]  # voxels
    hu_to_uint8: tuple[tuple[int, int], ...] = Field(min_length=2)  # (HU, 8-bit code) knots

    @field_validator("hu_to_uint8")
    @classmethod
    def rise(cls, knots: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        hu, codes = zip(*knots, strict=True)
        rising = all(a < b for column in (hu, codes) for a, b in pairwise(column))
        if not rising or codes[0] != 0 or codes[-1] != 255:
            raise ValueError("must rise in both columns, its codes from 0 to 255")
        return knots


class Preprocess(PreprocessSpec):
    """PreprocessSpec, and how to handle unusable volumes."""

    on_error: Literal["stop", "skip"]  # at unusable volumes

    @property
    def recipe(self) -> PreprocessSpec:
        """The settings that stored volumes depend on."""
        return PreprocessSpec(**{name: getattr(self, name) for name in PreprocessSpec.model_fields})
