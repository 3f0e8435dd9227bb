"""Trains this project's default by its own stage: `python -m peer_models.ours TASK`.

TASK is JSON: epochs, seed, processed (a folder), and params. Prints as JSON what
`peer_models.train` prints, and `idle_minutes`: what a start of the stage costs with nothing to do.
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

from multi_abnormality.data.batches import WholeVolumes
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.model.build import restore
from multi_abnormality.model.inference import volume_logits
from multi_abnormality.training.checkpoints import BEST, load_complete
from peer_models.scores import macro_auroc
from peer_models.train import Trained


def run_stage(folder: Path) -> float:
    """Minutes of processor time that the train stage takes in a project's folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "multi_abnormality.stages.train"]
    log = folder / "log"
    with log.open("a") as file:
        if subprocess.run(command, cwd=folder, stdout=file, stderr=file).returncode:
            raise RuntimeError(log.read_text())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / 60


def set_up(folder: Path, task: dict[str, Any]) -> None:
    """A project's folder with other epochs and another seed, and nothing but the processor."""
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
    """Parameters of the best checkpoint, and its macro AUROC on the valid split."""
    classifier = restore(load_complete(folder / "checkpoints" / BEST))
    processed = ProcessedSet(folder / "processed")
    names = processed.volumes("valid")["name"].tolist()
    logits = volume_logits(classifier, WholeVolumes(processed, names), torch.device("cpu"), 0)
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    return parameters, macro_auroc(processed, names, logits)


def main() -> None:
    task = json.loads(sys.argv[1])
    os.environ["DVC_NO_ANALYTICS"] = "1"
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        set_up(folder, task)
        minutes, idle = run_stage(folder), run_stage(folder)
        parameters, test = score(folder)
        validation = json.loads((folder / "metrics/train.json").read_text())
    trained = Trained(parameters, validation["epochs"], minutes, validation["val_auroc"], test)
    sys.stdout.write(json.dumps(asdict(trained) | {"idle_minutes": idle}))


if __name__ == "__main__":
    main()
