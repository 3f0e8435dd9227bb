"""Training, scores, report, model card and comparison where labels are missing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.export.model_info_schema import ModelInfo
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.stages import evaluate, export
from multi_abnormality.tools.compare.revision_predictions import read_revision_predictions
from multi_abnormality.tools.compare.revisions import Revision

UNTRAINED, UNSCORED = FINDINGS[0], FINDINGS[1]


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, small_params: Params, small_set: ProcessedDataset
) -> Path:
    """A folder after the stages, with 30 % of the labels missing, and all of two findings'."""
    root = tmp_path_factory.mktemp("missing")
    processed = shutil.copytree(small_set.root, root / "processed")
    manifest = pd.read_csv(processed / "manifest.csv", dtype=str, keep_default_na=False)
    ids = small_set.manifest.set_index("name")[["split", "patient_id"]]
    manifest.join(ids, on="name").to_csv(processed / "manifest.csv", index=False)
    labels = small_set.labels.set_index("name").astype(float)
    labels = labels.mask(np.random.default_rng(0).random(labels.shape) < 0.3)
    is_train = (ids["split"] == "train").to_numpy()
    labels.loc[is_train, UNTRAINED] = np.nan
    labels.loc[~is_train, UNTRAINED] = np.arange((~is_train).sum()) % 2
    labels.loc[~is_train, UNSCORED] = np.nan
    labels.astype("Int64").to_csv(processed / "labels.csv")
    train = small_params.train.model_copy(update={"max_pos_weight": 3.0, "mixup_prob": 0.5})
    formats = small_params.export.model_copy(update={"formats": ("safetensors",)})
    params = small_params.model_copy(update={"train": train, "export": formats})
    metrics, checkpoints = root / "metrics", root / "checkpoints"
    archive = CheckpointArchive(root / "archive", root / "cache")
    paths = RunPaths(checkpoints, root / "logs", metrics / "history.csv", archive)
    run = TrainingRun(params, ProcessedDataset(processed), paths)
    assert run.datamodule.warnings[0].startswith(f"{UNTRAINED!r}: no label among the ")
    history = run.run()
    assert all(np.isfinite([epoch.train_loss, epoch.val_loss]).all() for epoch in history.epochs)
    evaluate.run(params, checkpoints, processed, metrics)
    export.run(params, checkpoints, processed, metrics, root / "model_weights")
    return root


def test_scores_are_those_of_the_scans_with_a_label(project: Path):
    scores, submission = (
        json.loads((project / f"metrics/{name}.json").read_text())
        for name in ("evaluate", "submission")
    )
    stored = ProcessedDataset(project / "processed")
    expected = []
    for column, finding in enumerate(FINDINGS):
        found = scores["classification"]["per_pathology"][finding]
        if finding in (UNTRAINED, UNSCORED):
            assert set(found.values()) == {None}
            continue
        rows = submission["predictions"]
        labels = stored.labels_of([row["input_image_name"] for row in rows])[:, column]
        chances = np.array([row["probabilities"][finding] for row in rows])[~np.isnan(labels)]
        labels = labels[~np.isnan(labels)]
        assert found["accuracy"] == pytest.approx(((chances >= 0.5) == labels).mean(), abs=1e-12)
        if len(set(labels)) == 2:
            expected.append(roc_auc_score(labels, chances))
            assert found["auroc"] == pytest.approx(expected[-1], abs=1e-12)
    macro = scores["classification"]["macro"]["auroc"]
    assert macro == pytest.approx(np.mean(expected), abs=1e-12)
    counts = scores["counts"]
    assert counts["untrained"] == [UNTRAINED]
    assert counts["labels"]["train"][UNTRAINED]["positives"] == 0
    assert counts["labels"]["test"][UNTRAINED]["missing"] == 0
    test = len(submission["predictions"])
    assert counts["labels"]["test"][UNSCORED] == {"positives": 0, "negatives": 0, "missing": test}


def test_a_finding_without_labels_is_named_and_has_no_decision(project: Path):
    predictions = json.loads((project / "metrics/predictions.json").read_text())
    assert UNTRAINED in predictions["uncalibrated"]
    assert {row["positive"][UNTRAINED] for row in predictions["predictions"]} == {None}
    report = (project / "metrics/report.html").read_text()
    assert f"is not trained: {UNTRAINED}." in report
    card = (project / "model_weights/MODEL_CARD.md").read_text()
    assert f"for lack of positive or of negative training scans: {UNTRAINED}." in card
    info = ModelInfo.model_validate(
        json.loads((project / "model_weights/model_info.json").read_text())
    )
    of_train = info.evaluation.labels["train"][FINDINGS[2]]
    assert f"\n| {FINDINGS[2]} | {of_train.positives} | {of_train.negatives} | " in card
    assert "\n| finding | train: with | without | missing | val: with | without |" in card
    assert "\n|---|---|---|---|---|---|---|---|---|---|\n" in card


def test_compare_reads_predictions_and_labels(project: Path):
    """It verifies that both give the recorded score."""
    scored = read_revision_predictions(
        Revision("workspace", None), lambda name: (project / name).read_bytes()
    )
    assert scored.labels[[UNTRAINED, UNSCORED]].isna().all(axis=None)
    assert scored.labels[FINDINGS[2]].notna().any()
