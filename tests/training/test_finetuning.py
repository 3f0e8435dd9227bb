"""Fine-tuning: trainable parameters by epoch, also across a resume."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from multi_abnormality.config.schema import Lora
from multi_abnormality.models.factory import build_classifier, restore_classifier
from multi_abnormality.models.lora import LoraLinear, add_lora
from multi_abnormality.runtime.checkpoint_io import BEST, LAST, load_checkpoint
from multi_abnormality.runtime.graceful_stop import Stopped
from multi_abnormality.training.finetuning import FineTuning, parameter_groups
from multi_abnormality.training.history import EpochMetrics, History, StopCriteria
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.rng import derived_seed
from stops import StopAtCheck

BACKBONE = "model.encoder.backbone."
LORA = Lora(rank=4, alpha=8.0, targets=("qkv", "mlp.fc1"))
ADAPTED = {"backbone": "test_vit", "multiscale": False, "finetune": "lora", "lora": LORA}


def at_start(about: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(derived_seed(0, "weights"))
    return {f"model.{name}": value for name, value in build_classifier(about).state_dict().items()}


def changed(folder: Path, name: str = LAST, state: str = "current_model_state") -> set[str]:
    """Return the backbone's tensors, including statistics, that differ from the initial ones."""
    checkpoint = load_checkpoint(folder / "checkpoints" / name)
    before, after = at_start(checkpoint["about"]), checkpoint[state]
    assert before.keys() == after.keys()
    return {
        name.removeprefix(BACKBONE)
        for name in before
        if name.startswith(BACKBONE) and (before[name] != after[name]).any()
    }


def test_frozen_backbone_is_bitwise_unchanged(runner, tmp_path: Path):
    history = runner.run(tmp_path, model={"finetune": "frozen"}, epochs=2)
    assert changed(tmp_path) == set()
    assert changed(tmp_path, BEST, "state_dict") == set()  # the average, which is exported
    assert history.epochs[1].val_loss < history.epochs[0].val_loss


def test_progressive_unfreezes_one_more_stage_per_epoch(runner, tmp_path: Path):
    model = {"finetune": "progressive", "unfreeze_epoch": 1, "multiscale": True}
    runner.run(tmp_path / "1", model=model, epochs=2)
    first = {name.split(".")[1] for name in changed(tmp_path / "1") if name.startswith("blocks")}
    runner.run(tmp_path / "2", model=model, epochs=3)
    second = {name.split(".")[1] for name in changed(tmp_path / "2") if name.startswith("blocks")}
    assert (first, second) == ({"4"}, {"3", "4"})
    runner.run(tmp_path / "0", model={"finetune": "full"}, epochs=1)
    assert {"conv_stem.weight", "bn1.running_mean"} <= changed(tmp_path / "0")
    assert "conv_stem.weight" not in changed(tmp_path / "2")


def test_lora_trains_only_adapters_and_merges_them(runner, tmp_path: Path):
    runner.run(tmp_path, model=ADAPTED, epochs=2)
    names = changed(tmp_path)
    assert {name.rpartition(".")[2] for name in names} == {"up", "down"}
    assert any(name.startswith("blocks.0.attn.qkv") for name in names)
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / BEST)
    adapted = build_classifier(checkpoint["about"])
    adapted.load_state_dict(
        {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if "model." in k}
    )
    plain = restore_classifier(checkpoint)
    assert not any(isinstance(module, LoraLinear) for module in plain.modules())
    volume = torch.randint(0, 256, (2, *checkpoint["about"]["preprocess"]["shape"])).byte()
    torch.testing.assert_close(plain(volume), adapted.eval()(volume), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [{"finetune": "progressive", "unfreeze_epoch": 1}, ADAPTED], ids=["stages", "lora"]
)
def test_exact_resume_while_fine_tuning(model: dict, runner, tmp_path: Path):
    runner.run(tmp_path / "reference", model=model, epochs=3)
    for check in (2, 5, 7, 9, 12, 14):
        folder = tmp_path / str(check)
        with pytest.raises(Stopped):
            runner.run(folder, stop=StopAtCheck(check), model=model, epochs=3)
        runner.run(folder, model=model, epochs=3)
        assert runner.hashes(folder) == runner.hashes(tmp_path / "reference"), check


