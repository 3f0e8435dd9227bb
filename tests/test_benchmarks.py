import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from multi_abnormality.data.storage.processed_dataset import ProcessedDataset

ROOT = Path(__file__).parent.parent
PROGRAMS = ("bench", "class_imbalance", "loops", "peer_models", "short_runs", "speed")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of benchmarks/ import each other as their folder has them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.partition(".")[0] in PROGRAMS:
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


def test_a_finding_is_thinned_out_by_patient(small_set):
    from class_imbalance import thin_out

    thinned = ProcessedDataset(small_set.root)
    finding = small_set.findings[0]
    prevalence = thin_out(thinned, finding, 0.2, seed=0)
    train, whole = (one.volumes("train") for one in (thinned, small_set))
    assert train.drop_duplicates("scan_id")[finding].mean() == prevalence
    assert 0.2 <= prevalence < 0.3
    kept = whole["patient_id"].isin(train["patient_id"])
    assert whole[kept]["name"].tolist() == train["name"].tolist()
    assert (whole[~kept][finding] == 1).all()
    assert thinned.volumes("test").equals(small_set.volumes("test"))


def test_scores_are_by_scan_and_leave_out_findings_of_one_class(small_set):
    from peer_models.scores import macro_auroc

    names = small_set.volumes("test")["name"].tolist()
    labels = small_set.labels_of(names)
    assert macro_auroc(small_set, names, labels + 0.0) == 1.0
    assert macro_auroc(small_set, names, np.zeros(labels.shape)) == 0.5


def test_a_benchmark_that_fails_is_recorded_and_the_others_run(monkeypatch, tmp_path, capsys):
    from bench import __main__ as bench
    from bench import store, training
    from bench.rows import Row, compared

    rows = [
        compared("reading", "s", [2.0, 3.0, 8.0], "decoding alone", [1.0, 2.0, 2.0], "at most 2"),
        Row("packing", 1.0, "s", "a peer"),
    ]
    monkeypatch.setattr(store, "run", lambda _: 1 / 0)
    monkeypatch.setattr(training, "run", lambda _: rows)
    out = tmp_path / "results.json"
    names = ["store", "catalogue", "training"]
    monkeypatch.setattr(sys, "argv", ["bench", "--out", str(out), *names])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 1
    found = json.loads(out.read_text())
    benchmarks = found["benchmarks"]
    assert [benchmarks[name]["status"] for name in names] == ["failed", "skipped", "done"]
    assert benchmarks["store"]["error"] == "ZeroDivisionError: division by zero"
    assert benchmarks["training"]["rows"][0]["ratio"] == 2
    assert {"commit", "clean", "date", "machine", "quick"} <= found.keys()
    printed = capsys.readouterr().out
    assert "not installed" in printed
    assert "ZeroDivisionError" in printed


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_a_gpu_in_small_sizes(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--cpu", "--quick", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    found = json.loads(out.read_text())
    repeated = [value for name, value in found.items() if name.startswith("repeatability")]
    assert len(repeated) == 3
    assert all(each["identical"] for each in repeated)
    assert found["speed, params.yaml"]["steps_per_second"].keys() == {
        "this project", "a bare loop", "a bare loop, float32, contiguous",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.drill
def test_every_benchmark_runs(tmp_path):
    """In small sizes, in the project's own folder, where `make drill` has run the pipeline."""
    out = tmp_path / "results.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "bench", "--quick", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    for name, found in json.loads(out.read_text())["benchmarks"].items():
        assert found["status"] == ("skipped" if name == "catalogue" else "done"), found
        assert (found["rows"] != []) == (name != "catalogue")


def test_the_memory_of_a_step_is_that_of_the_tensors_that_exist_at_a_time():
    from recipe_costs import FAKE, LiveBytes

    live = LiveBytes([])
    with FAKE, live:
        first = torch.zeros(1000)
        second = first.to(torch.float64)
        view = second[:10]
        del first
        third = torch.zeros(500)
        assert live.peak == 12_000
        del second
        fourth = torch.zeros(2000)  # second's memory is still there: the view has it
    assert live.peak == 8_000 + 2_000 + 8_000
    del view, third, fourth
