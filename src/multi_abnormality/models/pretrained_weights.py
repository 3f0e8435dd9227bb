"""Finds a backbone's weights and their configuration: on the hub, in a folder, or as a file."""

from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import yaml
from huggingface_hub import metadata_load
from timm.models._hub import download_cached_file, load_model_config_from_path

from multi_abnormality.config.field_types import HF_HUB, HUB_MODEL
from multi_abnormality.config.schema import Model
from multi_abnormality.models.backbones import check_name
from multi_abnormality.models.hub_files import HubRepository, file_sha256
from multi_abnormality.models.pretrained_cfg import PretrainedCfg
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the names that timm looks for
CONFIG, README = "config.json", "README.md"
# Arguments of timm.create_model, which name files: a configuration must not set them.
_RESERVED_ARGS = set(timm.create_model.__code__.co_varnames)
# Repositories known to be trained on CT-RATE, whether or not they state it.
_NOT_KNOWN = "not known"
_TRAINED_ON_CT_RATE = ("kentucky-open-science/dale-ct",)


class Pretrained(NamedTuple):
    """Weights of a backbone.

    Attributes:
        cfg: their description; None for random weights of one of timm's networks.
        file: None for random weights.
    """

    cfg: PretrainedCfg | None
    file: Path | None


class _Files(NamedTuple):
    """Files of a repository, or of a copy of it, and the metadata of its model card."""

    config: Path | None
    card: dict[str, Any]
    weights: Path | None
    source: str
    revision: str | None = None


def find_pretrained(
    model: Model, recorded: PretrainedCfg | None = None, root: Path = Path()
) -> Pretrained:
    """Find the weights that parameters request, and download them if necessary.

    Args:
        model: model section of params.yaml.
        recorded: description of these weights in a checkpoint, which pins commit and hash.
        root: directory that a path in model.pretrained is relative to.

    Raises:
        InputError: the weights cannot be found or read, or are not the requested or recorded ones.
    """
    if not is_on_hub(model.backbone):
        check_name(model.backbone)
        if model.pretrained is False:
            return Pretrained(None, None)
    if isinstance(model.pretrained, str):
        files = _local_files(root / model.pretrained)
    else:
        files = _remote_files(model, recorded)
    if is_on_hub(model.backbone):
        content = _read_config(files.config, model)
    else:
        default = timm.get_pretrained_cfg(model.backbone) or timm.models.PretrainedCfg()
        content = {"architecture": model.backbone} | {
            key: getattr(default, key) for key in ("input_size", "mean", "std")
        }
        if model.pretrained is True:
            content["license"] = default.license
    content |= _stated(files.card, content.get("license"), model.backbone)
    content |= model.pretrained_cfg_overlay.model_dump(exclude_none=True)
    sha256 = file_sha256(files.weights) if files.weights else None
    cfg = PretrainedCfg(**content, source=files.source, revision=files.revision, sha256=sha256)
    _check_pins(cfg, model.pretrained_sha256, recorded)
    return Pretrained(cfg, files.weights)


def is_on_hub(backbone: str) -> bool:
    """Whether model.backbone names a repository on the hub instead of one of timm's models."""
    return HUB_MODEL.fullmatch(backbone) is not None


def missing_source(model: Model) -> str | None:
    """Return where training would download the weights from; None if they are on this machine."""
    if model.pretrained is not True:
        return None
    if not is_on_hub(model.backbone):
        check_name(model.backbone)
    if repository := _repository(model.backbone):
        return None if repository.cached(WEIGHTS) else f"huggingface.co/{repository.repo}"
    default = timm.get_pretrained_cfg(model.backbone)
    if default is None or not default.url:
        return None  # find_pretrained raises
    cached = Path(torch.hub.get_dir()) / "checkpoints" / str(default.url).rpartition("/")[2]
    return None if cached.is_file() else str(default.url)


def _repository(backbone: str, recorded: PretrainedCfg | None = None) -> HubRepository | None:
    """Return the repository of a backbone's weights, at the recorded commit if there is one."""
    if match := HUB_MODEL.fullmatch(backbone):
        repo, revision = match["repo"], match["revision"]
    else:
        default = timm.get_pretrained_cfg(backbone)
        if default is None or not default.hf_hub_id:
            return None
        repo, _, revision = default.hf_hub_id.partition("@")
    return HubRepository(repo, (recorded and recorded.revision) or revision or "main")


def _remote_files(model: Model, recorded: PretrainedCfg | None) -> _Files:
    """Download what is not on this machine: configuration and model card, then the weights."""
    repository = _repository(model.backbone, recorded)
    if repository is None:
        return _from_address(model.backbone)
    requested = repository.revision
    config = repository.fetch([CONFIG])
    weights = repository.fetch(WEIGHTS) if model.pretrained is True else None
    if model.pretrained is True and weights is None:
        raise InputError(f"model.backbone: {repository} has no {' or '.join(WEIGHTS)}")
    try:
        card = _read_card(repository.fetch([README]))
    except InputError as error:  # the others were in the cache
        card = _unknown_card(error)
    if is_on_hub(model.backbone) and repository.revision != requested:
        log.warning(
            "model.backbone: %s of %s is commit %s; name the commit instead, so that other runs "
            "use the same weights", requested, repository.repo, repository.revision,
        )  # fmt: skip
    return _Files(config, card, weights, repository.repo, repository.revision)


