"""The choices in params.yaml are those that are implemented."""

from typing import Literal, get_args, get_origin

import pytest

from multi_abnormality.config.schema import Evaluate, Export, Model, Section, Train
from multi_abnormality.data.transforms.augment import AUGMENTATIONS
from multi_abnormality.evaluation.threshold_selection import THRESHOLD_METRICS
from multi_abnormality.export.formats import FORMATS
from multi_abnormality.models.pooling import POOLINGS
from multi_abnormality.runtime.loggers.logger_registry import LOGGERS
from multi_abnormality.training.losses import LOSSES


def choices(annotation: object) -> tuple[str, ...]:
    """The values of a Literal, or of a tuple of one."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return choices(get_args(annotation)[0])


@pytest.mark.parametrize(
    ("section", "name", "registry"),
    [
        (Train, "loss", LOSSES),
        (Train, "augmentation", AUGMENTATIONS),
        (Train, "loggers", LOGGERS),
        (Model, "pooling", POOLINGS),
        (Evaluate, "threshold_metric", THRESHOLD_METRICS),
        (Export, "formats", FORMATS),
    ],
)
def test_the_choices_of_a_parameter_are_its_registry(section: Section, name: str, registry: dict):
    assert set(choices(section.model_fields[name].annotation)) == registry.keys()
