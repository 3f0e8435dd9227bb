"""What of the backbone learns, epoch by epoch, also across a resume."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from multi_abnormality.data.randomness import derived_seed
from multi_abnormality.errors import InputError
from multi_abnormality.model.build import build, restore
from multi_abnormality.model.lora import LoraLinear, add_lora
from multi_abnormality.params import Lora
from multi_abnormality.training.checkpoints import BEST, LAST
from multi_abnormality.training.files import load_checkpoint
from multi_abnormality.training.finetuning import FineTuning, parameter_groups
from multi_abnormality.training.history import Epoch, History, Limits
from multi_abnormality.training.stopping import Stopped
from stops import StopAtLook

BACKBONE = "model.encoder.backbone."
LORA = Lora(rank=4, alpha=8.0, targets=("qkv", "mlp.fc1"))
ADAPTED = {"backbone": "test_vit", "multiscale": False, "finetune": "lora", "lora": LORA}


def at_start(about: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(derived_seed(0, "weights"))
    return {f"model.{name}": value for name, value in build(about).state_dict().items()}


def changed(folder: Path, name: str = LAST, state: str = "current_model_state") -> set[str]:
    """What of the backbone, statistics included, is not as it was at the start."""
    checkpoint = load_checkpoint(folder / "checkpoints" / name)
    before, after = at_start(checkpoint["about"]), checkpoint[state]
    assert before.keys() == after.keys()
    return {
        name.removeprefix(BACKBONE)
        for name in before
        if name.startswith(BACKBONE) and (before[name] != after[name]).any()
    }


def test_a_frozen_backbone_stays_as_it_is_to_the_last_bit(trainings, tmp_path: Path):
    history = trainings.run(tmp_path, model={"finetune": "frozen"}, epochs=2)
    assert changed(tmp_path) == set()
    assert changed(tmp_path, BEST, "state_dict") == set()  # the average, which is exported
    assert history.epochs[1].val_loss < history.epochs[0].val_loss


def test_stages_learn_from_the_top_down_one_more_each_epoch(trainings, tmp_path: Path):
    model = {"finetune": "progressive", "unfreeze_epoch": 1}
    trainings.run(tmp_path / "1", model=model, epochs=2)
    first = {name.split(".")[1] for name in changed(tmp_path / "1") if name.startswith("blocks")}
    trainings.run(tmp_path / "2", model=model, epochs=3)
    second = {name.split(".")[1] for name in changed(tmp_path / "2") if name.startswith("blocks")}
    assert (first, second) == ({"4"}, {"3", "4"})
    trainings.run(tmp_path / "0", model={"finetune": "full"}, epochs=1)
    assert {"conv_stem.weight", "bn1.running_mean"} <= changed(tmp_path / "0")
    assert "conv_stem.weight" not in changed(tmp_path / "2")


def test_adapted_layers_alone_learn_and_end_as_plain_ones(trainings, tmp_path: Path):
    trainings.run(tmp_path, model=ADAPTED, epochs=2)
    names = changed(tmp_path)
    assert {name.rpartition(".")[2] for name in names} == {"up", "down"}
    assert any(name.startswith("blocks.0.attn.qkv") for name in names)
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / BEST)
    adapted = build(checkpoint["about"])
    adapted.load_state_dict(
        {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if "model." in k}
    )
    plain = restore(checkpoint)
    assert not any(isinstance(module, LoraLinear) for module in plain.modules())
    volume = torch.randint(0, 256, (2, *checkpoint["about"]["preprocess"]["shape"])).byte()
    torch.testing.assert_close(plain(volume), adapted.eval()(volume), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model", [{"finetune": "progressive", "unfreeze_epoch": 1}, ADAPTED], ids=["stages", "lora"]
)
def test_a_stop_at_any_moment_changes_nothing(model: dict, trainings, tmp_path: Path):
    trainings.run(tmp_path / "straight", model=model, epochs=3)
    for look in (2, 5, 7, 9, 12, 14):
        folder = tmp_path / str(look)
        with pytest.raises(Stopped):
            trainings.run(folder, stop=StopAtLook(look), model=model, epochs=3)
        trainings.run(folder, model=model, epochs=3)
        assert trainings.hashes(folder) == trainings.hashes(tmp_path / "straight"), look


def test_each_layer_learns_slower_than_the_one_above(trainings, tmp_path: Path):
    training = trainings.prepare(tmp_path)
    model = build(training.about)
    groups = parameter_groups(model, training.params.model, 0.02, 0.5)
    share = {id(p): group["share"] for group in groups for p in group["params"]}
    assert len(share) == len(list(model.parameters()))
    backbone = model.encoder.backbone
    assert share[id(model.pooling.weight)] == 1
    assert share[id(backbone.conv_head.weight)] == 0.5
    assert share[id(backbone.blocks[3][0].conv_pw.weight)] == 0.25
    assert share[id(backbone.conv_stem.weight)] == 0.5**6
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(model.pooling.query)] == decay[id(backbone.bn1.weight)] == 0
    assert decay[id(backbone.conv_stem.weight)] == 0.02
    trainings.run(tmp_path, layer_decay=0.5, epochs=1)


def test_what_learns_depends_on_the_epoch_alone(trainings, tmp_path: Path):
    training = trainings.prepare(tmp_path, model={"finetune": "progressive", "unfreeze_epoch": 2})
    tuning = FineTuning(build(training.about), training.params.model)
    assert tuning.learning(0) == tuning.learning(1) == set()
    assert tuning.learning(2) < tuning.learning(3) < tuning.learning(9)
    assert tuning.learning(9) == {name for name, _ in tuning.backbone.named_parameters()}


def test_patience_counts_from_where_the_backbone_learns():
    epochs = [Epoch(n, n, 0.0, 0.0, 0.0, 0.9 - n / 100) for n in range(9)]  # the first is the best
    ends = {
        start: next(n for n in range(9) if History(epochs[:n]).stalled(Limits(9, 3, start)))
        for start in (0, 1, 4)
    }
    assert ends == {0: 4, 1: 4, 4: 7}


@pytest.mark.parametrize("targets", [("qkv", "qkv"), ("qkv", "attn.qkv")])
def test_a_layer_that_two_targets_mean_is_adapted_once(targets: tuple[str, ...]):
    model = timm.create_model("test_vit", pretrained=False)
    before = sum(isinstance(part, nn.Linear) for part in model.modules())
    add_lora(model, 2, 4.0, targets)
    adapted = [name for name, part in model.named_modules() if isinstance(part, LoraLinear)]
    assert len(adapted) == len(model.blocks)
    assert sum(isinstance(part, nn.Linear) for part in model.modules()) == before  # one in each


def test_what_cannot_be_is_told(trainings, tmp_path: Path):
    late = {"finetune": "progressive", "unfreeze_epoch": 3}
    with pytest.raises(InputError, match=r"model\.unfreeze_epoch: 3 is not before train\.epochs"):
        trainings.prepare(tmp_path, model=late)
    with pytest.raises(InputError, match=r"model\.unfreeze_epoch: 3 is not before train\.epochs"):
        trainings.prepare(tmp_path, model=late, debug="fast")
    nothing = ADAPTED | {"lora": LORA.model_copy(update={"targets": ("query",)})}
    with pytest.raises(InputError, match=r"model\.lora\.targets: 'query' matches no .*fc1, .*qkv"):
        trainings.run(tmp_path, model=nothing)
    convolutional = {"finetune": "lora", "lora": LORA}
    with pytest.raises(InputError, match=r"model\.lora\.targets: 'qkv' matches no linear layer"):
        trainings.run(tmp_path, model=convolutional)
