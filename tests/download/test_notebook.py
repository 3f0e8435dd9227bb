"""The command of the Colab notebook that fetches patients."""

import shlex

import nbformat

from test_pipeline import ROOT


def test_it_takes_the_first_reconstruction_of_some_of_both_splits(machine):
    first = nbformat.read(ROOT / "notebooks/colab.ipynb", nbformat.NO_CONVERT).cells[1]
    settings: dict = {}
    exec(first.source, settings)
    python, m, module, *options = shlex.split(settings["RUNS"]["ct-rate"]["data"])
    assert (python, m, module) == ("python", "-m", "multi_abnormality.download")
    machine.run(*(option.replace("1-100", "1-3") for option in options))
    assert machine.volumes() == {"train_1_a_1", "train_2_a_1", "train_2_b_1", "valid_1_a_1"}
