"""A training step never waits for its device."""

from collections import Counter
from contextlib import ExitStack
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from multi_abnormality.runtime.fabric_setup import make_fabric
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.training.training_step import TrainingStep

# Operations whose result is needed on the host, or whose size depends on a value.
OPERATIONS = {
    "_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_static",
    "argwhere", "masked_select", "unique", "_unique", "_unique2", "unique_dim", "bincount",
    "unique_consecutive",
    "repeat_interleave", "histc", "linalg_eig",
}  # fmt: skip
METHODS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")
VIT = {"backbone": "test_vit", "multiscale": False, "finetune": "lora"}


class SyncCounter(TorchDispatchMode):
    """Counts operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in OPERATIONS or masks:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))

    def watch_methods(self) -> ExitStack:
        """Also count calls of tensors' methods, some of which dispatch nothing on a CPU."""
        stack = ExitStack()
        for name in METHODS:
            original = getattr(torch.Tensor, name)

            def counted(tensor, *args, name=name, original=original, **kwargs):
                self.found[name] += 1
                return original(tensor, *args, **kwargs)

            stack.enter_context(mock.patch.object(torch.Tensor, name, counted))
        return stack


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(), lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x.numpy(),
        lambda x: x[x > 0], lambda x: bool(x.sum() > 0), lambda x: x.unique(), torch.Tensor.nonzero,
        lambda x: x.masked_select(x > 0), lambda x: torch.equal(x, x),
        lambda x: x.repeat_interleave(torch.ones(1, dtype=torch.int64)),
    ],
)  # fmt: skip
def test_synchronizations_are_counted(read):
    x = torch.ones(1)
    counter = SyncCounter()
    with counter, counter.watch_methods():
        read(x)
    assert counter.found


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({}, {}),
        ({}, {"augmentation": "advanced", "mixup_prob": 0.5, "cutmix_prob": 0.5}),
        (VIT, {"precision": "bfloat16"}),
    ],
    ids=["default", "advanced", "lora"],
)
def test_steps_do_not_wait_for_the_device(model: dict, train: dict, runner, tmp_path):
    run = runner.prepare(tmp_path, model=model, **train)
    settings, data = run.params.train, run.datamodule
    precision = train.get("precision", "float32")
    fabric = make_fabric(settings, torch.device("cpu"), precision, ProcessGroup())
    missing = np.random.default_rng(0).random(data.train_dataset.labels.shape) < 0.3
    data.train_dataset.labels[missing] = np.nan
    labels = torch.from_numpy(data.train_dataset.labels)
    step = TrainingStep(run._build(), run.params, labels, fabric, data.batches)
    for group in step.optimizer.param_groups:  # as on a GPU, AdamW's steps are on the device
        assert group["fused"]
    counter, steps = SyncCounter(), 0
    for epoch in range(4):
        step.begin_epoch(epoch)
        for index, batch in enumerate(data.train_batches(epoch, 0)):
            if steps:  # the first one also sets up the optimizer
                with counter, counter.watch_methods():
                    step(batch, epoch, index)
            else:
                step(batch, epoch, index)
            steps += 1
    assert steps > 10
    assert counter.found == Counter()
    step.flush()
    assert np.isfinite(step.end_epoch())
