"""Checks of the split and of the model, which is built as training builds it."""

from collections.abc import Iterator
from pathlib import Path
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
    from multi_abnormality.config.schema import Params
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
        yield from _missing_weights(model.backbone)


def check_split(context: DoctorContext) -> Iterator[CheckResult]:
    """Whether the scans suffice, by training's own selection.

    It selects from the processed set, or from the tables of data/ if preprocess runs first.
    """
    from multi_abnormality.data.catalog.patient_counts import (
        FEW_VALIDATION,
        describe_validation,
        has_enough_patients,
    )
    from multi_abnormality.data.catalog.volume_id import VAL
    from multi_abnormality.data.storage.processed_dataset import ProcessedDataset, fold_split
    from multi_abnormality.data.storage.provenance import check_catalog_replaceable
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
    classifier = _build(
        metadata, params.model.pretrained if context.starts_from_scratch else False, context.root
    )
    FineTuning(classifier, params.model)
    parameter_groups(classifier, params.model, params.train.weight_decay, params.train.layer_decay)
    return sum(parameter.numel() for parameter in classifier.parameters())


def _build(metadata: dict[str, Any], pretrained: bool | str, root: Path) -> "VolumeClassifier":
    """Build it with the weights of a file, or without weights if timm has them."""
    import timm
    import torch

    from multi_abnormality.models.factory import build_classifier

    backbone = metadata["model"]["backbone"]
    if isinstance(pretrained, str):
        return build_classifier(metadata, str(root / pretrained))
    try:
        with torch.device("meta"):
            classifier = build_classifier(metadata)
    except (InputError, RuntimeError):  # "meta" lacks some operations
        classifier = build_classifier(metadata)
    config = timm.get_pretrained_cfg(backbone) if pretrained else None
    if pretrained and not (config and config.has_weights):
        return build_classifier(metadata, True)  # timm raises without network access
    return classifier


def _missing_weights(backbone: str) -> Iterator[CheckResult]:
    """Warn if timm would have to download the weights; download nothing."""
    import timm
    import torch
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(backbone)
    if config is None:  # check_model has reported it
        return
    if not config.hf_hub_id:
        source = str(config.url)
        name = source.rpartition("/")[2]
        is_cached = (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()
    else:
        source, _, revision = config.hf_hub_id.partition("@")
        names = {config.hf_hub_filename or "model.safetensors", "pytorch_model.bin"}
        cached = [
            try_to_load_from_cache(source, name, revision=revision or None)
            for name in sorted(names)
        ]
        is_cached = any(isinstance(path, str) for path in cached)
        source = f"huggingface.co/{source}"
    if not is_cached:
        yield warning(
            f"model.pretrained: timm's weights of {backbone} are not on this machine; training "
            f"fetches them from {source}. Without a network, copy a weights file here and set "
            "model.pretrained: PATH (docs/how-to/models.md)"
        )