def _from_address(backbone: str) -> _Files:
    """Download weights that timm has only an address of."""
    default = timm.get_pretrained_cfg(backbone)
    if default is None or not default.url:
        raise InputError(
            f"model.pretrained: timm has no weights of {backbone}; set it to false, or to the path "
            "of a weights file"
        )
    try:
        return _Files(None, {}, Path(download_cached_file(default.url)), str(default.url))
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"model.pretrained: {default.url} cannot be downloaded ({error}); copy the file here, "
            "and set model.pretrained to its path"
        ) from error


def _local_files(path: Path) -> _Files:
    """Return a weights file, or the files of a folder with a copy of a repository."""
    if path.is_file():
        card = _read_card(path.with_name(README))
        return _Files(path.with_name(CONFIG), card, path, path.name)
    if not path.is_dir():
        raise InputError(f"model.pretrained: file not found: {path}")
    found = [path / name for name in WEIGHTS if (path / name).is_file()]
    if not found:
        raise InputError(f"model.pretrained: {path} has no {' or '.join(WEIGHTS)}")
    return _Files(path / CONFIG, _read_card(path / README), found[0], path.name)


def _read_config(path: Path | None, model: Model) -> dict[str, Any]:
    """Read a repository's config.json, in any of timm's forms."""
    if path is None or not path.is_file():
        raise InputError(
            f"model.backbone: {model.backbone} has no {path or CONFIG}; add the repository's, or "
            "set model.backbone to timm's name of the network"
        )
    try:
        default, architecture, model_args = load_model_config_from_path(path.parent)
        content = {key: default.get(key) for key in ("input_size", "mean", "std")}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            f"model.backbone: {path} is not a configuration of timm's ({error!r}); set "
            "model.backbone to timm's name of the network, and model.pretrained to its weights"
        ) from error
    if reserved := sorted(_RESERVED_ARGS & model_args.keys()):
        raise InputError(f"model.backbone: {path} must not set {', '.join(reserved)}")
    check_name(str(architecture))
    return content | {
        "architecture": architecture,
        "model_args": model_args,
        "fixed_input_size": default.get("fixed_input_size") or False,
        "license": default.get("license"),
    }


def _read_card(path: Path | None) -> dict[str, Any]:
    """Return the metadata of a model card; licence and training data are "not known" on errors."""
    if path is None or not path.is_file():
        return {}
    try:
        return metadata_load(path) or {}
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        return _unknown_card(f"the metadata of {path} cannot be read ({error})")


def _unknown_card(reason: object) -> dict[str, Any]:
    log.warning("licence and training data of the weights are not known: %s", reason)
    return dict.fromkeys(("license", "datasets"), _NOT_KNOWN)


def _stated(card: dict[str, Any], configured: object, backbone: str) -> dict[str, Any]:
    """Return licence and training data as the model card or configuration states, or as known."""
    terms = card.get("license") or configured
    if terms == _NOT_KNOWN and configured:
        terms = f"{_NOT_KNOWN}; {', '.join(_strings(configured))} by the configuration"
    if terms == "other":
        link = card.get("license_link")
        terms = card.get("license_name") or (f"other, see {link}" if link else terms)
    datasets = _strings(card.get("datasets"))
    if backbone.lower().removeprefix(HF_HUB).startswith(_TRAINED_ON_CT_RATE):
        datasets.append("CT-RATE")
    return {
        "license": ", ".join(_strings(terms)) or None,
        "datasets": list(dict.fromkeys(datasets)),
    }


def _strings(value: object) -> list[str]:
    """Return the items of a list, or a value of its own, as strings."""
    return [str(item) for item in (value if isinstance(value, list) else [value]) if item]


def _check_pins(cfg: PretrainedCfg, sha256: str | None, recorded: PretrainedCfg | None) -> None:
    """Refuse other weights than those that parameters or a checkpoint name by their hash."""
    if sha256 and cfg.sha256 and cfg.sha256 != sha256:
        raise InputError(
            f"model.pretrained_sha256: is {sha256}, but the weights of {cfg.source} have the "
            f"SHA-256 {cfg.sha256}; use the right file, or correct the parameter"
        )
    if recorded and recorded.revision and recorded.sha256 and cfg.sha256 != recorded.sha256:
        raise InputError(
            f"model.backbone: the weights of {cfg.source}@{cfg.revision} have the SHA-256 "
            f"{cfg.sha256}, but checkpoints/ names {recorded.sha256}: the hub serves other bytes. "
            "Check HF_ENDPOINT; to train with these weights, delete checkpoints/"
        )
