"""Train this project's default model by its train stage: `python -m peer_models.ours TASK`.

TASK is JSON: epochs, seed, processed (a directory) and params. Prints the JSON of
`peer_models.train`, and `idle_minutes`: the time of the stage with nothing to do.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from multi_abnormality.data.loading.eval_dataset import EvalDataset
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.models.factory import restore_classifier
from multi_abnormality.models.predict_logits import predict_logits
from multi_abnormality.runtime.checkpoint_io import BEST, load_complete
from peer_models.scores import macro_auroc
from peer_models.train import Trained


def run_stage(folder: Path) -> float:
    """Run the train stage in a project's directory; return its minutes of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "multi_abnormality.stages.train"]
    log = folder / "log"
    with log.open("a") as file:
        if subprocess.run(command, cwd=folder, stdout=file, stderr=file).returncode:
            raise RuntimeError(log.read_text())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / 60


def set_up(folder: Path, task: dict[str, Any]) -> None:
    """Create a project with the task's epochs and seed, on the CPU."""
    changes = {
        "train": {"epochs": task["epochs"], "schedule_epochs": task["epochs"]},
        "machine": {"accelerator": "cpu", "workers": 0},
        "backup": {"remote": "off"},
    }
    params = task["params"] | {"seed": task["seed"]}
    params |= {name: params[name] | part for name, part in changes.items()}
    (folder / "params.yaml").write_text(json.dumps(params))
    (folder / "processed").symlink_to(task["processed"])


def score(folder: Path) -> tuple[int, float]:
    """Return the best checkpoint's number of parameters and test macro AUROC."""
    classifier = restore_classifier(load_complete(folder / "checkpoints" / BEST))
    processed = ProcessedDataset(folder / "processed")
    names = processed.volumes("test")["name"].tolist()
    logits = predict_logits(classifier, EvalDataset(processed, names), torch.device("cpu"), 0)
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    return parameters, macro_auroc(processed, names, logits)


def main() -> None:
    task = json.loads(sys.argv[1])
    os.environ["DVC_NO_ANALYTICS"] = "1"
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        folder = Path(directory)
        set_up(folder, task)
        minutes, idle = run_stage(folder), run_stage(folder)
        parameters, test = score(folder)
        validation = json.loads((folder / "metrics/train.json").read_text())
    trained = Trained(parameters, validation["epochs"], minutes, validation["val_auroc"], test)
    sys.stdout.write(json.dumps(asdict(trained) | {"idle_minutes": idle}))


if __name__ == "__main__":
    main()
