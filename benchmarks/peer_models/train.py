"""Trains a peer for so much processor time: `python -m peer_models.train TASK`, its end as JSON.

TASK is JSON: name, rate, seed, minutes, final (whether the valid split is looked at), processed (a
folder), and params (of the project).
"""

import copy
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from multi_abnormality.data.batches import Batch, WholeVolumes, whole_loader
from multi_abnormality.data.codes import code_table
from multi_abnormality.data.drawn import DrawnVolumes
from multi_abnormality.data.mixing import augmented
from multi_abnormality.data.randomness import derived_seed, generator
from multi_abnormality.data.splits import split_validation
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.find_learning_rate.range_test import endless
from multi_abnormality.memory import keep_freed_memory
from multi_abnormality.model.windows import Windows
from multi_abnormality.params import Params
from multi_abnormality.training.schedule import learning_rate_factor
from peer_models.designs import PEERS, Peer
from peer_models.scores import macro_auroc

WARMUP = 0.05  # share of the training
VALIDATIONS = (0.6, 0.8)  # shares of the training after which to look, beside its end


@dataclass(frozen=True)
class Trained:
    """A training that ended."""

    parameters: int
    epochs: float  # passes over the scans
    minutes: float  # of processor time
    validation: float  # macro AUROC by scan, of the validation patients
    test: float | None  # of the valid split; None: not looked at


class KeptVolumes(ProcessedSet):
    """Keeps what it has read: who learns from one slice of a volume would mostly read, else."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._kept: dict[str, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        if name not in self._kept:
            self._kept[name] = super().read(name)
        return self._kept[name]


class PeerTraining:
    """A peer in training.

    Args:
        peer: which.
        rate: the highest learning rate.
        seed: of the split, the weights, and all that is drawn.
        processed: what it learns from.
        params: of the project: the split, the windows, the augmentation, clip_norm and
            weight_decay are the project's own.
    """

    def __init__(
        self, peer: Peer, rate: float, seed: int, processed: ProcessedSet, params: Params
    ) -> None:
        shape = params.preprocess.shape
        changes = {"slices": peer.slices or shape[0], "batch_size": peer.batch_size}
        self.settings = params.train.model_copy(update=changes)
        self.rate, self.seed, self.processed = rate, seed, processed
        rows = processed.volumes("train")
        fraction = params.train.validation_fraction
        train, self.held_out = split_validation(rows, processed.findings, fraction, seed)
        self.drawn = DrawnVolumes(processed, train, self.settings, seed)
        self.windows = Windows(code_table(params.preprocess).tolist(), params.model.windows)
        torch.manual_seed(derived_seed(seed, "weights"))
        self.model = peer.build(len(params.model.windows), shape, len(processed.findings))
        start_at_prevalence(self.model.head, torch.from_numpy(self.drawn.labels))
        self.optimizer = torch.optim.AdamW(self._groups(), lr=rate, fused=True)

    def _groups(self) -> list[dict]:
        """Biases and norms do not decay, as in the project's own training."""
        decays = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        return [
            {"params": decays, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def run(self, seconds: float, started: float, final: bool) -> Trained:
        """Train until `seconds` of processor time have gone by since `started`.

        The schedule ends then; validations in between count, the one at the end does not.
        """
        due = [*VALIDATIONS, math.inf]
        best = (-math.inf, {})
        batches = endless(self.drawn, self.settings.batch_size)
        steps = 0
        while (share := (time.process_time() - started) / seconds) < 1:
            if share >= due[0]:
                due.pop(0)
                best = self._better(best)
            self._step(next(batches), steps, share)
            steps += 1
        used = time.process_time() - started
        validation, weights = self._better(best)
        self.model.load_state_dict(weights)
        return Trained(
            parameters=sum(p.numel() for p in self.model.parameters()),
            epochs=steps * self.settings.batch_size / len(self.drawn),
            minutes=used / 60,
            validation=validation,
            test=self._score(self.processed.volumes("valid")["name"].tolist()) if final else None,
        )

    def _step(self, batch: Batch, step: int, share: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * learning_rate_factor(share, WARMUP, 1)
        hu = self.windows.decode(batch["volume"])
        hu, labels = augmented(hu, batch, self.settings, generator(self.seed, "mix", step))
        logits = self.model.train()(self.windows(hu))
        self.optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logits, labels).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()

    def _better(self, best: tuple[float, dict]) -> tuple[float, dict]:
        found = self._score(self.held_out)
        return (found, copy.deepcopy(self.model.state_dict())) if found > best[0] else best

    @torch.inference_mode()
    def _score(self, names: list[str]) -> float:
        volumes = WholeVolumes(self.processed, names)
        self.model.eval()
        logits = [
            self.model(self.windows(self.windows.decode(batch["volume"]))).numpy()
            for batch in whole_loader(volumes, 4, 0)
        ]
        return macro_auroc(self.processed, names, np.concatenate(logits))


def start_at_prevalence(head: nn.Linear, labels: Tensor) -> None:
    """Begin with the share of scans that have each finding: the first steps need not learn it."""
    share = labels.mean(dim=0).clamp(1 / len(labels), 1 - 1 / len(labels))
    with torch.no_grad():
        head.bias.copy_(share.logit())


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    keep_freed_memory()
    params = Params.model_validate_json(json.dumps(task["params"]))
    started = time.process_time()
    training = PeerTraining(
        PEERS[task["name"]],
        task["rate"],
        task["seed"],
        KeptVolumes(Path(task["processed"])),
        params,
    )
    trained = training.run(60 * task["minutes"], started, task["final"])
    sys.stdout.write(json.dumps(asdict(trained)))


if __name__ == "__main__":
    main()
