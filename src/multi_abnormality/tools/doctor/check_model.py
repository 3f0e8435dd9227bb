"""Checks of the split and of the model, which is built as training builds it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from multi_abnormality.tools.doctor.context import (
    CheckResult,
    DoctorContext,
    captured_warnings,
    passed,
    warning,
)
from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from multi_abnormality.config.schema import Model, Params
    from multi_abnormality.models.classifier import VolumeClassifier


def check_model(context: DoctorContext) -> Iterator[CheckResult]:
    """Backbone, weights and fine-tuning; a checkpoint to resume from replaces the weights."""

    if context.params is None:
        return
    size, model = _make(context, context.params), context.params.model
    yield passed(
        f"{model.backbone}, {size / 1e6:.1f} M parameters; model.finetune is {model.finetune}"
    )
    if context.starts_from_scratch and model.pretrained is True:
        yield from _missing_weights(model)


def check_split(context: DoctorContext) -> Iterator[CheckResult]:
    """Whether the scans suffice, by training's own selection.

    It selects from the processed set, or from the tables of data/ if preprocess runs first.
    """
    from multi_abnormality.data.catalog.label_checks import (
        FEW_VALIDATION,
        describe_validation,
        has_enough_patients,
    )
    from multi_abnormality.data.catalog.volume_id import VAL
    from multi_abnormality.data.storage.dataset_writer import check_catalog_replaceable
    from multi_abnormality.data.storage.processed_dataset import ProcessedDataset, fold_split
    from multi_abnormality.training.debug_modes import apply_debug_overrides
    from multi_abnormality.training.volume_selection import select_volumes

    if context.params is None or (context.preprocesses and context.catalogue is None):
        return
    processed = context.root / "processed"
    if not processed.exists() and not (context.root / "data").exists():
        return  # check_data has reported it
    if context.preprocesses and context.catalogue:
        rows, findings = context.catalogue.volumes, context.catalogue.findings
        if (fold := context.params.data.fold) is not None:
            rows = rows.assign(split=fold_split(rows, fold))
        rows = rows[rows["split"].isin(("train", VAL))]
        recipe = context.params.preprocess.recipe
        check_catalog_replaceable(context.catalogue, context.root / "data", processed, recipe)
    else:
        stored = ProcessedDataset(processed, context.params.data.fold)
        rows, findings = stored.volumes("train"), stored.findings
    with captured_warnings():  # check_model reports a debug run
        params = apply_debug_overrides(context.params)
    selection = select_volumes(params, rows, findings, context.devices)
    yield passed(
        f"{len(selection.train)} training volumes, {len(selection.validation)} validation volumes"
    )
    yield from map(warning, selection.warnings)
    if params.train.debug == "none":
        held_out = rows.set_index("name").loc[list(selection.validation)]
        labels, patients = held_out[list(findings)].to_numpy(), held_out["patient_id"].tolist()
        if len(set(patients)) < FEW_VALIDATION or not has_enough_patients(labels, patients).all():
            choice = describe_validation(labels, patients)
            yield warning(f"the best epoch will be chosen on {choice}")


def _make(context: DoctorContext, params: "Params") -> int:
    """Build the model as training does, and return its number of parameters."""
    from multi_abnormality.training.debug_modes import apply_debug_overrides
    from multi_abnormality.training.finetuning import FineTuning, check_finetuning, parameter_groups

    check_finetuning(params.model, params.train)
    params = apply_debug_overrides(params)
    metadata = {
        "findings": params.data.names,
        "preprocess": params.preprocess.recipe.model_dump(mode="json"),
        "model": params.model.model_dump(mode="json"),
    }
    classifier = _build(metadata, context, params.model)
    FineTuning(classifier, params.model)
    parameter_groups(classifier, params.model, params.train.weight_decay, params.train.layer_decay)
    return sum(parameter.numel() for parameter in classifier.parameters())


def _build(metadata: dict[str, Any], context: DoctorContext, model: "Model") -> "VolumeClassifier":
    """Build it with weights that are on this machine, or else without weights."""
    import torch

    from multi_abnormality.models.factory import build_classifier
    from multi_abnormality.models.pretrained_weights import find_pretrained, missing_source
    from multi_abnormality.runtime.resume_decision import recorded_pretrained_cfg

    weights = None
    if context.starts_from_scratch and not missing_source(model):
        cfg, weights = find_pretrained(model, root=context.root)
        metadata["pretrained_cfg"] = cfg.to_dict() if cfg else None
    elif not context.starts_from_scratch:
        metadata["pretrained_cfg"] = recorded_pretrained_cfg(model, context.root / "checkpoints")
    elif model.pretrained is True:  # the configuration suffices
        cfg, _ = find_pretrained(model.model_copy(update={"pretrained": False}))
        metadata["pretrained_cfg"] = cfg.to_dict() if cfg else None
    if weights:
        return build_classifier(metadata, weights)
    try:
        with torch.device("meta"):
            return build_classifier(metadata)
    except (InputError, RuntimeError):  # "meta" lacks some operations
        return build_classifier(metadata)


def _missing_weights(model: "Model") -> Iterator[CheckResult]:
    """Warn if training would have to download the weights; download nothing."""
    from multi_abnormality.models.pretrained_weights import missing_source

    if source := missing_source(model):
        yield warning(
            f"model.pretrained: the weights of {model.backbone} are not on this machine; training "
            f"downloads them from {source}. Without a network, copy them here and set "
            "model.pretrained: PATH (docs/how-to/models.md)"
        )
