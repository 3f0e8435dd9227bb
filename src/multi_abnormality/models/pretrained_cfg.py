"""Description of pretrained weights and of the input that they expect: timm's `pretrained_cfg`."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from torch import Tensor, nn, tensor

from multi_abnormality.utils.errors import InputError

# Licences of timm's models that do not say "nc" or "noncommercial" and forbid commercial use.
_NONCOMMERCIAL = {"apple-amlr", "seer-license"}
_NONCOMMERCIAL_TERMS = re.compile(
    r"\bnc\b|non-?commercial|\b(research|academic)(-\w+)*-only\b|\bonly-for-(\w+-)*(research|academic)"
)
_MIN_STD = 1e-6  # below this, inputs can overflow in float16


@dataclass(frozen=True)
class PretrainedCfg:
    """What is known of a backbone's weights. Names are those of timm's `pretrained_cfg`.

    Attributes:
        architecture: timm's name of the network.
        input_size: channels, y and x that the weights were trained for.
        mean: per input channel, of intensities in [0, 1].
        std: per input channel.
        fixed_input_size: whether slices must have `input_size`; else the network is adapted.
        model_args: further arguments of the network.
        source: repository on the hub, address or file name.
        revision: commit of the repository.
        sha256: hash of the file of weights; None for random weights.
        license: as stated by the source; None if it is not.
        datasets: training data, as stated by the source.
    """

    architecture: str
    input_size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    fixed_input_size: bool = False
    model_args: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    revision: str | None = None
    sha256: str | None = None
    license: str | None = None
    datasets: Sequence[str] = ()

    def __post_init__(self) -> None:
        size = self.input_size
        if not _are_numbers(size) or len(size) != 3 or not all(v > 0 and v % 1 == 0 for v in size):
            self._refuse("input_size", "must be three positive integers: channels, y and x")
        for key, least in (("mean", 0), ("std", _MIN_STD)):
            values = getattr(self, key)
            if not _are_numbers(values):
                self._refuse(key, "must be a list of numbers")
            if len(values) not in {1, size[0] if size[0] > 1 else 3}:  # 3: timm keeps those of RGB
                self._refuse(key, f"must have {size[0]} numbers, one a channel")
            if any(value > 1 for value in values):
                self._refuse(key, "must be for intensities from 0 to 1: divide by 255")
            if not all(least <= value <= 1 for value in values):
                self._refuse(key, f"must be from {least} to 1")
        if not isinstance(self.fixed_input_size, bool):
            self._refuse("fixed_input_size", "must be true or false")

    def _refuse(self, key: str, problem: str) -> None:
        raise InputError(
            f"model.backbone: {key} of the configuration of {self.source or self.architecture} is "
            f"{getattr(self, key)!r}, but it {problem}; set model.pretrained_cfg_overlay.{key}"
        )

    @classmethod
    def from_dict(cls, content: dict[str, Any] | None) -> Self | None:
        return None if content is None else cls(**content)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, such as lists instead of tuples."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    @property
    def is_noncommercial(self) -> bool:
        text = _hyphenated(self.license or "")
        named = re.split("[,;][- ]*", text)
        return not _NONCOMMERCIAL.isdisjoint(named) or bool(_NONCOMMERCIAL_TERMS.search(text))

    @property
    def has_seen_ct_rate(self) -> bool:
        return any(re.search(r"\bct-?rate\b", _hyphenated(name)) for name in self.datasets)


class InputNormalization(nn.Module):
    """Maps intensities from [-1, 1] to those that a pretrained backbone expects.

    Args:
        mean: per channel, of intensities in [0, 1].
        std: per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", tensor(mean)[:, None, None])
        self.register_buffer("std", tensor(std)[:, None, None])

    def forward(self, slices: Tensor) -> Tensor:
        """Map (N, C, Y, X) in [-1, 1] to (x - mean) / std, where x is in [0, 1]."""
        return (slices - (2 * self.mean - 1)) / (2 * self.std)


def input_normalization(cfg: PretrainedCfg | None, channels: int) -> InputNormalization | None:
    """Return the normalization of slices with this number of channels; None for random weights.

    For another number of channels than `input_size` timm repeats the weights of the first
    convolution, so mean and std are repeated too; for one channel it sums them, so mean and std are
    averaged.
    """
    if cfg is None or cfg.sha256 is None:
        return None
    trained = cfg.input_size[0]
    return InputNormalization(_fit(cfg.mean, trained, channels), _fit(cfg.std, trained, channels))


def weights_facts(cfg: PretrainedCfg | None) -> dict[str, str]:
    """Return properties of pretrained weights by title, for the report."""
    if cfg is None or cfg.sha256 is None:
        return {}
    return {
        "Licence of the weights": cfg.license or "not stated",
        "Training data of the weights": ", ".join(cfg.datasets) or "not stated",
        "SHA-256 of the weights": cfg.sha256,
    }


def weights_warnings(cfg: PretrainedCfg | None, scores_ct_rate: bool) -> list[str]:
    """Return what users of a model must know about its pretrained weights.

    Args:
        cfg: of the model's backbone.
        scores_ct_rate: whether the test split is CT-RATE's.
    """
    if cfg is None or cfg.sha256 is None:
        return []
    lines = []
    if cfg.is_noncommercial:
        lines.append(
            f"The pretrained weights ({cfg.source}) are licensed for non-commercial use only "
            f"({cfg.license}), and so is this model."
        )
    if scores_ct_rate and cfg.has_seen_ct_rate:
        lines.append(
            f"The pretrained weights ({cfg.source}) were trained on CT-RATE, whose test split is "
            "scored here: if they have seen its scans, the scores are too high."
        )
    return lines


def _fit(values: Sequence[float], trained: int, channels: int) -> list[float]:
    """Fit one value a channel to another number of channels, as timm fits the weights."""
    if trained == 1 or channels == 1:
        values = [math.fsum(values) / len(values)]
    return [float(values[channel % len(values)]) for channel in range(channels)]


def _are_numbers(values: object) -> bool:
    return isinstance(values, list | tuple) and all(type(value) in (int, float) for value in values)


def _hyphenated(text: str) -> str:
    """Return a name in lower case, with one hyphen between words."""
    return re.sub(r"[\W_]+", "-", text.lower())
