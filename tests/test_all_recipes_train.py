"""Every recipe, merged into params.yaml, trains. Here with random weights and small volumes."""

from pathlib import Path

import pytest

from multi_abnormality.config.schema import parse_params
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import load_complete
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.tools.recipe import merge_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def test_there_are_recipes():
    assert [path.stem for path in RECIPES] == ["challenge", "sample", "seed", "t4-colab"]


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