def test_layer_decay_lowers_the_learning_rate_by_layer(runner, tmp_path: Path):
    training = runner.prepare(tmp_path, model={"multiscale": True})
    model = build_classifier(training.metadata)
    groups = parameter_groups(model, training.params.model, 0.02, 0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    backbone = model.encoder.backbone
    assert scale[id(model.pooling.weight)] == 1
    assert scale[id(backbone.conv_head.weight)] == 0.5
    assert scale[id(backbone.blocks[3][0].conv_pw.weight)] == 0.25
    assert scale[id(backbone.conv_stem.weight)] == 0.5**6
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(model.pooling.query)] == decay[id(backbone.bn1.weight)] == 0
    assert decay[id(backbone.conv_stem.weight)] == 0.02
    runner.run(tmp_path, layer_decay=0.5, epochs=1)


def test_trainable_parameters_depend_on_the_epoch_alone(runner, tmp_path: Path):
    training = runner.prepare(tmp_path, model={"finetune": "progressive", "unfreeze_epoch": 2})
    tuning = FineTuning(build_classifier(training.metadata), training.params.model)
    assert tuning.trainable_parameter_names(0) == tuning.trainable_parameter_names(1) == set()
    assert (
        tuning.trainable_parameter_names(2)
        < tuning.trainable_parameter_names(3)
        < tuning.trainable_parameter_names(9)
    )
    assert tuning.trainable_parameter_names(9) == {
        name for name, _ in tuning.backbone.named_parameters()
    }


def test_patience_is_counted_from_the_unfreeze_epoch():
    epochs = [
        EpochMetrics(n, n, 0.0, 0.0, 0.0, 0.9 - n / 100) for n in range(9)
    ]  # the first is the best
    ends = {
        start: next(
            n for n in range(9) if History(epochs[:n]).patience_exceeded(StopCriteria(9, 3, start))
        )
        for start in (0, 1, 4)
    }
    assert ends == {0: 4, 1: 4, 4: 7}


@pytest.mark.parametrize("targets", [("qkv", "qkv"), ("qkv", "attn.qkv")])
def test_layer_matched_by_two_targets_is_adapted_once(targets: tuple[str, ...]):
    model = timm.create_model("test_vit", pretrained=False)
    before = sum(isinstance(part, nn.Linear) for part in model.modules())
    add_lora(model, 2, 4.0, targets)
    adapted = [name for name, part in model.named_modules() if isinstance(part, LoraLinear)]
    assert len(adapted) == len(model.blocks)
    assert sum(isinstance(part, nn.Linear) for part in model.modules()) == before  # one in each


def test_invalid_settings_are_refused(runner, tmp_path: Path):
    late = {"finetune": "progressive", "unfreeze_epoch": 3}
    with pytest.raises(InputError, match=r"model\.unfreeze_epoch: 3 is not before train\.epochs"):
        runner.prepare(tmp_path, model=late)
    with pytest.raises(InputError, match=r"model\.unfreeze_epoch: 3 is not before train\.epochs"):
        runner.prepare(tmp_path, model=late, debug="fast_dev_run")
    nothing = ADAPTED | {"lora": LORA.model_copy(update={"targets": ("query",)})}
    with pytest.raises(InputError, match=r"model\.lora\.targets: 'query' matches no .*fc1, .*qkv"):
        runner.run(tmp_path, model=nothing)
    convolutional = {"finetune": "lora", "lora": LORA}
    with pytest.raises(InputError, match=r"model\.lora\.targets: 'qkv' matches no linear layer"):
        runner.run(tmp_path, model=convolutional)
