"""The model that a training would make, made once as training makes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multi_abnormality.doctor.house import DOUBT, FAULT, WELL, House, Seen
from multi_abnormality.doctor.listen import warnings_kept

if TYPE_CHECKING:
    from multi_abnormality.model.classifier import VolumeClassifier
    from multi_abnormality.params import Params


def look_at_model(house: House) -> Iterator[Seen]:
    """Backbone, weights and what learns of them, after the checkpoint that spares the weights."""
    from multi_abnormality.errors import InputError

    if house.params is None:
        return
    with warnings_kept() as told:
        try:
            size = _make(house, house.params)
        except InputError as error:
            yield Seen(FAULT, "model", str(error))
            return
    model = house.params.model
    text = f"{model.backbone}, {size / 1e6:.1f} M parameters; model.finetune is {model.finetune}"
    if house.starts_anew and model.pretrained is True and (lacking := _not_here(model.backbone)):
        told.append(lacking)
    yield Seen(WELL, "model", text)
    for line in told:
        yield Seen(DOUBT, "model", line)


def look_at_split(house: House) -> Iterator[Seen]:
    """Whether the scans suffice, by training's own selection of them.

    From the processed set, or from the tables of data/ where preprocess runs first.
    """
    from multi_abnormality.data.store import ProcessedSet
    from multi_abnormality.data.store_recipe import check_catalogue_replaceable
    from multi_abnormality.errors import InputError
    from multi_abnormality.training.debug import settle
    from multi_abnormality.training.volumes import select_volumes

    if house.params is None or (house.preprocesses and house.catalogue is None):
        return
    processed = house.root / "processed"
    try:
        if house.preprocesses and house.catalogue:
            rows, findings = house.catalogue.volumes, house.catalogue.findings
            rows = rows[rows["split"] == "train"]
            check_catalogue_replaceable(
                house.catalogue, house.root / "data", processed, house.params.preprocess.recipe
            )
        else:
            stored = ProcessedSet(processed)
            rows, findings = stored.volumes("train"), stored.findings
        with warnings_kept():  # settle's: look_at_model reports it
            params = settle(house.params)
        selection = select_volumes(params, rows, findings, house.devices)
    except InputError as error:
        yield Seen(FAULT, "split", str(error))
        return
    yield Seen(WELL, "split", f"{len(selection.train)} volumes to train on, "
               f"{len(selection.validation)} to validate on")  # fmt: skip
    for warning in selection.warnings:
        yield Seen(DOUBT, "split", warning)


def _make(house: House, params: "Params") -> int:
    """Make it as training does; how many parameters it has.

    Raises:
        InputError: training can't.
    """
    from multi_abnormality.training.debug import settle
    from multi_abnormality.training.finetuning import (
        FineTuning,
        check_finetuning,
        parameter_groups,
    )

    check_finetuning(params.model, params.train)
    params = settle(params)
    about = {
        "findings": params.data.names,
        "preprocess": params.preprocess.recipe.model_dump(mode="json"),
        "model": params.model.model_dump(mode="json"),
    }
    classifier = _build(about, params.model.pretrained if house.starts_anew else False, house.root)
    FineTuning(classifier, params.model)
    parameter_groups(classifier, params.model, params.train.weight_decay, params.train.layer_decay)
    return sum(parameter.numel() for parameter in classifier.parameters())


def _build(about: dict[str, Any], pretrained: bool | str, root: Path) -> "VolumeClassifier":
    """With weights from a file as training reads them, without any where they make no fault."""
    import timm
    import torch

    from multi_abnormality.errors import InputError
    from multi_abnormality.model.build import build

    backbone = about["model"]["backbone"]
    if isinstance(pretrained, str):
        return build(about, str(root / pretrained))
    try:
        with torch.device("meta"):
            classifier = build(about)
    except (InputError, RuntimeError):  # "meta" lacks operations: what counts is the real one
        classifier = build(about)
    config = timm.get_pretrained_cfg(backbone) if pretrained else None
    if pretrained and not (config and config.has_weights):
        return build(about, True)  # no network is asked: timm refuses at once
    return classifier


def _not_here(backbone: str) -> str | None:
    """What is said where timm's weights would have to be fetched; nothing is fetched for it."""
    import timm
    import torch
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(backbone)
    if config is None:  # build refuses it
        return None
    if not config.hf_hub_id:
        place = str(config.url)
        name = place.rpartition("/")[2]
        is_here = (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()
    else:
        place, _, revision = config.hf_hub_id.partition("@")
        names = {config.hf_hub_filename or "model.safetensors", "pytorch_model.bin"}
        kept = [
            try_to_load_from_cache(place, name, revision=revision or None) for name in sorted(names)
        ]
        is_here = any(isinstance(path, str) for path in kept)
        place = f"huggingface.co/{place}"
    if is_here:
        return None
    return (
        f"model.pretrained: timm's weights of {backbone} are not on this machine; training fetches "
        f"them from {place}, and fails where there is no network: then bring a file and set "
        "model.pretrained: PATH (docs/models.md)"
    )
