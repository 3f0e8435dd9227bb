"""The train stage: processed/ to checkpoints/."""

from pathlib import Path
from typing import Any

from multi_abnormality import console
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.files import write_json
from multi_abnormality.params import Params, load_params
from multi_abnormality.training.fit import Places, fit


def run(params: Params, processed: Path, places: Places, metrics: Path) -> dict[str, Any]:
    """Train, and write metrics once training is complete."""
    history = fit(params, ProcessedSet(processed), places)
    best = history.best
    summary = {
        "epochs": len(history.epochs),
        "best_epoch": best.epoch,
        "val_auroc": best.val_auroc,
        "val_loss": best.val_loss,
    }
    write_json(summary, metrics)
    console.log.info(
        "trained %d epochs; the best was epoch %d with a validation macro AUROC of %.4f",
        len(history.epochs), best.epoch, best.val_auroc,
    )  # fmt: skip
    return summary


def main() -> None:
    places = Places(
        checkpoints=Path("checkpoints"),
        logs=Path("logs"),
        history=Path("metrics/history.csv"),
        unfinished=Path(".dvc/tmp/unfinished"),
    )
    run(load_params(), Path("processed"), places, Path("metrics/train.json"))


if __name__ == "__main__":
    console.run(main)
