"""Training step: forward, loss, backward, gradient clipping, optimizer step, weight averaging.

With one device, the CPU never waits for it during a step: losses and gradient norms stay on the
device until `flush`.
"""

import math
import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from multi_abnormality.config.schema import Params, Train
from multi_abnormality.data.catalog.label_checks import is_labeled
from multi_abnormality.data.loading.epoch_sampler import sampling_frequencies
from multi_abnormality.data.transforms.batch import Batch
from multi_abnormality.data.transforms.mixup import augment_batch
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.training.finetuning import FineTuning, parameter_groups
from multi_abnormality.training.frozen_features import random_layer_reason, uncached_reason
from multi_abnormality.training.history import History, StepMetrics
from multi_abnormality.training.losses import multilabel_loss, positive_weights
from multi_abnormality.training.lr_schedule import learning_rate, set_learning_rate
from multi_abnormality.training.weight_average import WeightAverage
from multi_abnormality.utils.collectives import gather
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.rng import derived_seed, generator

# A loss scale of 65536 is halved by each overflow: 40 of them make it 6e-8.
MAX_OVERFLOWS = 40


@dataclass
class RunningMean:
    """Running mean of the epoch's training loss."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def mean(self) -> float:
        return self.total / self.count


@dataclass(frozen=True)
class _Pending:
    """A batch whose loss was not read from the device yet."""

    epoch: int
    index: int  # of the batch in the epoch
    names: list[str]
    loss: Tensor
    step: int  # optimizer steps done
    learning_rate: float
    grad_norm: Tensor | None  # None: no optimizer step followed the batch


class AugmentedClassifier(nn.Module):
    """Classifier that augments its training batches itself, so that DDP wraps both.

    Augmentation takes integer codes: Fabric and DDP would cast or copy float inputs.
    """

    def __init__(self, model: VolumeClassifier, settings: Train) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def forward(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the (N, F) logits and labels of a training batch, after augmentation."""
        if "features" in batch:
            features, labels = batch["features"].float(), batch["labels"]
            return self.model.classify_features(features, batch["height"]).logits, labels
        hu = self.model.windows.decode(batch["volume"])
        hu, labels = augment_batch(hu, batch, self.settings, rng)
        return self.model.classify(hu, batch["height"]).logits, labels


