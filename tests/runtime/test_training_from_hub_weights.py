"""Training from weights on the hub: what a run needs of it, and what pins them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_encoder import REPO, direct, encoder_settings, make_repository, save_weights
from hub_stand_in import COMMIT, HubStandIn
from multi_abnormality.runtime.checkpoint_io import load_checkpoint
from multi_abnormality.runtime.graceful_stop import Stopped
from multi_abnormality.utils.errors import InputError
from rank_tasks import run_on_ranks, train_from_hub
from stops import StopAtCheck


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubStandIn]:
    with HubStandIn(make_repository(tmp_path / "repository"), REPO) as stand_in:
        yield stand_in


def test_only_the_start_of_a_run_needs_the_hub(
    hub: HubStandIn, runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache, model = tmp_path / "cache", encoder_settings("main")
    direct(monkeypatch, hub.port, cache)
    runner.run(tmp_path / "reference", model=model, epochs=1)
    with pytest.raises(Stopped):
        runner.run(tmp_path / "moved", stop=StopAtCheck(2), model=model, epochs=1)
    identity = load_checkpoint(tmp_path / "moved/checkpoints/last.ckpt")["about"]["identity"]
    assert identity["pretrained_cfg"]["revision"] == COMMIT
    assert len(identity["pretrained_cfg"]["sha256"]) == 64
    shutil.rmtree(cache)
    hub.commit = "f" * 40  # the branch has moved
    hub.calls.clear()
    runner.run(tmp_path / "moved", model=model, epochs=1)
    assert hub.calls == []
    assert runner.hashes(tmp_path / "moved") == runner.hashes(tmp_path / "reference")
    save_weights(hub.folder / "model.safetensors", "test_vit", 2, in_chans=1, img_size=32,
                 num_classes=0)  # fmt: skip
    hub.commit = COMMIT
    with pytest.raises(InputError, match="the hub serves other bytes"):  # a new run
        runner.run(tmp_path / "moved", model=model, epochs=1, learning_rate=1e-2)


def test_one_rank_alone_downloads(hub: HubStandIn, runner, tmp_path: Path):
    settings = runner.params.model.model_copy(update=encoder_settings())
    params = runner.params.model_copy(update={"model": settings})
    arguments = train_from_hub, params, runner.processed.root, tmp_path, hub.port
    first, second = run_on_ranks(2, *arguments)
    assert first == second
    assert len(first) == 64
    assert len([call for call in hub.calls if call.path.startswith("/store/")]) == 1
    hub.access = "unaccepted"
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(tmp_path / "checkpoints")
    message, other = run_on_ranks(2, *arguments)
    assert "is gated, private or missing (403)" in message
    assert "gated" not in str(other)
