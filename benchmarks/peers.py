"""Comparison of the default model with its peers: same scans and processor time, several seeds.

    pip install --no-deps --requirement benchmarks/requirements.txt
    python benchmarks/peers.py              # after `dvc repro`; two cores, 55 minutes

Each run is a process with one thread. This project runs its own train stage, for as many epochs as
fit into the budget; a peer then gets the processor time that this took with the same seed. Before
that, each peer's learning rate is chosen on the validation patients, with a shorter budget. Scores
are macro AUROC by scan on the test split, from the epoch with the best validation score.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from multi_abnormality.config.schema import load_params
from multi_abnormality.utils import console
from multi_abnormality.utils.atomic_io import write_json
from speed.processes import measure

TITLES = {
    "ours": "this project's default",
    "slices": "single slices with their volume's labels, EfficientNet-B0",
    "ct_net": "CT-Net: triplets through ResNet-18, 3D convolutions",
    "dense_net": "MONAI's 3D DenseNet-121",
}
RATES = {
    "slices": (3e-3, 1e-2, 3e-2),
    "ct_net": (1e-4, 3e-4, 1e-3),
    "dense_net": (3e-4, 1e-3, 3e-3),
}
SEARCH = 0.25  # fraction of a run's minutes, for each learning rate
TARGET = 0.03


@dataclass
class Entry:
    """A contender and its runs, one per seed."""

    name: str
    rate: float
    tried: dict[float, float]  # validation macro AUROC by learning rate
    runs: list[dict[str, Any]]  # of `peer_models.train.Trained`

    @property
    def mean(self) -> float:
        return statistics.mean(run["test"] for run in self.runs)

    def of_runs(self, key: str) -> list[float]:
        return [run[key] for run in self.runs]


class Contest:
    """Trains all contenders in processes, several at a time.

    Args:
        pool: pool that starts the processes.
        folder: working directory of the processes.
        processed: directory of the processed dataset.
        minutes: processor time of a run.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, folder: Path, processed: Path, minutes: float
    ) -> None:
        self.pool, self.folder, self.minutes = pool, folder, minutes
        self.params = load_params()
        self.given = {
            "processed": str(processed.resolve()),
            "params": self.params.model_dump(mode="json"),
        }

    def compare(self, seeds: list[int]) -> list[Entry]:
        """Return the entries of all contenders, ours first."""
        first = self.pool.submit(self._ours, 1, seeds[0])
        searches = {
            name: {rate: self._search(name, rate, seeds[0]) for rate in rates}
            for name, rates in RATES.items()
        }
        epochs = self._affordable(first.result())
        ours = {seeds[0]: self.pool.submit(self._ours, epochs, seeds[0])}
        entries = [Entry("ours", self.params.train.learning_rate, {}, [])]
        entries += [self._choose(name, tried) for name, tried in searches.items()]
        later = []
        for seed, following in zip(seeds, [*seeds[1:], None], strict=True):
            if following is not None:  # submitted before the runs that wait for this seed's
                ours[following] = self.pool.submit(self._ours, epochs, following)
            later += [
                (entry, self.pool.submit(self._after, ours[seed], entry, seed))
                for entry in entries[1:]
            ]
        entries[0].runs = [future.result() for future in ours.values()]
        for entry, future in later:
            entry.runs.append(future.result())
        return entries

    def _affordable(self, first: dict[str, Any]) -> int:
        """Return the number of epochs within the budget, from the time of one and of a startup."""
        epoch = first["minutes"] - first["idle_minutes"]
        fitting = int((self.minutes - first["idle_minutes"]) / epoch)
        console.log.info("ours: %.2f minutes an epoch, so %d epochs", epoch, max(fitting, 1))
        return max(fitting, 1)

    def _search(self, name: str, rate: float, seed: int) -> Future:
        return self.pool.submit(self._peer, name, rate, seed, SEARCH * self.minutes, False)

    def _choose(self, name: str, tried: dict[float, Future]) -> Entry:
        found = {rate: future.result()["validation"] for rate, future in tried.items()}
        return Entry(name, max(found, key=found.__getitem__), found, [])

    def _after(self, ours: Future, entry: Entry, seed: int) -> dict[str, Any]:
        """Train a peer for the time that ours took. No deadlock: ours has started."""
        return self._peer(entry.name, entry.rate, seed, ours.result()["minutes"], True)

    def _ours(self, epochs: int, seed: int) -> dict[str, Any]:
        return self._train("ours", "peer_models.ours", {"epochs": epochs, "seed": seed})

    def _peer(
        self, name: str, rate: float, seed: int, minutes: float, final: bool
    ) -> dict[str, Any]:
        task = {"name": name, "rate": rate, "seed": seed, "minutes": minutes, "final": final}
        return self._train(name, "peer_models.train", task)

    def _train(self, name: str, module: str, task: dict[str, Any]) -> dict[str, Any]:
        cores = os.cpu_count() or 1
        found = measure(module, [json.dumps(self.given | task)], self.folder, cores)
        console.log.info(
            "%s, seed %d%s: %.2f minutes, %.1f epochs, validation %.3f%s",
            TITLES[name], task["seed"], f", rate {task['rate']:g}" if "rate" in task else "",
            found["minutes"], found["epochs"], found["validation"],
            f", test {found['test']:.3f}" if found["test"] is not None else "",
        )  # fmt: skip
        return found


def results_table(entries: list[Entry], minutes: float) -> Table:
    title = f"macro AUROC on the sample's test split, {minutes:g} minutes of one core per run"
    table = Table(
        "", "parameters", "rate", "epochs", "CPU minutes", "mean", "lowest to highest",
        "ours is ahead by", "target", title=title,
    )  # fmt: skip
    ours = entries[0]
    for entry in entries:
        scores = entry.of_runs("test")
        ahead = (f"{ours.mean - entry.mean:+.3f}", f"at least {TARGET}")
        table.add_row(
            TITLES[entry.name],
            f"{entry.runs[0]['parameters'] / 1e6:.1f} M",
            f"{entry.rate:g}",
            f"{statistics.mean(entry.of_runs('epochs')):.1f}",
            f"{statistics.mean(entry.of_runs('minutes')):.2f}",
            f"{entry.mean:.3f}",
            f"{min(scores):.3f} to {max(scores):.3f}",
            *(("", "") if entry is ours else ahead),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=7.5, help="processor time of a run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--processed", type=Path, default=Path("processed"), help="processed dataset"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    with (
        ThreadPoolExecutor(given.jobs) as pool,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        contest = Contest(pool, Path(folder), given.processed, given.minutes)
        entries = contest.compare(list(range(given.seeds)))
    if given.out:
        write_json([asdict(entry) for entry in entries], given.out)
    Console(file=sys.stdout, width=160).print(results_table(entries, given.minutes))


if __name__ == "__main__":
    console.run(main)
