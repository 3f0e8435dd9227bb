"""LightningModule of the classifier: training and validation steps."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from multi_abnormality.config.schema import Params
from multi_abnormality.data.transforms.batch import Batch
from multi_abnormality.data.transforms.mixup import augment_batch
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.runtime.process_group import DistributedContext
from multi_abnormality.training.finetuning import FineTuning, parameter_groups
from multi_abnormality.training.history import EpochMetrics, History, StopCriteria
from multi_abnormality.training.losses import multilabel_loss, positive_weights
from multi_abnormality.training.lr_schedule import learning_rate_factor
from multi_abnormality.training.val_metrics import macro_auroc, mean_by_scan
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.rng import derived_seed, generator


@dataclass
class RunningMean:
    """Running mean of the epoch's training loss, stored in checkpoints (Lightning's are not)."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def mean(self) -> float:
        return self.total / self.count


class TrainingModule(lightning.LightningModule):
    """Classifier with its loss, optimizer, schedule and history.

    No random state has to be saved: the device's generator is seeded at the start of each batch
    from the batch's position.

    Args:
        model: classifier to train.
        settings: all parameters.
        labels: (N, F) labels of the training volumes, for the weights of the positives.
        about: metadata stored in every checkpoint (model, fingerprint, environment).
        ranks: distributed context.
    """

    positive_weight: Tensor

    def __init__(
        self,
        model: VolumeClassifier,
        settings: Params,
        labels: Tensor,
        about: dict[str, Any],
        ranks: DistributedContext,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.ranks = ranks
        self.finetuning = FineTuning(model, settings.model)
        weights = positive_weights(labels, settings.train.max_pos_weight)
        self.register_buffer("positive_weight", weights, persistent=False)
        self.seed = settings.seed
        self.about = about
        self.history = History()
        self.complete = False
        self._loss = RunningMean()
        self._ends_step = True  # whether an optimizer step follows the current batch
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = self.settings
        groups = parameter_groups(
            self.model, settings.model, settings.train.weight_decay, settings.train.layer_decay
        )
        fused = self.trainer.precision != "16-mixed"  # fused AdamW would unscale after the clipping
        return torch.optim.AdamW(groups, lr=settings.train.learning_rate, fused=fused)

    def configure_gradient_clipping(self, *_: object, **__: object) -> None:
        """Clip gradients. Lightning's own clipping refuses fused optimizers even in bfloat16."""
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # Scaled gradients may overflow: the scaler skips that step and lowers the scale.
        if self.trainer.precision != "16-mixed" and not norm.isfinite():
            raise InputError(
                f"the gradients of epoch {self.current_epoch}, step {self.global_step}, are not "
                "finite; the last checkpoint is intact. Lower train.learning_rate"
            )
        limit = self.settings.train.max_grad_norm
        if norm > limit:  # multiplying all by 1 would take a hundredth of a step's time
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), limit, norm)

    def on_fit_start(self) -> None:
        if self.settings.train.compile:
            self.model.encoder.compile()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        self.finetuning.apply(self.current_epoch)
        settings, done = self.settings.train, batch_idx + 1
        self._ends_step = (
            done % settings.accumulate_grad_batches == 0
            or done == self.trainer.num_training_batches
        )
        key = (self.current_epoch, batch_idx, self.ranks.rank)
        torch.manual_seed(derived_seed(self.seed, "batch", *key))
        position = self.current_epoch + batch_idx / self.trainer.num_training_batches
        factor = learning_rate_factor(position, settings.warmup_epochs, settings.schedule_epochs)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = settings.learning_rate * factor * group["share"]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rng = generator(self.seed, "mix", self.current_epoch, batch_idx, self.ranks.rank)
        hu = self.model.windows.decode(batch["volume"])
        hu, labels = augment_batch(hu, batch, self.settings.train, rng)
        logits = self.model.classify(hu, batch["height"]).logits
        loss = self._loss_of(logits, labels)
        values = self.ranks.all_gather_scalar(loss.item())
        self._check_loss(values, batch, batch_idx)
        self._loss.add(sum(values) / len(values))
        return loss * self._accumulation_factor(batch_idx)

    def _check_loss(self, values: list[float], batch: Batch, batch_idx: int) -> None:
        bad = [rank for rank, value in enumerate(values) if not math.isfinite(value)]
        if bad:
            names = self.ranks.gather(batch["name"])[bad[0]]
            raise InputError(
                f"the loss is {values[bad[0]]} at epoch {self.current_epoch}, step {batch_idx}, "
                f"on {', '.join(names)}; the last checkpoint is intact. Lower "
                "train.learning_rate, or check these volumes"
            )

    def _accumulation_factor(self, batch_idx: int) -> float:
        """Correct Lightning's division by accumulate_grad_batches in an epoch's last step."""
        accumulate_grad_batches, batches = (
            self.settings.train.accumulate_grad_batches,
            self.trainer.num_training_batches,
        )
        first = batch_idx - batch_idx % accumulate_grad_batches
        return accumulate_grad_batches / min(accumulate_grad_batches, batches - first)

    def on_after_backward(self) -> None:
        if self.ranks.size == 1 or not self._ends_step:
            return
        # Before unscaling, so that an overflow on one device is seen by all.
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        norms = [part for part in self.model.modules() if _tracks_running_stats(part)]
        names = ("running_mean", "running_var")
        statistics = [norm.get_buffer(name) for norm in norms for name in names]
        self.ranks.all_reduce_mean([*gradients, *statistics])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        logits = self.model(batch["volume"])
        self._validation.append((logits.float().cpu(), batch["labels"].cpu(), batch["scan"].cpu()))

    def on_validation_epoch_end(self) -> None:
        local = map(torch.cat, zip(*self._validation, strict=True))
        logits, labels = mean_by_scan(*map(self.ranks.all_gather_volumes, local))
        if not logits.isfinite().all():  # their AUROC would be finite, and could be the best
            raise InputError(
                f"no finite logits in the validation of epoch {self.current_epoch}; "
                "the last checkpoint is intact. Lower train.learning_rate"
            )
        row = EpochMetrics(
            epoch=self.current_epoch,
            step=self.global_step,
            # The first group is the head's, which has the full learning rate.
            learning_rate=self.trainer.optimizers[0].param_groups[0]["lr"],
            train_loss=self._loss.mean,
            val_loss=self._loss_of(logits, labels).item(),
            val_auroc=macro_auroc(logits, labels),
        )
        self.history.epochs.append(row)
        self._loss = RunningMean()
        self._validation.clear()
        if self.history.patience_exceeded(StopCriteria.of(self.settings)):
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history.state()
        checkpoint["train_loss"] = asdict(self._loss)
        checkpoint["about"] = self.about
        checkpoint["complete"] = self.complete

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = History.from_state(checkpoint["history"])
        self._loss = RunningMean(**checkpoint["train_loss"])

    def _loss_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = self.positive_weight.to(logits.device)
        return multilabel_loss(logits, labels, self.settings.train, weight)


def _tracks_running_stats(part: nn.Module) -> bool:
    return part.training and getattr(part, "running_mean", None) is not None
