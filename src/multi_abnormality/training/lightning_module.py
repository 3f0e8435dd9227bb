"""Training as Lightning runs it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from multi_abnormality.data.batches import Batch
from multi_abnormality.data.mixing import augmented
from multi_abnormality.data.randomness import derived_seed, generator
from multi_abnormality.errors import InputError
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.model.losses import multilabel_loss, positive_weights
from multi_abnormality.params import Params
from multi_abnormality.training.finetuning import FineTuning, parameter_groups
from multi_abnormality.training.history import Epoch, History, Limits
from multi_abnormality.training.ranks import Ranks
from multi_abnormality.training.schedule import learning_rate_factor
from multi_abnormality.training.validation import macro_auroc, mean_by_scan


@dataclass
class RunningMean:
    """Of an epoch so far: Lightning's own are not in its checkpoints."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def mean(self) -> float:
        return self.total / self.count


class TrainingModule(lightning.LightningModule):
    """A classifier with its loss, optimizer, schedule and history.

    Nothing in it needs a random state to be saved: draws on the device are seeded at the start of
    each batch, from where the batch stands.

    Args:
        model: what is trained.
        settings: seed, model and train.
        labels: (N, F) of what is trained on, to weigh the findings by.
        about: what a checkpoint must say besides, such as what the model is made of.
        ranks: the processes that train it together.
    """

    positive_weight: Tensor

    def __init__(
        self,
        model: VolumeClassifier,
        settings: Params,
        labels: Tensor,
        about: dict[str, Any],
        ranks: Ranks,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.ranks = ranks
        self.finetuning = FineTuning(model, settings.model)
        weights = positive_weights(labels, settings.train.positive_weight_limit)
        self.register_buffer("positive_weight", weights, persistent=False)
        self.seed = settings.seed
        self.about = about
        self.history = History()
        self.complete = False
        self._loss = RunningMean()
        self._ends_step = True  # whether the optimizer's step follows the batch under way
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = self.settings
        groups = parameter_groups(
            self.model, settings.model, settings.train.weight_decay, settings.train.layer_decay
        )
        fused = self.trainer.precision != "16-mixed"  # scaled gradients are clipped after unscaling
        return torch.optim.AdamW(groups, lr=settings.train.learning_rate, fused=fused)

    def configure_gradient_clipping(self, *_: object, **__: object) -> None:
        """Clip. Lightning's own refuses fused optimizers in bfloat16, where nothing is scaled."""
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # Scaled gradients may overflow: that step is left out, and the scale lowered.
        if self.trainer.precision != "16-mixed" and not norm.isfinite():
            raise InputError(
                f"the gradients of epoch {self.current_epoch}, step {self.global_step}, are not "
                "finite; what was saved before is kept. Lower train.learning_rate"
            )
        limit = self.settings.train.clip_norm
        if norm > limit:  # or all would be multiplied by one, in a hundredth of a step's time
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), limit, norm)

    def on_fit_start(self) -> None:
        if self.settings.train.compile:
            self.model.encoder.compile()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        self.finetuning.apply(self.current_epoch)
        settings, done = self.settings.train, batch_idx + 1
        self._ends_step = (
            done % settings.accumulate == 0 or done == self.trainer.num_training_batches
        )
        place = (self.current_epoch, batch_idx, self.ranks.rank)
        torch.manual_seed(derived_seed(self.seed, "batch", *place))
        position = self.current_epoch + batch_idx / self.trainer.num_training_batches
        factor = learning_rate_factor(position, settings.warmup_epochs, settings.schedule_epochs)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = settings.learning_rate * factor * group["share"]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rng = generator(self.seed, "mix", self.current_epoch, batch_idx, self.ranks.rank)
        hu = self.model.windows.decode(batch["volume"])
        hu, labels = augmented(hu, batch, self.settings.train, rng)
        logits = self.model.classify(hu, batch["height"]).logits
        loss = self._loss_of(logits, labels)
        values = self.ranks.gather_number(loss.item())
        self._check_loss(values, batch, batch_idx)
        self._loss.add(sum(values) / len(values))
        return loss * self._share(batch_idx)

    def _check_loss(self, values: list[float], batch: Batch, batch_idx: int) -> None:
        wrong = [rank for rank, value in enumerate(values) if not math.isfinite(value)]
        if wrong:
            names = self.ranks.gather(batch["name"])[wrong[0]]
            raise InputError(
                f"the loss is {values[wrong[0]]} at epoch {self.current_epoch}, step {batch_idx}, "
                f"on {', '.join(names)}; what was saved before is kept. Lower "
                "train.learning_rate, or look at these volumes"
            )

    def _share(self, batch_idx: int) -> float:
        """Lightning divides each loss by train.accumulate; an epoch's last step may have fewer."""
        accumulate, batches = self.settings.train.accumulate, self.trainer.num_training_batches
        first = batch_idx - batch_idx % accumulate
        return accumulate / min(accumulate, batches - first)

    def on_after_backward(self) -> None:
        if self.ranks.size == 1 or not self._ends_step:
            return
        # Before a loss scale is taken out again: an overflow on one device is one on all.
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        norms = [part for part in self.model.modules() if _gathers_statistics(part)]
        names = ("running_mean", "running_var")
        statistics = [norm.get_buffer(name) for norm in norms for name in names]
        self.ranks.average([*gradients, *statistics])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        logits = self.model(batch["volume"])
        self._validation.append((logits.float().cpu(), batch["labels"].cpu(), batch["scan"].cpu()))

    def on_validation_epoch_end(self) -> None:
        mine = map(torch.cat, zip(*self._validation, strict=True))
        logits, labels = mean_by_scan(*map(self.ranks.gather_volumes, mine))
        if not logits.isfinite().all():  # its AUROC would be a number, and it could be the best
            raise InputError(
                f"no finite logits in the validation of epoch {self.current_epoch}; "
                "what was saved before is kept. Lower train.learning_rate"
            )
        row = Epoch(
            epoch=self.current_epoch,
            step=self.global_step,
            # Of what is above the backbone, which has all of it.
            learning_rate=self.trainer.optimizers[0].param_groups[0]["lr"],
            train_loss=self._loss.mean,
            val_loss=self._loss_of(logits, labels).item(),
            val_auroc=macro_auroc(logits, labels),
        )
        self.history.epochs.append(row)
        self._loss = RunningMean()
        self._validation.clear()
        if self.history.stalled(Limits.of(self.settings)):
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


def _gathers_statistics(part: nn.Module) -> bool:
    return part.training and getattr(part, "running_mean", None) is not None
