"""Exported files, run without this package where possible."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.evaluation.calibration import Calibration
from multi_abnormality.export import formats
from multi_abnormality.export.calibrated_classifier import CalibratedClassifier
from multi_abnormality.models.factory import build_classifier

SHAPE = (8, 32, 32)
INFO = {"findings": list(FINDINGS)}
ABOUT = {
    "findings": list(FINDINGS),
    "preprocess": {
        "shape": SHAPE,
        "spacing": (7.0, 3.0, 3.0),
        "hu_to_uint8": ((-1024, 0), (240, 226), (1024, 255)),
    },
    "model": {
        "backbone": "test_efficientnet",
        "pretrained": False,
        "global_pool": "catavgmax",
        "multiscale": True,
        "attn_layer": "cbam",
        "encoder_chunk_size": None,
        "windows": ((-600.0, 1500.0), (40.0, 400.0)),
        "adjacent_slices": 3,
        "pooling": "transformer",
        "finetune": "full",
        "unfreeze_epoch": 0,
        "lora": {"rank": 1, "alpha": 1.0, "targets": ("qkv",)},
        "dropout": 0.2,
    },
    "pretrained_cfg": {  # so that files must have the normalization of pretrained weights
        "architecture": "test_efficientnet",
        "input_size": [3, 160, 160],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "sha256": "0" * 64,
    },
}

ALONE = """
import sys
import numpy as np
sys.modules["multi_abnormality"] = None  # importing it is an error
path, volumes = sys.argv[1], np.load(sys.argv[2])
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    outputs = ["probability", "threshold", "attention", "slice_logit"]
    results = session.run(outputs, {"volume": volumes})
else:
    import torch
    results = torch.export.load(path).module()(torch.from_numpy(volumes))
    results = [result.detach().numpy() for result in results]
np.savez(sys.argv[3], *results)
"""


@pytest.fixture(scope="module")
def model() -> CalibratedClassifier:
    """Random weights, running statistics and calibration."""
    torch.manual_seed(0)
    classifier = build_classifier(ABOUT).train()
    for _ in range(3):
        classifier(torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8))
    count = len(FINDINGS)
    lines = np.linspace(0.5, 2, count), np.linspace(-1, 1, count)
    counts, cuts = (np.ones(count), np.ones(count)), np.linspace(0.2, 0.7, count)
    return CalibratedClassifier(
        classifier, Calibration(FINDINGS, *lines, *counts, cuts, "f1")
    ).eval()


@pytest.fixture(scope="module")
def volumes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(model: CalibratedClassifier, volumes: np.ndarray) -> tuple[np.ndarray, ...]:
    return formats.run_module(model)(volumes)


@pytest.fixture(scope="module")
def folder(model: CalibratedClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_all(model, folder)
    return folder


def write_all(model: CalibratedClassifier, folder: Path) -> None:
    formats.write_pth(model, INFO, folder / "m.pth")
    formats.write_safetensors(model, INFO, folder / "m.safetensors")
    program = formats.trace(model, SHAPE)
    formats.write_pt2(program, INFO, folder / "m.pt2")
    formats.write_onnx(program, INFO, folder / "m.onnx")


def empty_model() -> CalibratedClassifier:
    lines = [np.zeros(len(FINDINGS))] * 4
    halves = np.full(len(FINDINGS), 0.5)
    return CalibratedClassifier(
        build_classifier(ABOUT), Calibration(FINDINGS, *lines, halves, "none")
    ).eval()


def test_weights_files_give_the_same_probabilities(folder, volumes, expected):
    for run, name in ((formats.run_pth, "m.pth"), (formats.run_safetensors, "m.safetensors")):
        probability, threshold, attention, alone = run(folder / name, empty_model)(volumes)
        np.testing.assert_array_equal(probability, expected[0])
        np.testing.assert_array_equal(threshold, 0.5)  # not in the file: the new model's own
        np.testing.assert_array_equal(attention, expected[2])
        np.testing.assert_array_equal(alone, expected[3])


def test_the_probability_is_the_calibrated_one(model, volumes, expected):
    logits = model.classifier(torch.from_numpy(volumes)).detach().numpy()
    calibrated = 1 / (1 + np.exp(-(np.linspace(0.5, 2, 18) * logits + np.linspace(-1, 1, 18))))
    np.testing.assert_allclose(expected[0], calibrated, atol=1e-6)
    np.testing.assert_allclose(expected[1], np.linspace(0.2, 0.7, 18), atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.pt2", "m.onnx"])
@pytest.mark.parametrize("batch", [1, 3])
def test_graphs_run_without_this_package(name, batch, folder, volumes, expected, tmp_path):
    np.save(tmp_path / "in.npy", volumes[:batch])
    arguments = [folder / name, tmp_path / "in.npy", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True, cwd=tmp_path)
    results = np.load(tmp_path / "out.npz")
    probability, threshold, attention, alone = (results[f"arr_{number}"] for number in range(4))
    np.testing.assert_allclose(probability, expected[0][:batch], atol=1e-5)
    np.testing.assert_array_equal(threshold, expected[1])
    np.testing.assert_allclose(attention, expected[2][:batch], atol=1e-5)
    np.testing.assert_allclose(alone, expected[3][:batch], atol=1e-3)


def test_pth_holds_no_code(folder: Path):
    content = torch.load(folder / "m.pth", weights_only=True)
    assert json.loads(content["info"]) == INFO


@pytest.mark.slow
def test_same_bytes_from_elsewhere_and_no_path_of_this_machine(folder, model, tmp_path):
    """Exported by a process in another folder, from the weights alone."""
    elsewhere = tmp_path / "another folder"
    elsewhere.mkdir()
    weights = {**model.state_dict(), "thresholds": model.thresholds}  # no part of the weights
    torch.save(weights, elsewhere / "weights.pt")
    program = (
        "import sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "import test_formats as t; from pathlib import Path\n"
        "model = t.empty_model()\n"
        "weights = torch.load('weights.pt')\n"
        "model.thresholds.copy_(weights.pop('thresholds'))\n"
        "model.load_state_dict(weights)\n"
        "t.write_all(model, Path('.'))\n"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    subprocess.run(command, check=True, cwd=elsewhere)
    package = str(Path(formats.__file__).parents[3]).encode()
    for path in folder.iterdir():
        content = path.read_bytes()
        assert (elsewhere / path.name).read_bytes() == content, path.name
        assert package not in content, path.name
