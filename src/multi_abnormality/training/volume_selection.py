"""Selection of a run's training and validation volumes."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from multi_abnormality.config.schema import Params
from multi_abnormality.data.catalog.splits import split_validation
from multi_abnormality.data.loading.train_dataset import group_samples
from multi_abnormality.training.debug_modes import debug_subset
from multi_abnormality.training.single_class_warnings import single_class_warnings
from multi_abnormality.training.val_metrics import findings_of_both_classes
from multi_abnormality.utils.errors import InputError


@dataclass(frozen=True)
class Selection:
    """Volumes of the train split that a run trains and validates on.

    Attributes:
        train: names of the training volumes.
        validation: names of the volumes of the held-out patients.
        samples: the training volumes of each sample, of which an epoch takes one.
        warnings: a line for all findings with only one class in one of the two parts.
    """

    train: list[str]
    validation: list[str]
    samples: list[list[str]]
    warnings: list[str]


def select_volumes(
    params: Params, rows: pd.DataFrame, findings: Sequence[str], devices: int = 1
) -> Selection:
    """Select the volumes of a run by the tables alone, before any is read.

    Args:
        params: of the run, with its debug settings applied.
        rows: a row per volume of the train split, of a processed set or of a catalogue.
        findings: names.
        devices: number of devices of the run.

    Raises:
        InputError: there are too few patients or scans, or no finding can be validated.
    """
    settings = params.train
    train, validation = split_validation(rows, findings, settings.val_fraction, params.seed)
    rows = rows.set_index("name")
    scans = rows["scan_id"].loc[[*train, *validation]].tolist()
    train, validation = debug_subset(params, train, validation, scans)
    samples = group_samples(train, rows["scan_id"].loc[train].tolist(), settings.reconstructions)
    if len(samples) < settings.batch_size:
        raise InputError(
            f"train.batch_size: {settings.batch_size} is more than the {len(samples)} "
            "scans there are to train on; lower it"
        )
    if len(validation) < devices:
        raise InputError(
            f"machine.devices: {devices} devices are more than the {len(validation)} "
            "volumes there are to validate on; raise train.val_fraction or use fewer"
        )
    labels = rows[list(findings)]
    validated = labels.loc[validation].to_numpy()
    findings_of_both_classes(torch.tensor(validated))
    trained = labels.loc[[volumes[0] for volumes in samples]].to_numpy()
    is_debug = settings.debug != "none"  # few scans have few findings
    warnings = [] if is_debug else single_class_warnings(findings, trained, validated)
    return Selection(train, validation, samples, warnings)
