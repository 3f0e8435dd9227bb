"""Recipes to measure with."""

from multi_abnormality.params import Preprocess


def full_size(recipe: Preprocess) -> Preprocess:
    """The recipe at the resolution that published models of CT-RATE take."""
    return recipe.model_copy(update={"spacing": (3.0, 1.5, 1.5), "shape": (112, 224, 224)})
