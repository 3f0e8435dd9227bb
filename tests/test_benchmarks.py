import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of benchmarks/ import each other as their folder has them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.partition(".")[0] in ("loops", "peer_models", "speed"):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["slices", "ct_net"])
def test_a_peer_trains_for_its_time_and_no_longer(name, small_set, small_params):
    from peer_models.designs import PEERS
    from peer_models.train import PeerTraining

    training = PeerTraining(PEERS[name], 1e-3, 0, small_set, small_params)
    before = training.model.head.weight.clone()
    trained = training.run(seconds=1.0, started=time.process_time(), final=True)
    assert 1 / 60 <= trained.minutes < 3 / 60
    assert trained.epochs > 0
    assert 0 < trained.validation <= 1
    assert 0 < trained.test <= 1
    assert not torch.equal(training.model.head.weight, before)


def test_a_volumes_score_is_the_mean_of_its_slices_scores():
    from peer_models.single_slices import SingleSlices

    peer = SingleSlices(3, (5, 32, 32), 18).eval()
    shown = torch.rand(2, 5, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        alone = [peer(shown[:, [place]]).sigmoid() for place in range(5)]
        together = peer(shown).sigmoid()
    assert together.numpy() == pytest.approx(torch.stack(alone).mean(dim=0).numpy(), abs=1e-6)


def test_scores_are_by_scan_and_leave_out_findings_of_one_class(small_set):
    from peer_models.scores import macro_auroc

    names = small_set.volumes("valid")["name"].tolist()
    labels = small_set.labels_of(names)
    assert macro_auroc(small_set, names, labels + 0.0) == 1.0
    assert macro_auroc(small_set, names, np.zeros(labels.shape)) == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "bare", "plain"])
def test_a_loop_runs_a_block_when_asked(name, small_set, small_params, tmp_path):
    from loops.turns import Loop, take_turns

    loop = Loop(name, 1, small_set.root, small_params, tmp_path, threads=1)
    try:
        found = take_turns({name: loop}, rounds=1)
    finally:
        loop.stop()
    assert list(loop.start["marks"]) == [
        "interpreter and imports", "processed set", "model and trainer", "first step"
    ]  # fmt: skip
    assert found[name].seconds[0] > found[name].waited[0] > 0
