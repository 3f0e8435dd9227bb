"""Train a peer within a budget of processor time: `python -m peer_models.train TASK`.

TASK is JSON: name, rate, seed, minutes, final (whether to score the test split), processed (a
directory) and params (of the project). Prints `Trained` as JSON.
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

from multi_abnormality.config.schema import Params
from multi_abnormality.data.catalog.splits import split_validation
from multi_abnormality.data.loading.eval_dataset import EvalDataset, eval_dataloader
from multi_abnormality.data.loading.train_dataset import TrainDataset
from multi_abnormality.data.preprocessing.quantization import code_table
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.transforms.batch import Batch
from multi_abnormality.data.transforms.mixup import augment_batch
from multi_abnormality.models.classifier import Windows
from multi_abnormality.tools.find_lr_run import endless
from multi_abnormality.training.lr_schedule import schedule_factor
from multi_abnormality.utils.rng import derived_seed, generator
from multi_abnormality.utils.system_memory import tune_malloc
from peer_models.designs import PEERS, Peer
from peer_models.scores import macro_auroc

WARMUP = 0.05  # fraction of the run
VALIDATIONS = (0.6, 0.8)  # fractions of the run after which to validate, besides its end


@dataclass(frozen=True)
class Trained:
    """Result of a finished run."""

    parameters: int
    epochs: float  # passes over the scans
    minutes: float  # processor time
    validation: float  # macro AUROC by scan, of the validation patients
    test: float | None  # macro AUROC by scan, of the test split; None if not scored


class CachedDataset(ProcessedDataset):
    """Caches volumes in memory, since training on one slice per volume would mostly read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._cache: dict[str, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        if name not in self._cache:
            self._cache[name] = super().read(name)
        return self._cache[name]


class PeerTraining:
    """Training run of a peer.

    Args:
        peer: entry of PEERS.
        rate: peak learning rate.
        seed: seed of the split, the weights and all sampling.
        processed: the processed dataset.
        params: parameters of the project, for split, windows, augmentation, max_grad_norm and
            weight_decay.
    """

    def __init__(
        self, peer: Peer, rate: float, seed: int, processed: ProcessedDataset, params: Params
    ) -> None:
        shape = params.preprocess.shape
        changes = {"slices_per_volume": peer.slices or shape[0], "batch_size": peer.batch_size}
        self.settings = params.train.model_copy(update=changes)
        self.rate, self.seed, self.processed = rate, seed, processed
        rows = processed.volumes("train")
        fraction = params.train.val_fraction
        train, self.held_out = split_validation(rows, processed.findings, fraction, seed)
        self.train_dataset = TrainDataset(processed, train, self.settings, seed)
        self.windows = Windows(code_table(params.preprocess).tolist(), params.model.windows)
        torch.manual_seed(derived_seed(seed, "weights"))
        self.model = peer.build(len(params.model.windows), shape, len(processed.findings))
        start_at_prevalence(self.model.head, torch.from_numpy(self.train_dataset.labels))
        self.optimizer = torch.optim.AdamW(self._groups(), lr=rate, fused=True)

    def _groups(self) -> list[dict]:
        """Group parameters: no weight decay of biases and norms, as in the project's training."""
        decays = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        return [
            {"params": decays, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def run(self, seconds: float, started: float, final: bool) -> Trained:
        """Train until `seconds` of processor time have passed since `started`.

        The schedule ends then. Intermediate validations count as time, the last one does not.
        """
        due = [*VALIDATIONS, math.inf]
        best = (-math.inf, {})
        batches = endless(self.train_dataset, self.settings.batch_size, torch.device("cpu"))
        steps = 0
        while (progress := (time.process_time() - started) / seconds) < 1:
            if progress >= due[0]:
                due.pop(0)
                best = self._better(best)
            self._step(next(batches), steps, progress)
            steps += 1
        used = time.process_time() - started
        validation, weights = self._better(best)
        self.model.load_state_dict(weights)
        return Trained(
            parameters=sum(p.numel() for p in self.model.parameters()),
            epochs=steps * self.settings.batch_size / len(self.train_dataset),
            minutes=used / 60,
            validation=validation,
            test=self._score(self.processed.volumes("test")["name"].tolist()) if final else None,
        )

    def _step(self, batch: Batch, step: int, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * schedule_factor(progress, WARMUP, 1)
        hu = self.windows.decode(batch["volume"])
        hu, labels = augment_batch(hu, batch, self.settings, generator(self.seed, "mix", step))
        logits = self.model.train()(self.windows(hu))
        self.optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logits, labels).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()

    def _better(self, best: tuple[float, dict]) -> tuple[float, dict]:
        found = self._score(self.held_out)
        return (found, copy.deepcopy(self.model.state_dict())) if found > best[0] else best

    @torch.inference_mode()
    def _score(self, names: list[str]) -> float:
        volumes = EvalDataset(self.processed, names)
        self.model.eval()
        logits = [
            self.model(self.windows(self.windows.decode(batch["volume"]))).numpy()
            for batch in eval_dataloader(volumes, 4, 0)
        ]
        return macro_auroc(self.processed, names, np.concatenate(logits))


def start_at_prevalence(head: nn.Linear, labels: Tensor) -> None:
    """Initialize the biases to the findings' prevalence, so that it need not be learned."""
    prevalence = labels.mean(dim=0).clamp(1 / len(labels), 1 - 1 / len(labels))
    with torch.no_grad():
        head.bias.copy_(prevalence.logit())


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    tune_malloc()
    params = Params.model_validate_json(json.dumps(task["params"]))
    started = time.process_time()
    training = PeerTraining(
        PEERS[task["name"]],
        task["rate"],
        task["seed"],
        CachedDataset(Path(task["processed"])),
        params,
    )
    trained = training.run(60 * task["minutes"], started, task["final"])
    sys.stdout.write(json.dumps(asdict(trained)))


if __name__ == "__main__":
    main()