class TrainingStep:
    """A classifier with its optimizer, schedule and weight average, trained batch by batch.

    No random state has to be saved: the device's generator is seeded at the start of each batch
    from the batch's position.

    Args:
        model: classifier to train.
        params: parameters of the run.
        labels: (N, F) labels of the training volumes, for the weights of the positives, and for the
            share of labels that are not missing.
        fabric: device, precision and process group.
        num_batches: number of batches per epoch.

    Attributes:
        uncached_reason: why features of the slices are not cached; None if batches must have them.
        average: moving average (EMA) of the weights; it is validated, and saved for inference.
        best_states: EMA weights of the best epochs so far, by epoch; empty unless
            `train.average_best` is above 1.
        labeled_share: share of the labels drawn in an epoch that are not missing, on average.
        steps: number of optimizer steps so far.
        train_loss: mean loss of the epoch, up to the last `flush`.
    """

    def __init__(
        self,
        model: VolumeClassifier,
        params: Params,
        labels: Tensor,
        fabric: Fabric,
        num_batches: int,
    ) -> None:
        settings = params.train
        self.params = params
        self.fabric = fabric
        self.num_batches = num_batches
        self.finetuning = FineTuning(model, params.model)
        # DDP only averages gradients of parameters that are trainable when it wraps the model.
        self.finetuning.apply(epoch=sys.maxsize)
        groups = parameter_groups(model, params.model, settings.weight_decay, settings.layer_decay)
        self.uncached_reason = uncached_reason(params.model, settings)
        self.uncached_reason = self.uncached_reason or random_layer_reason(model, settings)
        module = AugmentedClassifier(model, settings).to(fabric.device)
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self.module, self.optimizer = fabric.setup(module, optimizer)
        constant = None if self.uncached_reason else model.encoder
        self.average = WeightAverage(module, settings.ema_decay, constant)
        self.best_states: dict[int, dict[str, Tensor]] = {}
        self._parameters = list(module.parameters())
        frequencies = torch.from_numpy(
            sampling_frequencies(labels.numpy(), settings.oversample_threshold)
        )
        weights = positive_weights(labels, settings.max_pos_weight, frequencies)
        self.positive_weight = weights.to(fabric.device)
        labeled = (is_labeled(labels) * frequencies[:, None]).sum().item()
        self.labeled_share = (labeled or 1) / labels.numel()
        self.steps = 0
        self.train_loss = RunningMean()
        self._pending: list[_Pending] = []
        self._overflows = 0  # optimizer steps in a row that the loss scaler skipped
        self._step_losses: list[float] = []  # of batches that no optimizer step followed yet
        if settings.compile:
            model.encoder.compile()
            self.average.module.model.encoder.compile()

    def begin_epoch(self, epoch: int) -> None:
        """Freeze and unfreeze for an epoch; call before its first step, also after a resume."""
        self.module.train()
        self.finetuning.apply(epoch)

    def __call__(self, batch: Batch, epoch: int, index: int) -> bool:
        """Train on batch number `index` of an epoch.

        Returns:
            Whether the batch ended an optimizer step; if not, its gradients are accumulated.
        """
        seed, rank = self.params.seed, self.fabric.global_rank
        torch.manual_seed(derived_seed(seed, "batch", epoch, index, rank))
        settings = self.params.train
        rate = learning_rate(settings, epoch + index / self.num_batches)
        set_learning_rate(self.optimizer, rate)
        # Batches whose gradients one optimizer step accumulates; the epoch's last may have fewer.
        group_start = index - index % settings.accumulate_grad_batches
        group_size = min(settings.accumulate_grad_batches, self.num_batches - group_start)
        ends_step = index + 1 == group_start + group_size
        rng = generator(seed, "mix", epoch, index, rank)  # of MixUp and CutMix
        loss, _ = self.accumulate(batch, rng, group_size, ends_step)
        grad_norm = self.optimizer_step() if ends_step else None
        self._pending.append(
            _Pending(epoch, index, batch["name"], loss, self.steps, rate, grad_norm)
        )
        return ends_step

    def accumulate(
        self, batch: Batch, rng: np.random.Generator, count: int, ends_step: bool
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients of a batch.

        Args:
            batch: training batch, on the device.
            rng: generator for MixUp and CutMix.
            count: number of batches of the optimizer step.
            ends_step: whether this is the last one; then gradients are averaged over the devices.

        Returns:
            The loss, and the (N, F) labels after augmentation.
        """
        with self.fabric.no_backward_sync(self.module, enabled=not ends_step):
            logits, labels = self.module(batch, rng)
            loss = self.loss(logits, labels, self.labeled_share)
            self.fabric.backward(loss / count)
        return loss.detach(), labels

    def loss(self, logits: Tensor, labels: Tensor, labeled_share: float | None = None) -> Tensor:
        """Compute the loss; see `multilabel_loss` for `labeled_share`."""
        weight = self.positive_weight.to(logits.device)
        return multilabel_loss(logits, labels, self.params.train, weight, labeled_share)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last batch, of the head: the first group has the full rate."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def optimizer_step(self) -> Tensor:
        """Clip the gradients, take a step and update the average; return the gradients' norm."""
        self._average_batch_norm_statistics()
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self.params.train.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        self.average.update(self.steps)
        return norm

    @torch.no_grad()
    def _average_batch_norm_statistics(self) -> None:
        """Average running statistics over the devices, as DDP does with gradients."""
        if self.fabric.world_size == 1:
            return
        norms = [part for part in self.module.modules() if _tracks_running_stats(part)]
        if not norms:
            return
        statistics = [
            norm.get_buffer(name) for norm in norms for name in ("running_mean", "running_var")
        ]
        joined: Any = self.fabric.all_reduce(torch.cat(statistics), reduce_op="mean")
        for tensor, mean in zip(statistics, joined.split(list(map(len, statistics))), strict=True):
            tensor.copy_(mean)

    def flush(self) -> list[StepMetrics]:
        """Read the losses since the last call, which waits for the device. All ranks call it.

        Returns:
            Metrics of the optimizer steps since the last call.

        Raises:
            InputError: a loss or gradient is not finite.
        """
        if not self._pending:
            return []
        pending, self._pending = self._pending, []
        by_rank = gather(torch.stack([each.loss for each in pending]).tolist())
        on_device = [each.grad_norm for each in pending if each.grad_norm is not None]
        norms = iter(torch.stack(on_device).tolist() if on_device else [])
        steps = []
        for each, *values in zip(pending, *by_rank, strict=True):
            self._check_loss(values, each)
            loss = sum(values) / len(values)
            self.train_loss.add(loss)
            self._step_losses.append(loss)
            if each.grad_norm is None:
                continue
            norm = next(norms)
            self._check_gradients(math.isfinite(norm), each)
            mean = sum(self._step_losses) / len(self._step_losses)
            steps.append(StepMetrics(each.step, mean, each.learning_rate, norm))
            self._step_losses = []
        return steps

    def end_epoch(self) -> float:
        """Return the epoch's mean training loss, and start a new mean."""
        mean, self.train_loss = self.train_loss.mean, RunningMean()
        return mean

    def keep_best_epochs(self, history: History) -> None:
        """Keep a copy of the averaged weights if the history's last epoch is one of the best."""
        count = self.params.train.average_best
        newest, best = history.epochs[-1], history.ranked(count)
        if count == 1 or newest not in best:
            return
        state = {
            name: tensor.to("cpu", copy=True)
            for name, tensor in self.average.module.state_dict().items()
        }
        states = self.best_states | {newest.epoch: state}
        self.best_states = {epoch.epoch: states[epoch.epoch] for epoch in best}

    @property
    def _is_scaled(self) -> bool:
        return getattr(self.fabric.strategy.precision, "scaler", None) is not None

    def _check_gradients(self, are_finite: bool, pending: _Pending) -> None:
        """Raise if gradients are not finite; with a loss scale, if those of many steps are not.

        Scaled gradients may overflow: the scaler skips that step and lowers the scale.
        """
        self._overflows = 0 if are_finite else self._overflows + 1
        if self._overflows > (MAX_OVERFLOWS if self._is_scaled else 0):
            many, advice = "", "Lower train.learning_rate"
            if self._is_scaled:
                many = f"{self._overflows} steps in a row, which float16 skipped, up to "
                advice += ", or set train.precision to float32"
            raise InputError(
                f"the gradients of {many}epoch {pending.epoch}, batch {pending.index}, are not "
                f"finite; the last checkpoint is intact. {advice}"
            )

    def _check_loss(self, values: list[float], pending: _Pending) -> None:
        bad = [rank for rank, value in enumerate(values) if not math.isfinite(value)]
        if bad:
            names = gather(pending.names)[bad[0]]
            raise InputError(
                f"the loss is {values[bad[0]]} at epoch {pending.epoch}, batch {pending.index}, "
                f"on {', '.join(names)}; the last checkpoint is intact. Lower "
                "train.learning_rate, or check these volumes"
            )

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Tensor:
        """Return the (N, F) logits of complete volumes, by the averaged weights, on the CPU."""
        model = self.average.module.model
        with self.fabric.autocast():
            if "features" in batch:
                features = batch["features"].float()
                logits = model.classify_features(features, model.heights(features)).logits
            else:
                logits = model(batch["volume"])
        return logits.float().cpu()

    @torch.inference_mode()
    def encode(self, volume: Tensor) -> Tensor:
        """Return the (N, Z, width) features of complete volumes (N, Z, Y, X), on the device."""
        with self.fabric.autocast():
            return self.average.module.model.encode(volume)

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint; `state_dict` has the averaged weights."""
        keeps_best = self.params.train.average_best > 1
        return {
            "state_dict": self.average.module.state_dict(),
            "current_model_state": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "steps": self.steps,
            "train_loss": asdict(self.train_loss),
        } | ({"best_epochs": self.best_states} if keeps_best else {})

    def load_state(self, state: dict[str, Any]) -> None:
        self.average.module.load_state_dict(state["state_dict"])
        self.module.load_state_dict(state["current_model_state"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["precision"]:  # float16 has a loss scale, other precisions nothing
            self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.steps = state["steps"]
        self.best_states = state.get("best_epochs", {})
        self.train_loss = RunningMean(**state["train_loss"])


def _tracks_running_stats(part: nn.Module) -> bool:
    return part.training and getattr(part, "running_mean", None) is not None
