"""The table of experiments, of real ones whose stage takes no time."""

import json
import re
from pathlib import Path

import pytest

from multi_abnormality.experiments import MAX_WIDTH, Experiment, changed_params, print_table
from test_pipeline import run

STAGES = """\
stages:
  evaluate:
    cmd: python make.py
    deps: [make.py]
    params: [train]
    outs:
      - metrics/evaluate.json:
          cache: false
"""
MAKE = """\
import json, pathlib, yaml
rate = yaml.safe_load(open("params.yaml"))["train"]["rate"]
interval = {"low": rate - 0.05, "high": rate + 0.05}
names = "auroc", "f1", "accuracy"
scores = {
    "classification": {"macro": dict.fromkeys(names, rate)},
    "crg": {"CRG": None},
    "intervals": {"confidence": 0.95, "macro": dict.fromkeys(names, interval)},
}
scores["intervals"]["crg"] = {"CRG": None}
pathlib.Path("metrics/evaluate.json").write_text(json.dumps(scores))
"""


@pytest.mark.slow
def test_each_experiment_is_a_row_with_scores_and_what_differs(tmp_path: Path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/.gitignore").touch()
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "params.yaml").write_text("train: {rate: 0.5, epochs: 2}\nseed: 0\n")
    (tmp_path / "make.py").write_text(MAKE)
    for command in (
        "git init --quiet --initial-branch main",
        "git config user.name A",
        "git config user.email a@example.org",
        "dvc init --quiet",
        "dvc repro --quiet",
        "git add --all",
        "git commit --quiet --message first",
        "dvc exp run --quiet --name worse -S train.rate=0.4",
        "dvc exp run --quiet --name better -S train.rate=0.75 -S train.epochs=3",
        "dvc exp run --quiet --queue --name later -S train.rate=0.6 -S train.epochs=2",
    ):
        run(tmp_path, *command.split())
    printed = run(
        tmp_path, "env", "--unset=COLUMNS", "python", "-m", "multi_abnormality.experiments"
    )
    assert max(map(len, printed.splitlines())) <= MAX_WIDTH
    lines = printed.partition("\n\n")[0].splitlines()[1:]
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    interval = "0.750 (0.700–0.800)"  # noqa: RUF001
    assert [row[0] for row in rows[::2]] == ["main", "better", "worse", "later (queued)"]
    assert rows[2][1:] == [interval] * 2 + ["–", interval, "train.rate=0.75"]  # noqa: RUF001
    assert rows[3] == ["train.epochs=3"]
    assert rows[6][1:] == ["–"] * 4 + ["train.rate=0.6"]  # noqa: RUF001
    assert "in brackets: 95% intervals" in printed


def test_many_parameters_that_differ_are_shown_whole_in_a_narrow_table(capsys):
    names = [f"train.parameter_with_a_long_name_{number}" for number in range(12)]
    first = Experiment("main", True, {name: [1.5, 2.5] for name in names} | {"same": 1}, {})
    other = Experiment("other", False, dict.fromkeys(names, "text") | {"same": 1}, {})
    assert changed_params([first, other]) == names
    print_table([first, other])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= MAX_WIDTH
    assert all(printed.count(f"{name}=") == 2 for name in names)
    assert printed.count(json.dumps("text")) == 12
    assert "same" not in printed
