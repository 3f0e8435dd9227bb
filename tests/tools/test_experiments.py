"""The table of experiments, tested on real ones with a stage that takes no time."""

import json
import re
from pathlib import Path

import pytest

from multi_abnormality.tools import experiments
from multi_abnormality.tools.experiments import (
    NOT_RUN,
    Experiment,
    changed_params,
    print_table,
    read_experiments,
    stale_files,
    was_run,
)
from multi_abnormality.utils.errors import InputError
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
def test_each_experiment_is_a_row_with_scores_and_differing_parameters(tmp_path: Path):
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
        tmp_path, "env", "--unset=COLUMNS", "python", "-m", "multi_abnormality", "experiments"
    )
    lines = printed.partition("\n\n")[0].splitlines()[1:]
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    interval = "0.750 (0.700–0.800)"  # noqa: RUF001
    assert [row[0] for row in rows] == ["main", "better", "worse", "later (queued)"]
    assert rows[1][1:] == [interval] * 2 + ["–", interval]  # noqa: RUF001
    assert rows[3][1:] == [NOT_RUN] * 4
    assert "  better\n    train.rate=0.75\n    train.epochs=3\n  worse\n" in printed
    assert "in brackets: 95% intervals" in printed

    (tmp_path / "params.yaml").write_text("train: {rate: 0.9, epochs: 2}\nseed: 1\n")
    run(tmp_path, "git", "commit", "--quiet", "--all", "--message", "an edit that was not run")
    printed = run(tmp_path, "python", "-m", "multi_abnormality", "experiments", "--num", "2")
    edited, first = [
        line.split() for line in printed.splitlines() if "main" in line or "0.500" in line
    ][:2]
    assert edited[1:9] == ["not", "run"] * 4
    assert "0.500" in first


def test_outside_of_a_project_it_names_the_folder_to_run_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="run in the project's folder"):
        list(read_experiments([]))


LOCK = """\
schema: '2.0'
stages:
  train:
    cmd: python train.py
    params:
      params.yaml:
        seed: 0
        train: {epochs: 16, learning_rate: 0.001}
  evaluate:
    cmd: python evaluate.py
    params:
      params.yaml:
        evaluate.n_bootstrap: 50
  export:
    params:
      params.yaml:
        export: {tolerance: 0.1}
"""
RUN = {
    "seed": 0,
    "train": {"epochs": 16, "learning_rate": 1e-3},
    "evaluate": {"n_bootstrap": 50},
    "export": {"tolerance": 0.2},
}


@pytest.mark.parametrize(
    ("changes", "lock", "expected"),
    [
        ({}, LOCK, True),
        ({"machine": {"workers": 2}}, LOCK, True),
        ({"seed": 1}, LOCK, False),
        ({"train": {"epochs": 17, "learning_rate": 1e-3}}, LOCK, False),
        ({"train": {"epochs": 16, "learning_rate": 1e-3, "new": 1}}, LOCK, False),
        ({"evaluate": {}}, LOCK, False),
        ({}, LOCK.partition("  evaluate")[0], False),
        ({}, "", False),
        ({}, "<<<<<<< HEAD\n: [", False),
    ],
)
def test_parameters_that_were_not_run_are_recognized(changes: dict, lock: str, expected: bool):
    """Scores depend on all parameters of the stages that lead to them, and on no others."""
    assert was_run(RUN | changes, lock) == expected


def test_files_that_differ_between_stages_are_stale():
    def entries(**hashes: str) -> list[dict]:
        return [{"path": path, "md5": md5} for path, md5 in hashes.items()]

    stages = {
        "train": {"deps": entries(data="1"), "outs": entries(history="2")},
        "evaluate": {"deps": entries(data="1", history="2", ckpt="3"), "outs": entries(scores="4")},
        "export": {"deps": [*entries(ckpt="3", scores="4"), {"path": "src/a.py", "md5": "5"}]},
    }
    assert stale_files(stages, ("preprocess", *stages)) == []
    stages["evaluate"]["deps"] = entries(data="1", history="6", ckpt="7")
    stages["evaluate"]["deps"].append({"path": "src/a.py", "md5": "8"})
    assert stale_files(stages, tuple(stages)) == ["ckpt", "history"]
    assert stale_files(stages, ("train", "evaluate")) == ["history"]


@pytest.mark.parametrize(
    ("stale", "shown"),
    [
        ("evaluate", "row stale"),
        ("export", "row (stale export) 0.900"),
        (None, "row 0.900"),
    ],
)
def test_stages_of_different_runs_are_marked_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys, stale: str | None, shown: str
):
    def deps(stage: str) -> list[dict]:
        return [{"path": "best.ckpt", "md5": "2" if stage == stale else "1"}]

    lock = {"stages": {"train": {"outs": deps("train")}}}
    lock["stages"] |= {stage: {"deps": deps(stage)} for stage in ("evaluate", "export")}
    macro = {"auroc": 0.9, "f1": None, "accuracy": None}
    scores = {
        "classification": {"macro": macro}, "crg": {"CRG": None},
        "intervals": {"confidence": 0.95, "macro": dict.fromkeys(macro), "crg": {"CRG": None}},
    }  # fmt: skip
    files = {"dvc.lock": json.dumps(lock), "metrics/evaluate.json": json.dumps(scores)}
    monkeypatch.setattr(experiments, "_show", lambda _, path: files[path])
    row = experiments._experiment({"name": "row", "rev": "1" * 40, "data": None}, "success", True)
    print_table([row])
    printed = capsys.readouterr().out
    assert any(" ".join(line.split()).startswith(shown) for line in printed.splitlines())
    assert ("0.900" in printed) == (stale != "evaluate")
    assert ("stale: its stages" in printed) == (stale is not None)


def test_many_parameters_that_differ_are_all_shown(capsys):
    names = [f"train.parameter_with_a_long_name_{number}" for number in range(12)]
    first = Experiment("main", True, {name: [1.5, 2.5] for name in names} | {"same": 1}, {})
    other = Experiment("other", False, dict.fromkeys(names, "text") | {"same": 1}, {})
    assert changed_params([first.params, other.params]) == names
    print_table([first, other])
    printed = capsys.readouterr().out
    assert all(printed.count(f"{name}=") == 2 for name in names)
    assert printed.count(json.dumps("text")) == 12
    assert "same" not in printed


@pytest.mark.parametrize("width", [80, 100, 119])
def test_parameters_are_listed_below_by_experiment(capsys, monkeypatch, width: int):
    monkeypatch.setenv("COLUMNS", str(width))
    values = {"train.learning_rate": 0.001, "model.backbone": "vit_small_patch16_dinov3"}
    macro = dict.fromkeys(("auroc", "f1", "accuracy"), 0.5)
    bounds = {"low": 0.45, "high": 0.55}
    intervals = {"confidence": 0.95, "crg": {"CRG": bounds}, "macro": dict.fromkeys(macro, bounds)}
    scores = {"classification": {"macro": macro}, "crg": {"CRG": 0.5}, "intervals": intervals}
    print_table([Experiment("main", True, values, scores), Experiment("better", False, {}, scores),
                 Experiment("other", False, dict.fromkeys(values, None), {})])  # fmt: skip
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    table, params, note = printed.split("\n\n")
    assert "train.learning_rate" not in table
    assert "Parameters" not in table
    assert params.splitlines() == [
        "Parameters that differ",
        "main",
        "    train.learning_rate=0.001",
        '    model.backbone="vit_small_patch16_dinov3"',
        "  better",
        "  other",
        "    train.learning_rate=null",
        "    model.backbone=null",
    ]
    assert "95% intervals" in note
