"""Recipes applied to a user's params.yaml: the user's own settings are preserved byte by byte."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from multi_abnormality.config.schema import load_params
from multi_abnormality.config.yaml_edit import flatten
from multi_abnormality.tools.recipe import (
    DEFAULT,
    KEPT_EXPORT,
    RECIPES,
    closest_recipe,
    merge_recipe,
    recipe,
)
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
  sheet:
  values: {positive: [1, ja], negative: [0], uncertain: [], missing: [""]}   # as in the table
  uncertain: missing
  scans: .
  columns: {scan: Aufnahme, patient: Person, split: null,
            manufacturer: null, kernel: null, sex: null, age:    }
  split_values: {train: [train], val: [val], test: [test], missing: []}
  # the clinic asked for a quarter
  test_fraction: 0.25
  split_seed: 7
  folds: null
  fold: null
"""


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's params.yaml with a user's own data, machine and comments."""
    shutil.copytree(ROOT / RECIPES, tmp_path / RECIPES)
    text = (ROOT / "params.yaml").read_text()
    text = re.sub(r"(?ms)^data:.*?(?=^\w)", DATA, text)
    text = text.replace("seed: 0", "seed: 3").replace("workers: auto", "workers: 2")
    text = text.replace("encoder_chunk_size: null", "encoder_chunk_size:").replace(
        "\ntrain:", "\n# Mine.\ntrain:"
    )
    text = re.sub(r"(?m)^  (name|owner|license|contact): null", r"  \1: My \1", text)
    text = text.replace("targets: [qkv, proj]", "targets:\n      - qkv  # one\n      - proj")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    load_params()
    return tmp_path / "params.yaml"


NAMES = sorted(path.stem for path in (ROOT / RECIPES).glob("*.yaml"))


def values(path: Path) -> dict:
    return flatten(path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_changes_only_its_own_keys(params: Path, name: str, capsys):
    before = values(params)
    recipe(name)
    after = values(params)
    assert after == before | values(RECIPES / f"{name}.yaml")
    assert all(before["export", key] == f"My {key}" for key in KEPT_EXPORT)
    text = params.read_text()
    assert DATA in text
    assert "\n# Mine.\ntrain:" in text
    assert "# volumes\n" in text
    load_params()
    printed = capsys.readouterr().out
    if name != DEFAULT:
        assert re.search(r"(?m)^train.learning_rate: 2e-3 -> \de-[345]$", printed)
    assert merge_recipe(name).changes == {}
    assert merge_recipe(name).text == text


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_holds_only_what_differs_and_describes_itself(name: str):
    default, own = values(ROOT / "params.yaml"), values(ROOT / RECIPES / f"{name}.yaml")
    if name == DEFAULT:
        others = [values(ROOT / RECIPES / f"{other}.yaml") for other in NAMES if other != DEFAULT]
        assert own == {path: default[path] for path in own}
        assert own.keys() == set().union(*others)
    else:
        assert [path for path, value in own.items() if default[path] == value] == []
    text = (ROOT / RECIPES / f"{name}.yaml").read_text()
    assert re.match(r"# For: .+\n# Memory: .+\n# Time: .+\n", text)


def test_settings_of_another_recipe_are_named_and_undone_by_the_default(params: Path):
    before = values(params)
    recipe("challenge")
    assert merge_recipe("t4-colab").notes == [
        f"{key}: stays {value}; the default is {default}"
        for key, value, default in (
            ("model.encoder_chunk_size", "64", "null"),
            ("model.finetune", "lora", "full"),
            ("model.lora.targets", "[qkv, proj, fc1, fc2]", "[qkv, proj]"),
            ("train.augmentation", "advanced", "basic"),
            ("train.weight_decay", "0.05", "0.02"),
            ("train.max_pos_weight", "5.0", "1.0"),
        )
    ] + [
        "For the recipe as it is described: "
        "`multi-abnormality recipe sample && multi-abnormality recipe t4-colab`"
    ]
    recipe(DEFAULT)
    assert values(params) == before


def write_recipe(text: str) -> None:
    (RECIPES / "mine.yaml").write_text(text)


def test_the_default_undoes_every_recipe_to_the_byte(params: Path):
    """Also where a longer value has pushed a comment to the right."""
    shutil.copy(ROOT / "params.yaml", params)
    before = params.read_text()
    for name in ("challenge", "frozen-encoder", "t4-colab"):
        recipe(name)
        assert params.read_text() != before
        recipe(DEFAULT)
        assert params.read_text() == before, name


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / RECIPES).glob("*.yaml")])
def test_the_recipe_of_a_run_and_what_differs_from_it_are_found(params: Path, name: str):
    shutil.copy(ROOT / "params.yaml", params)
    recipe(name, yes=True)

    def closest() -> object:
        return closest_recipe(
            {".".join(path): value for path, value in flatten(params.read_text()).items()}
        )

    assert closest() == (name, {})
    params.write_text(re.sub(r"weight_decay: \S+", "weight_decay: 0.7", params.read_text()))
    found, differences = closest()
    assert (found, list(differences)) == (name, ["train.weight_decay"])
    assert differences["train.weight_decay"][0] == 0.7


def test_machine_and_backup_are_never_changed(params: Path):
    write_recipe("seed: 4\nmachine: {workers: 9, max_time: 3h30m}\nexport: {owner: Me}\n")
    before = params.read_bytes()
    assert merge_recipe("mine").notes == [
        "seed: stays 3; the recipe has 4",
        "machine.workers: stays 2; the recipe has 9",
        "machine.max_time: stays null; the recipe has 3h30m",
        "export.owner: stays My owner; the recipe has Me",
    ]
    recipe("mine")
    assert params.read_bytes() == before


def test_data_is_changed_only_if_allowed(params: Path):
    write_recipe("data: {test_fraction: 0.5}\ntrain: {epochs: 3}\n")
    before = params.read_bytes()
    command = [sys.executable, "-m", "multi_abnormality", "recipe", "mine"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == "data.test_fraction: 0.25 -> 0.5\ntrain.epochs: 22 -> 3\n"
    assert "recipes/mine.yaml changes `data`, your scans: add --yes" in done.stderr
    assert params.read_bytes() == before
    for answer, epochs in (("n", 22), ("y", 3)):
        leader, follower = pty.openpty()
        with subprocess.Popen(command, stdin=follower, stdout=subprocess.PIPE) as process:
            os.close(follower)
            os.write(leader, f"{answer}\n".encode())
            assert b"Change `data`" in process.communicate()[0]
        os.close(leader)
        assert process.returncode == (1 if answer == "n" else 0)
        assert load_params().train.epochs == epochs
    recipe("mine", yes=True)


def test_all_bytes_but_the_values_are_preserved(params: Path):
    """Also line breaks of Windows; comments stay in their columns."""
    text = params.read_bytes().replace(b"\n", b"\r\n")
    params.write_bytes(text)
    changed = {path[-1] for path in merge_recipe("challenge").changes}
    recipe("challenge")
    pairs = zip(text.split(b"\r\n"), params.read_bytes().split(b"\r\n"), strict=False)
    first = [(old, new) for old, new in pairs if not new.strip().startswith(b"targets")]
    before_lora_targets = [old.startswith(b"    alpha:") for old, _ in first].index(True)
    for old, new in first[:before_lora_targets]:
        key = new.decode().partition(":")[0].strip()
        assert old == new or key in changed
    assert b"  encoder_chunk_size: 64" in params.read_bytes()
    assert b"  finetune: lora                  # of the backbone" in params.read_bytes()


def test_comments_inside_a_replaced_list_are_named_and_removed(params: Path):
    write_recipe("model: {lora: {targets: [fc1]}}\n")
    text = re.sub(" proj +#.*\n", " 'a#b'  # two\n    # below\n", params.read_text())
    params.write_text(text)
    merge = merge_recipe("mine")
    assert merge.notes[0] == "comments in model.lora.targets are removed: # one # two"
    assert merge.text == text.replace("\n      - qkv  # one\n      - 'a#b'  # two", " [fc1]")
    assert " [fc1]\n    # below\n" in merge.text


@pytest.mark.parametrize("comment", ["", "  # mm: z, y, x"])
def test_lists_in_the_columns_of_their_keys_are_replaced(params: Path, comment: str):
    written = yaml.safe_dump(yaml.safe_load(params.read_text()), sort_keys=False)
    assert "  spacing:\n  - " in written
    params.write_text(written.replace("  spacing:", f"  spacing:{comment}"))
    write_recipe("preprocess: {spacing: [1.0, 2.0, 3.0], shape: [8, 32, 48]}\n")
    expected = values(params) | {
        ("preprocess", "spacing"): [1.0, 2.0, 3.0],
        ("preprocess", "shape"): [8, 32, 48],
    }
    merge = merge_recipe("mine")
    assert flatten(merge.text) == expected
    assert f"  spacing:{comment}" in merge.text


@pytest.mark.usefixtures("params")
def test_the_last_line_is_whether_the_file_changed_and_a_suffix_is_accepted(capsys):
    for result in ("is changed", "is unchanged: there is nothing to change"):
        recipe("t4-colab.yaml")
        assert capsys.readouterr().out.splitlines()[-1] == f"params.yaml {result}"
    assert load_params().model.backbone == "efficientnet_b0"


def test_a_dry_run_changes_nothing(params: Path):
    before = params.read_bytes()
    command = [sys.executable, "-m", "multi_abnormality", "recipe", "t4-colab", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "model.backbone: resnet10t -> efficientnet_b0\n" in done.stdout
    assert done.stdout.endswith("\nparams.yaml is unchanged (--dry-run)\n")
    assert params.read_bytes() == before


@pytest.mark.usefixtures("params")
def test_an_unknown_recipe_is_an_error_with_the_available_names(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no recipe 't4'; there are challenge, frozen-encoder, sa"):
        merge_recipe("t4")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in ("seed", None):
        with pytest.raises(InputError, match="run in the project's folder"):
            recipe(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epoch: 3}", r"mine.yaml: wrong parameters\n  - train.epoch: unknown key"),
        ("train: 3\ndata: null", "  - data: must be a section with keys\n  - train: must be a sec"),
        ("train: {epochs: many}", r"mine.yaml: wrong parameters\n  - train.epochs: .*'many'"),
        ("train: {lora: 3", "mine.yaml: is not valid YAML"),
        ("# nothing", "mine.yaml: has no sections"),
    ],
)
def test_a_wrong_recipe_is_an_error(params: Path, text: str, message: str):
    write_recipe(text)
    before = params.read_bytes()
    with pytest.raises(InputError, match=message):
        recipe("mine")
    assert params.read_bytes() == before


@pytest.mark.usefixtures("params")
def test_the_recipes_are_listed_with_memory_and_time(capsys):
    recipe(None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line[0] != " "] == NAMES
    assert len([line for line in lines if line.startswith("    Memory: ")]) == len(NAMES)
    assert len([line for line in lines if line.startswith("    Time: ")]) == len(NAMES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("train:\n", "train:\n  epoch: 3\n", "train.epoch: unknown key"),
        (r"  epochs: 22(.*\n)  schedule_epochs: 22", r"  epochs: &n 22\1  schedule_epochs: *n",
         "without anchors and aliases"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_edited_is_unchanged(params: Path, old, new, message):
    text = params.read_text()
    edited, count = re.subn(old, new, text)
    assert count == 1
    params.write_text(edited)
    with pytest.raises(InputError, match=message):
        merge_recipe("t4-colab")
    assert params.read_text() == edited
