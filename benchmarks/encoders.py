"""Default model beside a pretrained encoder, fine-tuned and frozen, at equal processor time.

python benchmarks/encoders.py     # after `dvc repro`; nine trainings, half an hour by default

The encoder is EfficientNet-Lite0 with ImageNet's weights. Each run has as many epochs as fit into
the budget, by the times of a training of one epoch and one of three.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cross_validation import PROCESSED, run
from lite0_weights import BACKBONE, save_lite0
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.scores import macro_intervals, macro_score
from multi_abnormality.utils import console
from short_runs import TrainedRun


def with_changes(params: Params, **sections: dict[str, Any]) -> Params:
    """Return parameters with other values in some sections."""
    update = {
        name: getattr(params, name).model_copy(update=values) for name, values in sections.items()
    }
    return params.model_copy(update=update)


def contenders(weights: Path) -> dict[str, Params]:
    """Return the parameters of each kind of model. All load volumes in the training process."""
    default = with_changes(load_params(), machine={"workers": 0})
    lite0 = {
        "backbone": BACKBONE,
        "pretrained": str(weights),
        "adjacent_slices": 1,  # three windows for three channels
        "multiscale": True,
    }
    frozen = {
        "augmentation": "none",
        "cache_features": "required",
        "slices_per_volume": default.preprocess.shape[0],
        "weight_decay": 0.05,
    }
    slow = {"learning_rate": 1e-3}
    return {
        "the default, random weights": default,
        "EfficientNet-Lite0, fine-tuned": with_changes(default, model=lite0, train=slow),
        "EfficientNet-Lite0, frozen": with_changes(
            default, model=lite0 | {"finetune": "frozen"}, train=slow | frozen
        ),
    }


def with_epochs(params: Params, epochs: int) -> Params:
    return with_changes(params, train={"epochs": epochs, "schedule_epochs": epochs})


def minutes_of(params: Params, epochs: int) -> float:
    """Train; return the minutes of processor time."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        TrainedRun(with_epochs(params, epochs), ProcessedDataset(PROCESSED), Path(folder))
    return (time.process_time() - start) / 60


def affordable_epochs(params: Params, budget: float) -> int:
    """Return the number of epochs that fit into a budget of minutes of processor time."""
    one, three = minutes_of(params, 1), minutes_of(params, 3)
    return max(1, 1 + int((budget - one) / ((three - one) / 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.5, help="processor time of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    table = Table(
        f"{given.minutes:g} minutes of processor time", "epochs", "minutes, with evaluation",
        "test macro AUROC by seed, with 95 % intervals", "mean",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind, params in contenders(save_lite0(folder / "lite0.pth")).items():
            epochs = affordable_epochs(params, given.minutes)
            minutes, scores, shown = [], [], []
            for seed in given.seeds:
                start = time.process_time()
                seeded = with_epochs(params, epochs).model_copy(update={"seed": seed})
                content = run(seeded, PROCESSED, folder / f"{kind}, seed {seed}")
                minutes.append((time.process_time() - start) / 60)
                scores.append(macro_score(content, "auroc"))
                interval = macro_intervals(content)["auroc"]
                shown.append(f"{scores[-1]:.3f} ({interval['low']:.3f} to {interval['high']:.3f})")
                console.log.info("%s, seed %d: %s", kind, seed, shown[-1])
            table.add_row(
                kind, str(epochs), f"{statistics.mean(minutes):.2f}", "\n".join(shown),
                f"{statistics.mean(scores):.3f}",
            )  # fmt: skip
    Console(file=sys.stdout, width=140).print(table)


if __name__ == "__main__":
    console.run(main)
