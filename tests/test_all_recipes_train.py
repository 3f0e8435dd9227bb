"""Every recipe, merged into params.yaml, trains. Here with random weights and small volumes."""

from pathlib import Path

import pytest

from lite0_weights import BACKBONE, save_lite0
from multi_abnormality.config.schema import parse_params
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import load_complete
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.stages import evaluate, export
from multi_abnormality.tools.recipe import merge_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def test_there_are_recipes():
    assert [path.stem for path in RECIPES] == [
        "challenge",
        "frozen-encoder",
        "sample",
        "seed",
        "t4-colab",
        "winner-2026",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_trains(path: Path, small_set, small_params, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(path.parent.parent)
    recipe = parse_params(merge_recipe(path.stem).text, path)
    small = {
        "epochs": 2,
        "schedule_epochs": 4,
        "batch_size": 4,
        "slices_per_volume": 4,
        "warmup_epochs": 0.5,
    }
    params = recipe.model_copy(
        update={
            "preprocess": small_params.preprocess,
            "model": recipe.model.model_copy(update={"pretrained": False, "unfreeze_epoch": 1}),
            "train": recipe.train.model_copy(update=small | {"val_fraction": 0.3}),
            "machine": small_params.machine,
        }
    )
    places = RunPaths(
        tmp_path / "checkpoints",
        tmp_path / "logs",
        tmp_path / "history.csv",
        CheckpointArchive(tmp_path / "a", tmp_path / "b"),
    )
    history = TrainingRun(params, small_set, places).run()
    assert len(history.epochs) == 2
    assert load_complete(tmp_path / "checkpoints/best.ckpt")["complete"]


@pytest.mark.slow
def test_frozen_encoder_end_to_end_with_real_weights(
    small_set, small_params, tmp_path: Path, monkeypatch
):
    """ImageNet's weights of EfficientNet-Lite0: trained on features, scored and exported."""
    monkeypatch.chdir(RECIPES[0].parent.parent)
    recipe = parse_params(merge_recipe("frozen-encoder").text, RECIPES[0])
    weights = save_lite0(tmp_path / "lite0.pth")
    encoder = {"backbone": BACKBONE, "pretrained": str(weights), "encoder_chunk_size": None}
    shorter = {"epochs": 12, "schedule_epochs": 12, "batch_size": 4, "val_fraction": 0.3}
    faster = {"learning_rate": 1e-2}
    params = recipe.model_copy(
        update={
            "preprocess": small_params.preprocess,
            "model": recipe.model.model_copy(update=encoder),
            "train": recipe.train.model_copy(update=shorter | faster),
            "evaluate": small_params.evaluate,
            "machine": small_params.machine,
        }
    )
    metrics = tmp_path / "metrics"
    paths = RunPaths(
        tmp_path / "checkpoints",
        tmp_path / "logs",
        metrics / "history.csv",
        CheckpointArchive(tmp_path / "a", tmp_path / "b"),
    )
    history = TrainingRun(params, small_set, paths).run()
    losses = [epoch.train_loss for epoch in history.epochs]
    assert losses[-1] < 0.95 * losses[0]
    assert list(tmp_path.glob("features/*/*.safetensors"))
    scores = evaluate.run(params, paths.checkpoints, small_set.root, metrics)
    assert scores["counts"]["scans"] == 8
    folders = paths.checkpoints, small_set.root, metrics
    differences = export.run(params, *folders, tmp_path / "model_weights")
    assert differences
    assert (tmp_path / "model_weights/model_info.json").is_file()
