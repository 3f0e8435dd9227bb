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
from multi_abnormality.data.batches import Batch
from multi_abnormality.data.drawn import drawn_loader
from multi_abnormality.data.mixing import augmented
from multi_abnormality.data.randomness import generator
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.find_learning_rate.range_test import on_device
from multi_abnormality.memory import keep_freed_memory
from multi_abnormality.model.build import build
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.model.device import choose_device, loading_workers
from multi_abnormality.model.losses import multilabel_loss
from multi_abnormality.params import Params
from multi_abnormality.stages import train  # noqa: F401  its imports are part of a start
from multi_abnormality.training import fit
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.checkpoints import LAST
from multi_abnormality.training.finetuning import parameter_groups
from multi_abnormality.training.precision import resolve_precision

IN_MEMORY = 8  # batches


class Watch(Callback):
    """Tells a gate where Lightning stands."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_train_batch_start(self, *_: object) -> None:
        self.gate.data_ready()

    def on_train_batch_end(self, *_: object) -> None:
        self.gate.step_done()


def ours(training: fit.Training, gate: Gate) -> None:
    """The train stage's own."""
    make_trainer = fit.make_trainer

    def watched(*args: object, **kwargs: object) -> lightning.Trainer:
        trainer = make_trainer(*args, **kwargs)
        trainer.callbacks.append(Watch(gate))  # the last: all that a step does is in its time
        gate.save = lambda: trainer.save_checkpoint(training.places.checkpoints / LAST)
        return trainer

    fit.make_trainer = watched
    training.run()


def bare(training: fit.Training, gate: Gate) -> None:
    """The same forward, loss, backward, clip, optimizer and average of weights, and nothing else:
    batches are augmented and on the device before.
    """
    keep_freed_memory()
    params = training.params
    device = choose_device(params.machine.accelerator)
    precision = resolve_precision(params.train.precision, device)
    model = build(training.about).to(device)
    settings = params.train
    groups = parameter_groups(model, params.model, settings.weight_decay, settings.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    average = get_ema_multi_avg_fn(settings.average_decay)
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    loader = drawn_loader(training.volumes.drawn, settings.batch_size, 0, 0, 0)
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
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        averaged.update_parameters(model)
        gate.step_done()


def prepared(
    model: VolumeClassifier, batch: Batch, params: Params, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """HU, labels and heights of an augmented batch."""
    batch = on_device(batch, device)
    hu = model.windows.decode(batch["volume"])
    rng = generator(params.seed, "mix", 0)
    return *augmented(hu, batch, params.train, rng), batch["height"]


class PlainModule(lightning.LightningModule):
    """The same model and loss as a tutorial would train them: float32, weights as they come."""

    def __init__(self, model: VolumeClassifier, params: Params) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.contiguous_format)
        self.params = params

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.params.train.learning_rate)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        hu = self.model.windows.decode(batch["volume"])
        rng = generator(self.params.seed, "mix", batch_idx)
        hu, labels = augmented(hu, batch, self.params.train, rng)
        shown = self.model.windows(hu).unflatten(1, (-1, self.model.adjacent)).flatten(2, 3)
        features = self.model.encoder(shown.flatten(0, 1)).unflatten(0, batch["height"].shape)
        logits, _ = self.model.pooling(features, batch["height"])
        return multilabel_loss(logits, labels, self.params.train)


def plain(training: fit.Training, gate: Gate) -> None:
    """Lightning's trainer with nothing set but the clipping."""
    params = training.params
    workers = loading_workers(params)
    loader = drawn_loader(training.volumes.drawn, params.train.batch_size, workers, 0, 0)
    trainer = lightning.Trainer(
        accelerator="gpu" if choose_device(params.machine.accelerator).type == "cuda" else "cpu",
        devices=1, max_epochs=1, gradient_clip_val=params.train.clip_norm, callbacks=[Watch(gate)],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(PlainModule(build(training.about), params), loader)


LOOPS: dict[str, Callable[[fit.Training, Gate], None]] = {
    "ours": ours,
    "bare": bare,
    "plain": plain,
}


def main() -> None:
    name, steps, processed, given = sys.argv[1:]
    gate = Gate(int(steps))
    gate.mark("interpreter and imports")
    params = Params.model_validate_json(given)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        places = fit.Places(
            folder / "checkpoints", folder / "logs", folder / "history.csv",
            Aside(folder / "aside", folder / "cache"),
        )  # fmt: skip
        training = fit.Training(params, ProcessedSet(Path(processed)), places)
        gate.mark("processed set")
        LOOPS[name](training, gate)


if __name__ == "__main__":
    main()
