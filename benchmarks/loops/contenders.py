"""Training loops over the same model, each run in turns by a gate.

    python -m loops.contenders NAME STEPS PROCESSED PARAMS       # NAME: ours | bare | plain

It ends when it is killed.
"""

import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from loops.gate import Gate
from multi_abnormality.config.schema import Params
from multi_abnormality.data.loading.train_dataset import train_dataloader
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.transforms.batch import Batch
from multi_abnormality.data.transforms.mixup import augment_batch
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.device import choose_device, num_loader_workers
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.runtime import training_run
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import LAST
from multi_abnormality.runtime.precision import resolve_precision
from multi_abnormality.stages import train  # noqa: F401  its imports are part of a start
from multi_abnormality.tools.find_lr.range_test import on_device
from multi_abnormality.training.finetuning import parameter_groups
from multi_abnormality.training.losses import multilabel_loss
from multi_abnormality.utils.rng import generator
from multi_abnormality.utils.system_memory import tune_malloc

IN_MEMORY = 8  # batches


class Watch(Callback):
    """Reports Lightning's progress to a gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_train_batch_start(self, *_: object) -> None:
        self.gate.data_ready()

    def on_train_batch_end(self, *_: object) -> None:
        self.gate.step_done()


def ours(training: training_run.TrainingRun, gate: Gate) -> None:
    """The train stage's loop."""
    make_trainer = training_run.make_trainer

    def watched(*args: object, **kwargs: object) -> lightning.Trainer:
        trainer = make_trainer(*args, **kwargs)
        trainer.callbacks.append(Watch(gate))  # last, so that all of a step is measured
        gate.save = lambda: trainer.save_checkpoint(training.paths.checkpoints / LAST)
        return trainer

    training_run.make_trainer = watched
    training.run()


def bare(training: training_run.TrainingRun, gate: Gate) -> None:
    """Bare loop: forward, loss, backward, clipping, optimizer step and weight averaging.

    Batches are augmented and moved to the device in advance.
    """
    tune_malloc()
    params = training.params
    device = choose_device(params.machine.accelerator)
    precision = resolve_precision(params.train.precision, device)
    model = build_classifier(training.about).to(device)
    settings = params.train
    groups = parameter_groups(model, params.model, settings.weight_decay, settings.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    average = get_ema_multi_avg_fn(settings.ema_decay)
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    loader = train_dataloader(training.datamodule.train_dataset, settings.batch_size, 0, 0, 0)
    batches = [
        prepared(model, batch, params, device) for batch in itertools.islice(loader, IN_MEMORY)
    ]
    half = getattr(torch, precision)  # float16 without scaling: only its speed counts here
    for hu, labels, height in itertools.cycle(batches):
        gate.data_ready()
        optimizer.zero_grad()
        with torch.autocast(device.type, half, enabled=precision != "float32"):
            loss = multilabel_loss(model.classify(hu, height).logits, labels, settings)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        averaged.update_parameters(model)
        gate.step_done()


def prepared(
    model: VolumeClassifier, batch: Batch, params: Params, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return HU, labels and heights of an augmented batch."""
    batch = on_device(batch, device)
    hu = model.windows.decode(batch["volume"])
    rng = generator(params.seed, "mix", 0)
    return *augment_batch(hu, batch, params.train, rng), batch["height"]


class PlainModule(lightning.LightningModule):
    """The same model and loss in plain Lightning: float32, default memory format."""

    def __init__(self, model: VolumeClassifier, params: Params) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.contiguous_format)
        self.params = params

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.params.train.learning_rate)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        hu = self.model.windows.decode(batch["volume"])
        rng = generator(self.params.seed, "mix", batch_idx)
        hu, labels = augment_batch(hu, batch, self.params.train, rng)
        shown = self.model.windows(hu).unflatten(1, (-1, self.model.adjacent)).flatten(2, 3)
        features = self.model.encoder(shown.flatten(0, 1)).unflatten(0, batch["height"].shape)
        logits, _ = self.model.pooling(features, batch["height"])
        return multilabel_loss(logits, labels, self.params.train)


def plain(training: training_run.TrainingRun, gate: Gate) -> None:
    """Lightning's Trainer with default settings and gradient clipping."""
    params = training.params
    workers = num_loader_workers(params)
    loader = train_dataloader(
        training.datamodule.train_dataset, params.train.batch_size, workers, 0, 0
    )
    trainer = lightning.Trainer(
        accelerator="gpu" if choose_device(params.machine.accelerator).type == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        gradient_clip_val=params.train.max_grad_norm,
        callbacks=[Watch(gate)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(PlainModule(build_classifier(training.about), params), loader)


LOOPS: dict[str, Callable[[training_run.TrainingRun, Gate], None]] = {
    "ours": ours,
    "bare": bare,
    "plain": plain,
}


def main() -> None:
    name, steps, processed, given = sys.argv[1:]
    gate = Gate(int(steps))
    gate.mark("interpreter and imports")
    params = Params.model_validate_json(given)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        paths = training_run.RunPaths(
            folder / "checkpoints",
            folder / "logs",
            folder / "history.csv",
            CheckpointArchive(folder / "archive", folder / "cache"),
        )
        training = training_run.TrainingRun(params, ProcessedDataset(Path(processed)), paths)
        gate.mark("processed set")
        LOOPS[name](training, gate)


if __name__ == "__main__":
    main()
