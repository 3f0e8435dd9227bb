"""Preprocessing recipes for benchmarks."""

from multi_abnormality.config.schema import Preprocess


def full_size(recipe: Preprocess) -> Preprocess:
    """Return the recipe at the resolution of published CT-RATE models."""
    return recipe.model_copy(update={"spacing": (3.0, 1.5, 1.5), "shape": (112, 224, 224)})
