"""Progress log of a run."""

import json
import os
import pty
import re
import signal
from pathlib import Path

from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.stages import train
from terminal import read_all
from train_stage import TRAIN, Project

EPOCH = (
    r"epoch {}/{}  train_loss 0\.\d{{3}}  val_loss 0\.\d{{3}}  val_auroc 0\.\d{{3}}( \(best\))?"
    r"  \d+ s"
)


def test_log_has_a_line_per_epoch_and_early_stopping(runner, tmp_path: Path, caplog):
    caplog.set_level("INFO")
    training = runner.prepare(tmp_path, epochs=8, early_stopping_patience=1, learning_rate=1e-5)
    summary = train.run(
        training.params, runner.processed.root, training.paths, tmp_path / "train.json"
    )
    lines = [record.getMessage() for record in caplog.records]
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == summary["epochs"] < 8
    assert re.fullmatch(EPOCH.format(0, 8), epochs[0])[1]
    best = f"best {summary['val_auroc']:.3f} at epoch {summary['best_epoch']}"
    assert f"early stopping: val_auroc has not improved for 1 epoch ({best})" in lines
    assert "the best epoch was chosen on 6 validation patients: few" in caplog.text
    assert json.loads((tmp_path / "train.json").read_text())["stopped_early"] is True


def test_terminal_shows_lines_and_ctrl_c_apart_from_the_progress_bar(
    tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    project = Project(tmp_path, small_params, small_set)
    project.change("train", epochs=500, schedule_epochs=500, early_stopping_patience=500)
    leader, follower = pty.openpty()
    process = project.start(TRAIN, stderr=follower, COLUMNS="80")
    os.close(follower)
    seen = b""
    while not re.search(rb"epoch 2/500  train_loss", seen):
        seen += os.read(leader, 1 << 16)
    process.send_signal(signal.SIGINT)
    seen += read_all(leader)
    assert process.wait() == 75, seen.decode()
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen.decode())
    lines = text.replace("\r", "\n").splitlines()
    for epoch in range(3):
        assert any(re.fullmatch(EPOCH.format(epoch, 500), line) for line in lines)
    assert "\u2501" in text  # a bar was drawn
    assert any("stopped, since it received SIGINT" in line for line in lines)
    assert all(len(line) <= 80 for line in lines)


def test_epochs_are_only_logged_by_the_chosen_loggers(runner, tmp_path: Path):
    runner.run(tmp_path / "none", loggers=(), epochs=1)
    assert not (tmp_path / "none/logs").exists()
    assert (tmp_path / "none/history.csv").exists()  # an output of the train stage
    runner.run(tmp_path / "one", loggers=("tensorboard",), epochs=1)
    assert len(list((tmp_path / "one/logs").iterdir())) == 1
    hashes = [runner.hashes(tmp_path / name)["history.csv"] for name in ("none", "one")]
    assert hashes[0] == hashes[1]
