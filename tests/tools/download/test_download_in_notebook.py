"""The download command of the Colab notebook."""

import shlex

import nbformat

from test_pipeline import ROOT


def test_command_downloads_first_reconstructions_of_both_splits(machine):
    first = nbformat.read(ROOT / "notebooks/colab.ipynb", nbformat.NO_CONVERT).cells[1]
    settings: dict = {}
    exec(first.source, settings)
    command = shlex.split(settings["RUNS"]["ct-rate"]["data"])
    assert command[:4] == ["python", "-m", "multi_abnormality", "download"]
    options = command[4:]
    machine.run(*(option.replace("1-100", "1-3") for option in options))
    assert machine.volumes() == {"train_1_a_1", "train_2_a_1", "train_2_b_1", "valid_1_a_1"}
