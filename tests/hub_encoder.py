"""A repository with a one-channel encoder of 32 x 32 pixels, for the hub's stand-in."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from hub_stand_in import COMMIT, TOKEN

REPO = "Example-Lab/chest-encoder"
CONFIG = {
    "architecture": "test_vit",
    "model_args": {"in_chans": 1, "img_size": 32},
    "pretrained_cfg": {
        "input_size": [1, 32, 32],
        "fixed_input_size": True,
        "mean": [0.3],
        "std": [0.2],
        "num_classes": 0,
        "license": "apache-2.0",
    },
}
CARD = """---
license: cc-by-nc-sa-4.0
datasets:
- ibrahimhamamci/CT-RATE
---
An encoder of chest CT.
"""


def make_repository(folder: Path) -> Path:
    """Write configuration, model card and random weights, and return the folder."""
    folder.mkdir()
    save_weights(folder / "model.safetensors", "test_vit", in_chans=1, img_size=32, num_classes=0)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "README.md").write_text(CARD)
    return folder


def save_weights(path: Path, backbone: str, seed: int = 1, **options: Any) -> Path:
    torch.manual_seed(seed)
    safetensors.torch.save_file(timm.create_model(backbone, **options).state_dict(), path)
    return path


def encoder_settings(revision: str = COMMIT) -> dict[str, Any]:
    """Return the parameters of `model` that choose the encoder."""
    return {
        "backbone": f"hf-hub:{REPO}@{revision}",
        "pretrained": True,
        "multiscale": False,
        "windows": ((-512.0, 1024.0),),  # code 0 is its lower end
        "adjacent_slices": 1,
    }


def direct(monkeypatch: pytest.MonkeyPatch, port: int, cache: Path) -> None:
    """Let huggingface_hub in this process use a hub on loopback."""
    endpoint = f"http://127.0.0.1:{port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
