"""Selection of a run's training and validation volumes."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from multi_abnormality.config.schema import Params
from multi_abnormality.data.catalog.single_class_findings import (
    lacks_a_class,
    single_class_warnings,
)
from multi_abnormality.data.catalog.splits import given_validation, split_validation
from multi_abnormality.data.catalog.volume_id import VAL
from multi_abnormality.data.loading.train_dataset import group_samples
from multi_abnormality.training.debug_modes import debug_subset
from multi_abnormality.training.val_metrics import findings_of_both_classes
from multi_abnormality.utils.errors import InputError


@dataclass(frozen=True)
class Selection:
    """Volumes of the train split that a run trains and validates on."""

    train: list[str]  # names of the training volumes
    validation: list[str]  # names of the volumes of the held-out patients
    samples: list[list[str]]  # training volumes of each sample, of which an epoch takes one
    # Findings without a positive or a negative training volume, left out of losses and metrics.
    untrained: list[str]
    warnings: list[str]  # a line for all findings with only one class in one of the two parts


def select_volumes(
    params: Params, rows: pd.DataFrame, findings: Sequence[str], devices: int = 1
) -> Selection:
    """Select the volumes of a run by the tables alone, before any is read.

    Args:
        params: of the run, with its debug settings applied.
        rows: a row per volume of the train split, of a processed set or of a catalogue; if some
            have the split val, these are the validation volumes.
        findings: names.
        devices: number of devices of the run.

    Raises:
        InputError: there are too few patients or scans, or no finding can be trained or validated.
    """
    settings = params.train
    if (rows["split"] == VAL).any():
        train, validation = given_validation(rows)
    else:
        seed = params.data.split_seed  # not `seed`: an ensemble of seeds needs common val scans
        train, validation = split_validation(rows, findings, settings.val_fraction, seed)
    rows = rows.set_index("name")
    scans = rows["scan_id"].loc[[*train, *validation]].tolist()
    train, validation = debug_subset(params, train, validation, scans)
    samples = group_samples(train, rows["scan_id"].loc[train].tolist(), settings.reconstructions)
    if len(samples) < settings.batch_size:
        raise InputError(
            f"train.batch_size: {settings.batch_size} is more than the {len(samples)} "
            f"scan{'s' * (len(samples) != 1)} to train on; lower it"
        )
    if len(validation) < devices:
        raise InputError(
            f"machine.devices: {devices} devices are more than the {len(validation)} "
            f"volume{'s' * (len(validation) != 1)} to validate on; use fewer, or more "
            "validation patients (train.val_fraction, or val in the table)"
        )
    labels = rows[list(findings)]
    validated = labels.loc[validation].to_numpy()
    trained = labels.loc[[volumes[0] for volumes in samples]].to_numpy()
    lacking = lacks_a_class(trained)
    if lacking.all():
        raise InputError(
            f"no finding has a positive and a negative among the {len(samples)} training scans, so "
            "none can be learned; use more patients"
        )
    findings_of_both_classes(torch.tensor(validated[:, ~lacking]))
    is_debug = settings.debug != "none"  # few scans have few findings
    warnings = [] if is_debug else single_class_warnings(findings, trained, validated)
    untrained = [name for name, missing in zip(findings, lacking, strict=True) if missing]
    return Selection(train, validation, samples, untrained, warnings)
