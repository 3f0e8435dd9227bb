"""Features of a frozen encoder: encoded once, and the results are those of encoding each epoch."""

import logging
from pathlib import Path

import pytest
import torch

from multi_abnormality.data.loading.eval_dataset import EvalDataset
from multi_abnormality.models.encoder import SliceEncoder
from multi_abnormality.models.factory import restore_classifier
from multi_abnormality.models.predict_logits import predict_logits
from multi_abnormality.runtime import feature_encoding
from multi_abnormality.runtime.checkpoint_io import BEST, load_checkpoint
from multi_abnormality.runtime.graceful_stop import Stopped
from multi_abnormality.training.val_metrics import auroc_by_finding, macro_auroc, mean_by_scan
from multi_abnormality.utils.errors import InputError
from stops import StopAtCheck

FROZEN = {"finetune": "frozen"}
PLAIN = {"augmentation": "none"}
WINDOWS = ((-700.0, 700.0), (40.0, 400.0), (900.0, 2200.0))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of slices of each pass through an encoder."""
    passes: list[int] = []
    encode = SliceEncoder._encode

    def counted(self: SliceEncoder, slices: torch.Tensor) -> torch.Tensor:
        passes.append(len(slices))
        return encode(self, slices)

    monkeypatch.setattr(SliceEncoder, "_encode", counted)
    return passes


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("features/*/*.safetensors"))


def test_each_slice_is_encoded_once(runner, tmp_path: Path, encoded: list[int]):
    training = runner.prepare(tmp_path, model=FROZEN, epochs=3, **PLAIN)
    training.run()
    probe = 1  # of the network's width, with one slice
    volumes = sum(map(len, training.datamodule.names.values()))
    assert [count for count in encoded if count > probe] == [8] * volumes
    encoded.clear()
    runner.run(tmp_path, model=FROZEN, epochs=4, learning_rate=3e-4, **PLAIN)  # another run
    assert max(encoded) == probe


def test_scores_are_those_of_encoding_each_epoch(runner, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    histories = [
        runner.run(tmp_path / choice, model=FROZEN, epochs=3, cache_features=choice, **PLAIN)
        for choice in ("never", "required")
    ]
    assert "each epoch encodes all slices, since train.cache_features is never" in caplog.text
    assert not shards(tmp_path / "never")
    for plain, cached in zip(*(history.epochs for history in histories), strict=True):
        assert cached.train_loss == pytest.approx(plain.train_loss, abs=1e-3)
        assert cached.val_loss == pytest.approx(plain.val_loss, abs=1e-3)
    before, after = (
        load_checkpoint(tmp_path / choice / "checkpoints" / BEST)["state_dict"]
        for choice in ("never", "required")
    )
    encoder = [name for name in before if name.startswith("model.encoder.")]
    assert all(before[name].equal(after[name]) for name in encoder)


def test_the_whole_model_scores_as_its_features_did(runner, small_set, tmp_path: Path):
    """`evaluate` and `export` run the encoder, in float32."""
    training = runner.prepare(tmp_path, model=FROZEN, epochs=2, **PLAIN)
    history = training.run()
    model = restore_classifier(load_checkpoint(tmp_path / "checkpoints" / BEST))
    data = EvalDataset(small_set, training.datamodule.names["validation"])
    logits = predict_logits(model, data, torch.device("cpu"), 0)
    rows = map(torch.from_numpy, (logits, data.labels, data.scans))
    auroc = macro_auroc(auroc_by_finding(*mean_by_scan(*rows), small_set.findings))
    assert auroc == pytest.approx(history.best.val_auroc, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["none", "voxels", "cut", "metadata", "gone"])
def test_exact_resume_from_any_step(
    damage: str, runner, tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch
):
    """Also while slices are encoded, and with a damaged shard."""
    monkeypatch.setattr(feature_encoding, "SHARD_VOLUMES", 5)
    runner.run(tmp_path / "reference", model=FROZEN, epochs=2, **PLAIN)
    for check in (1, 9, 22, 30, 36) if damage == "none" else (30,):
        folder = tmp_path / str(check)
        with pytest.raises(Stopped):
            runner.run(folder, stop=StopAtCheck(check), model=FROZEN, epochs=2, **PLAIN)
        if damage != "none":
            harm(shards(folder)[1], damage)
        runner.run(folder, model=FROZEN, epochs=2, **PLAIN)
        assert runner.hashes(folder) == runner.hashes(tmp_path / "reference"), check
    assert ("is damaged" in caplog.text) == (damage not in {"none", "gone"})


def harm(shard: Path, damage: str) -> None:
    content = bytearray(shard.read_bytes())
    if damage == "gone":
        shard.unlink()
        return
    if damage == "voxels":
        content[-3] ^= 1
    elif damage == "cut":
        del content[-100:]
    else:  # the shard names another volume
        start = content.index(b'"names') + 16
        content[start : start + 8] = b"abcdef01"
    shard.write_bytes(content)


def test_features_are_of_this_volume_and_this_encoder(runner, tmp_path: Path, encoded: list[int]):
    """Another window gives the same encoder other inputs."""
    runner.run(tmp_path, model=FROZEN, epochs=1, **PLAIN)
    (key,) = (tmp_path / "features").iterdir()
    runner.run(tmp_path, model=FROZEN | {"pooling": "mean", "dropout": 0.1}, epochs=1, **PLAIN)
    assert list((tmp_path / "features").iterdir()) == [key]
    for change in ({"windows": WINDOWS}, {"adjacent_slices": 1}, {"multiscale": False}):
        before = len(list((tmp_path / "features").iterdir()))
        encoded.clear()
        runner.run(tmp_path, model=FROZEN | change, epochs=1, **PLAIN)
        assert len(list((tmp_path / "features").iterdir())) == before + 1
        assert max(encoded) == 8


@pytest.mark.parametrize(
    ("model", "train", "reason"),
    [
        ({}, PLAIN, "model.finetune is full"),
        (FROZEN | {"attn_layer": "se"}, PLAIN, "model.attn_layer is se"),
        (FROZEN, {"augmentation": "basic"}, "train.augmentation is basic"),
        (FROZEN, PLAIN | {"mixup_prob": 0.5}, "train.mixup_prob or train.cutmix"),
        (FROZEN, PLAIN | {"cutmix_prob": 0.5}, "train.mixup_prob or train.cutmix"),
    ],
)
def test_what_changes_the_features_is_named(
    model: dict, train: dict, reason: str, runner, tmp_path: Path, caplog
):
    with pytest.raises(InputError, match=reason):
        runner.prepare(tmp_path, model=model, cache_features="required", **train)
    caplog.set_level(logging.INFO)
    runner.run(tmp_path, model=model, epochs=1, **train)
    assert (f"each epoch encodes all slices, since {reason}" in caplog.text) == bool(model)
    assert not shards(tmp_path)


def test_a_backbone_with_random_layers_is_encoded_in_each_epoch(
    runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    build = SliceEncoder.__init__

    def with_dropout(self: SliceEncoder, *args: object) -> None:
        build(self, *args)
        self.backbone.conv_head = torch.nn.Sequential(
            torch.nn.Dropout(0.1), self.backbone.conv_head
        )

    monkeypatch.setattr(SliceEncoder, "__init__", with_dropout)
    with pytest.raises(InputError, match=r"conv_head\.0 drops a random part"):
        runner.run(tmp_path, model=FROZEN, cache_features="required", **PLAIN)


def test_features_that_float16_cannot_hold_are_refused(runner, tmp_path: Path, monkeypatch):
    encode = SliceEncoder._encode
    monkeypatch.setattr(SliceEncoder, "_encode", lambda self, slices: encode(self, slices) * 1e5)
    with pytest.raises(InputError, match=r"train_\d+_a_\d: .*above 65504.*cache_features to never"):
        runner.run(tmp_path, model=FROZEN, **PLAIN)


def test_loader_workers_read_features(runner, tmp_path: Path):
    for workers in (0, 2):
        runner.run(
            tmp_path / str(workers), model=FROZEN, epochs=2, machine={"workers": workers}, **PLAIN
        )
    assert runner.hashes(tmp_path / "0") == runner.hashes(tmp_path / "2")
