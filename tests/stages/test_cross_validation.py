"""Two folds: preprocess, train and evaluate each, and the scores of both together."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score, roc_auc_score

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.training_run import RunPaths
from multi_abnormality.stages import evaluate, preprocess, train
from multi_abnormality.tools.compare.revisions import Revision
from multi_abnormality.tools.out_of_fold import (
    FoldRun,
    check_folds,
    prediction_table,
    read_fold,
    score_folds,
)
from multi_abnormality.utils.errors import InputError

RARE = FINDINGS[3]  # only patients of fold 0 have it, and not all of them


def with_fold(params: Params, fold: int) -> Params:
    data = params.data.model_copy(update={"folds": 2, "fold": fold})
    epoch = params.train.model_copy(update={"epochs": 1})
    return params.model_copy(update={"data": data, "train": epoch})


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory, small_params: Params, small_set: ProcessedDataset
) -> Path:
    """A folder with a processed set and the results of both folds."""
    root = tmp_path_factory.mktemp("folds")
    processed, data = root / "processed", small_set.root.parent / "data"
    params = with_fold(small_params, 0)
    summary = preprocess.run(params, data, processed, root / "preprocess.json")
    assert summary["folds"] == {"0": 10, "1": 10}
    stored = ProcessedDataset(processed, 0)
    labels = stored.labels
    chosen = stored.volumes("test")["patient_id"].unique()[::2]
    labels[RARE] = stored.manifest["patient_id"].isin(chosen).astype(int)
    labels.to_csv(processed / "labels.csv", index=False)
    for fold in (0, 1):
        params, own = with_fold(small_params, fold), root / f"fold {fold}"
        metrics, checkpoints = own / "metrics", own / "checkpoints"
        archive = CheckpointArchive(own / "archive", own / "cache")
        paths = RunPaths(checkpoints, own / "logs", metrics / "history.csv", archive)
        train.run(params, processed, paths, metrics / "train.json")
        evaluate.run(params, checkpoints, processed, metrics)
        (own / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
        shutil.copytree(processed, own / "processed")
    return root


@pytest.fixture(scope="module")
def runs(root: Path) -> list[FoldRun]:
    def read(fold: int) -> FoldRun:
        name = f"fold {fold}"
        return read_fold(Revision(name, None), lambda path: (root / name / path).read_bytes())

    return [read(1), read(0)]


def test_each_patient_of_train_is_held_out_once_and_test_is_untouched(
    root: Path, small_set: ProcessedDataset
):
    train_patients = set(small_set.volumes("train")["patient_id"])
    held_out = []
    for fold in (0, 1):
        stored = ProcessedDataset(root / "processed", fold)
        parts = [set(stored.volumes(split)["patient_id"]) for split in ("train", "test")]
        assert parts[0] | parts[1] == train_patients
        assert not parts[0] & parts[1]
        held_out.append(parts[1])
    assert held_out[0] | held_out[1] == train_patients
    assert not held_out[0] & held_out[1]
    with pytest.raises(InputError, match="there is no fold 2 among the processed volumes"):
        ProcessedDataset(root / "processed", 2)
    with pytest.raises(InputError, match="there is no fold 0 among the processed volumes"):
        ProcessedDataset(small_set.root, 0)


def test_a_finding_without_positives_in_the_train_part_is_neither_trained_nor_scored(root: Path):
    found = {}
    for fold in (0, 1):
        metrics = root / f"fold {fold}/metrics"
        scores = json.loads((metrics / "evaluate.json").read_text())
        predictions = json.loads((metrics / "predictions.json").read_text())
        assert scores["cross_validation"] == {"fold": fold, "folds": 2}
        assert (RARE in scores["counts"].get("untrained", [])) == (fold == 0)
        found[fold] = scores, predictions, (metrics / "report.html").read_text()
    scores, predictions, report = found[0]
    assert set(scores["classification"]["per_pathology"][RARE].values()) == {None}
    assert scores["counts"]["labels"]["train"][RARE]["positives"] == 0
    assert {row["positive"][RARE] for row in predictions["predictions"]} == {None}
    assert f"which is not trained: {RARE}." in report
    assert "fold 0, of 0 to 1" in report


def test_an_untrained_finding_is_in_no_loss(root: Path, small_params: Params):
    from multi_abnormality.training.volume_selection import select_volumes

    stored = ProcessedDataset(root / "processed", 0)
    rows = stored.volumes("train")
    selection = select_volumes(with_fold(small_params, 0), rows, stored.findings)
    assert selection.untrained == [RARE]
    labels = stored.labels_of(selection.train, selection.untrained)
    column = list(FINDINGS).index(RARE)
    assert np.isnan(labels[:, column]).all()
    assert not np.isnan(np.delete(labels, column, axis=1)).any()


def test_the_union_is_scored_with_each_folds_thresholds(root: Path, runs: list[FoldRun]):
    ordered = check_folds(runs)
    assert [run.fold for run in ordered] == [0, 1]
    scores = score_folds(ordered)
    assert scores["counts"]["patients"] == 20
    assert [row["untrained"] for row in scores["folds"]] == [[RARE], []]
    labels = ProcessedDataset(root / "processed").labels.set_index("name")
    for finding in FINDINGS[:6]:
        truth, chances, positive = [], [], []
        for fold in (0, 1):
            if finding == RARE and fold == 0:
                continue
            path = root / f"fold {fold}/metrics/predictions.json"
            content = json.loads(path.read_text())
            for row in content["predictions"]:
                truth.append(labels.loc[row["input_image_name"], finding])
                chances.append(row["probabilities"][finding])
                positive.append(chances[-1] >= content["thresholds"][finding])
        of_finding = scores["classification"]["per_pathology"][finding]
        assert of_finding["f1"] == pytest.approx(f1_score(truth, positive, zero_division=0))
        if len(set(truth)) == 2:
            assert of_finding["auroc"] == pytest.approx(roc_auc_score(truth, chances), abs=1e-12)
            low, high = (scores["intervals"]["macro"]["auroc"][end] for end in ("low", "high"))
            assert low < high
    table = prediction_table(ordered)
    assert len(table) == scores["counts"]["scans"] * len(FINDINGS)
    assert table.loc[(table["finding"] == RARE) & (table["fold"] == 0), "label"].isna().all()


def test_runs_that_are_not_one_cross_validation_are_refused(runs: list[FoldRun]):
    second, first = runs
    other = {**second.params, "train.epochs": 9}
    assert "data.fold" not in other
    tables = {**second.tables, "labels.csv": b"other"}
    for found, message in (
        ([first], "missing of the folds 0 to 1: 1; `dvc exp run -S data.fold=1` runs one"),
        ([first, first], "fold 0 is there twice, as fold 0 and fold 0"),
        ([first, replace(second, params=other)], r"of different recipes \(train.epochs: 1 and 9\)"),
        ([first, replace(second, tables=tables)], "have different tables: processed/labels.csv"),
        ([first, replace(second, predictions=first.predictions)], "must be in one fold alone"),
    ):
        with pytest.raises(InputError, match=message):
            check_folds(found)


def test_a_tables_own_val_scans_are_the_val_part(
    tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    """They are part of what training depends on, and val_fraction has no effect."""
    from multi_abnormality.training.volume_selection import select_volumes

    shutil.copytree(small_set.root, tmp_path / "processed")
    manifest = pd.read_csv(tmp_path / "processed/manifest.csv", dtype=str, keep_default_na=False)
    ids = small_set.manifest.set_index("name")[["split", "patient_id"]]
    named = manifest.join(ids, on="name")
    val = named["patient_id"].isin([f"train_{number}" for number in range(1, 8)])
    named.loc[val, "split"] = "val"
    named.to_csv(tmp_path / "processed/manifest.csv", index=False)
    stored = ProcessedDataset(tmp_path / "processed")
    selection = select_volumes(small_params, stored.volumes("train"), stored.findings)
    assert set(selection.validation) == set(named["name"][val])
    assert len(selection.train) + val.sum() == len(small_set.volumes("train"))
    assert stored.content_hash("train") != small_set.content_hash("train")
    named.loc[val.idxmax() + 1 :, "split"] = named["split"].replace("val", "train")
    named.to_csv(tmp_path / "processed/manifest.csv", index=False)
    stored = ProcessedDataset(tmp_path / "processed")
    with pytest.raises(InputError, match="no finding has a positive and a negative among the val"):
        select_volumes(small_params, stored.volumes("train"), stored.findings)
