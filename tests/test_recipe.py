"""Recipes applied to a user's params.yaml: the user's own settings are preserved byte by byte."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from multi_abnormality.config.schema import load_params
from multi_abnormality.tools.recipe import KEPT, KEPT_EXPORT, RECIPES, apply_recipe
from multi_abnormality.utils.errors import InputError
from test_pipeline import ROOT

# A user's own data section: quotes, a list over several lines, odd spaces, comments everywhere.
DATA = """\
data:   # mine
  table:   "labels.csv"   # of 2024
  findings:      # as in the table
      - 'Erguss'
      # not yet: Fibrose
      - "No"
  scans: .
  columns: {scan: Aufnahme, patient: Person, split: null,
            manufacturer: null, kernel: null, sex: null, age:    }
  # the clinic asked for a quarter
  test_fraction: 0.25
  split_seed: 7
"""


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's params.yaml with a user's own data, machine and comments."""
    shutil.copytree(ROOT / RECIPES, tmp_path / RECIPES)
    text = (ROOT / "params.yaml").read_text()
    text = re.sub(r"(?ms)^data:.*?(?=^\w)", DATA, text)
    text = text.replace("seed: 0", "seed: 3").replace("workers: auto", "workers: 2")
    text = text.replace("encoder_chunk_size: null", "encoder_chunk_size:").replace(
        "train:", "# Mine.\ntrain:"
    )
    text = re.sub(r"(?m)^  (name|owner|license|contact): null", r"  \1: My \1", text)
    text = text.replace("targets: [qkv, proj]", "targets:\n      - qkv  # one\n      - proj")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    load_params()
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / RECIPES).glob("*.yaml")))
def test_a_recipe_changes_only_how_to_train(params: Path, name: str):
    before = load_params()
    lines = apply_recipe(name)
    recipe, after = load_params(RECIPES / f"{name}.yaml"), load_params()
    own = {key: getattr(before, key) for key in KEPT}
    named = {key: getattr(before.export, key) for key in KEPT_EXPORT}
    assert named == {key: f"My {key}" for key in KEPT_EXPORT}
    own["export"] = recipe.export.model_copy(update=named)
    assert after == recipe.model_copy(update=own)
    text = params.read_text()
    assert DATA in text
    assert "\n# Mine.\ntrain:" in text
    assert "# volumes\n" in text
    assert any(re.fullmatch(r"train.learning_rate: 2e-3 -> \de-[45]", line) for line in lines)
    assert apply_recipe(name) == [line for line in lines if line.startswith("machine.")]
    assert params.read_text() == text


def test_all_bytes_but_the_values_are_preserved(params: Path):
    """Also line breaks of Windows; comments stay in their columns."""
    text = params.read_bytes().replace(b"\n", b"\r\n")
    params.write_bytes(text)
    lines = apply_recipe("challenge")
    changed = {line.partition(":")[0].rpartition(".")[2] for line in lines}
    pairs = zip(text.split(b"\r\n"), params.read_bytes().split(b"\r\n"), strict=False)
    first = [(old, new) for old, new in pairs if not new.strip().startswith(b"targets")]
    for old, new in first[: first.index((b"    alpha: 16.0", b"    alpha: 16.0"))]:
        key = new.decode().partition(":")[0].strip()
        assert old == new or key in changed
    assert b"  encoder_chunk_size: 64" in params.read_bytes()
    assert b"  finetune: lora                  # of the backbone" in params.read_bytes()


def test_a_dry_run_changes_nothing(params: Path):
    before = params.read_bytes()
    command = [sys.executable, "-m", "multi_abnormality", "recipe", "t4-colab", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "model.backbone: resnet10t -> efficientnet_b0\n" in done.stdout
    assert "machine.max_time: stays null; the recipe has 3h30m\n" in done.stdout
    assert params.read_bytes() == before


@pytest.mark.usefixtures("params")
def test_an_unknown_recipe_is_an_error_with_the_available_names(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no recipe 't4'; there are challenge, seed, t4-colab"):
        apply_recipe("t4")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match="run in the project's folder"):
        apply_recipe("seed")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs: 16\n", "  epochs: 16\n  epoch: 3\n", "train.epoch: unknown key"),
        ("  epochs: 16\n  schedule_epochs: 16", "  epochs: &n 16\n  schedule_epochs: *n",
         "without anchors and aliases"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_edited_is_unchanged(params: Path, old, new, message):
    text = params.read_text()
    assert old in text
    params.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        apply_recipe("t4-colab")
    assert params.read_text() == text.replace(old, new)
