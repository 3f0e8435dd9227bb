"""Peak memory of one training step: `python -m loops.memory SLICES PARAMS`.

Uses one volume of noise with this number of slices. Prints bytes of the process or the GPU as JSON.
"""

import json
import resource
import sys

import torch

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.device import choose_device
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.runtime.fabric_setup import resolve_precision
from multi_abnormality.training.finetuning import FineTuning, parameter_groups
from multi_abnormality.training.losses import multilabel_loss
from multi_abnormality.utils.system_memory import tune_malloc


def build(params: Params) -> VolumeClassifier:
    """Build a classifier with random weights, trainable as in the last epoch."""
    about = {
        "findings": list(FINDINGS),
        "preprocess": params.preprocess.recipe.model_dump(mode="json"),
        "model": params.model.model_dump(mode="json"),
    }
    model = build_classifier(about)
    FineTuning(model, params.model).apply(params.train.epochs)
    return model


def step(
    model: VolumeClassifier,
    params: Params,
    slices: int,
    device: torch.device,
    precision: str,
    volumes: int = 1,
) -> None:
    """Run one training step on volumes of noise."""
    settings = params.train
    groups = parameter_groups(model, params.model, settings.weight_decay, settings.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    volume = torch.randint(256, (volumes, slices, *params.preprocess.shape[1:]), device=device)
    half = getattr(torch, precision)
    with torch.autocast(device.type, half, enabled=precision != "float32"):
        logits = model(volume.to(torch.uint8))
        loss = multilabel_loss(logits, torch.zeros_like(logits), settings)
    loss.backward()
    optimizer.step()


def main() -> None:
    params = Params.model_validate_json(sys.argv[2])
    device = choose_device(params.machine.accelerator)
    tune_malloc()
    precision = resolve_precision(params.train.precision, device)
    step(build(params).to(device), params, int(sys.argv[1]), device, precision)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps(peak))


if __name__ == "__main__":
    main()
