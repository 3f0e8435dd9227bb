"""Training loops over the same model, each run in turns by a gate.

    python -m loops.contenders NAME STEPS PROCESSED PARAMS       # NAME: ours | bare | eager | plain

It ends when it is killed. With torchrun's variables it is one rank of several.
"""

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import default_collate

from loops.gate import Gate
from multi_abnormality.config.schema import Params
from multi_abnormality.data.loading.train_dataset import train_dataloader
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.transforms.batch import Batch, batches_on_device
from multi_abnormality.data.transforms.mixup import augment_batch
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.device import choose_device, num_loader_workers
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.runtime import training_run
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import Position
from multi_abnormality.runtime.checkpoint_saver import CheckpointSaver
from multi_abnormality.runtime.fabric_setup import resolve_precision
from multi_abnormality.runtime.process_group import find_rank
from multi_abnormality.stages import train  # noqa: F401  its imports are part of a start
from multi_abnormality.training.finetuning import parameter_groups
from multi_abnormality.training.losses import multilabel_loss
from multi_abnormality.utils.rng import generator
from multi_abnormality.utils.system_memory import tune_malloc

IN_MEMORY = 8  # batches


def ours(training: training_run.TrainingRun, gate: Gate) -> None:
    """The train stage's loop."""
    data, make_saver = training.datamodule, training._make_saver
    train_batches = data.train_batches

    def watched(epoch: int, first: int) -> Iterator[Batch]:
        for number, batch in enumerate(train_batches(epoch, first)):
            if epoch or number:
                gate.step_done()  # all of the loop's step, until it asks for the next batch
            gate.data_ready()
            yield batch

    def saving(*args: object) -> CheckpointSaver:
        saver = make_saver(*args)
        gate.save = lambda: saver.save(Position(0, 1))
        return saver

    data.train_batches, training._make_saver = watched, saving
    training.run()


class Classify(nn.Module):
    """`VolumeClassifier.classify` as the forward method, which DDP wraps."""

    def __init__(self, model: VolumeClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, hu: Tensor, height: Tensor) -> Tensor:
        """Return the (N, F) logits."""
        return self.model.classify(hu, height).logits


def bare(training: training_run.TrainingRun, gate: Gate, is_eager: bool = False) -> None:
    """Bare loop: forward, loss, backward, clipping, optimizer step and weight averaging.

    Batches are augmented and moved to the device in advance. With `is_eager` it computes in
    float32 and PyTorch's default memory format; with several ranks DDP averages the gradients.
    """
    tune_malloc()
    params = training.params
    device = choose_device(params.machine.accelerator)
    precision = "float32" if is_eager else resolve_precision(params.train.precision, device)
    model = build_classifier(training.metadata).to(device)
    if is_eager:
        model.to(memory_format=torch.contiguous_format)
    settings = params.train
    groups = parameter_groups(model, params.model, settings.weight_decay, settings.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    average = get_ema_multi_avg_fn(settings.ema_decay)
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    classify: nn.Module = Classify(model)
    rank, size = training.ranks.rank, training.ranks.size
    if size > 1:  # with the flag that resuming to the byte requires
        classify = DistributedDataParallel(classify, find_unused_parameters=True)
    dataset = training.datamodule.train_dataset
    loader = train_dataloader(dataset, settings.batch_size, 0, 0, 0, rank, size)
    first = itertools.islice(loader, IN_MEMORY)
    batches = [prepared(model, batch, params) for batch in batches_on_device(first, device)]
    half = getattr(torch, precision)  # float16 without scaling: only its speed counts here
    for hu, labels, height in itertools.cycle(batches):
        gate.data_ready()
        optimizer.zero_grad()
        with torch.autocast(device.type, half, enabled=precision != "float32"):
            loss = multilabel_loss(classify(hu, height), labels, settings)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        averaged.update_parameters(model)
        gate.step_done()


def prepared(
    model: VolumeClassifier, batch: Batch, params: Params
) -> tuple[Tensor, Tensor, Tensor]:
    """Return HU, labels and heights of an augmented batch."""
    hu = model.windows.decode(batch["volume"])
    rng = generator(params.seed, "mix", 0)
    return *augment_batch(hu, batch, params.train, rng), batch["height"]


def plain(training: training_run.TrainingRun, gate: Gate) -> None:
    """Lightning's Trainer with default settings and gradient clipping.

    It trains the same model and loss, in float32 and the default memory format.
    """
    import lightning

    params = training.params

    class PlainModule(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model: nn.Module = build_classifier(training.metadata)
            self.model.to(memory_format=torch.contiguous_format)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=params.train.learning_rate)

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            hu = self.model.windows.decode(batch["volume"])
            rng = generator(params.seed, "mix", batch_idx)
            hu, labels = augment_batch(hu, batch, params.train, rng)
            shown = self.model.windows(hu).unflatten(1, (-1, self.model.adjacent)).flatten(2, 3)
            features = self.model.encoder(shown.flatten(0, 1)).unflatten(0, batch["height"].shape)
            logits, _ = self.model.pooling(features, batch["height"])
            return multilabel_loss(logits, labels, params.train)

    class Watch(lightning.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            gate.data_ready()

        def on_train_batch_end(self, *_: object) -> None:
            gate.step_done()

    workers = num_loader_workers(params)
    loader = train_dataloader(
        training.datamodule.train_dataset, params.train.batch_size, workers, 0, 0
    )
    loader.collate_fn = default_collate
    trainer = lightning.Trainer(
        accelerator="gpu" if choose_device(params.machine.accelerator).type == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        gradient_clip_val=params.train.max_grad_norm,
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(PlainModule(), loader)


LOOPS: dict[str, Callable[[training_run.TrainingRun, Gate], None]] = {
    "ours": ours,
    "bare": bare,
    "eager": partial(bare, is_eager=True),
    "plain": plain,
}


def main() -> None:
    name, steps, processed, given = sys.argv[1:]
    params = Params.model_validate_json(given)
    device = choose_device(params.machine.accelerator)
    ranks = find_rank(params.machine, device, params.train.batch_size)
    gate = Gate(int(steps), is_open=not ranks.is_rank_zero)
    gate.mark("interpreter and imports")
    ranks.join(device)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        paths = training_run.RunPaths(
            folder / "checkpoints",
            folder / "logs",
            folder / "history.csv",
            CheckpointArchive(folder / "archive", folder / "cache"),
        )
        training = training_run.TrainingRun(params, ProcessedDataset(Path(processed)), paths, ranks)
        gate.mark("processed set")
        LOOPS[name](training, gate)


if __name__ == "__main__":
    main()
