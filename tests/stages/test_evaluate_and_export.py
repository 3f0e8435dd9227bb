"""Evaluate and export stages on a small dataset."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

from hub_encoder import encoder_settings, make_repository
from multi_abnormality import load_model
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.calibration import calibration_scores, sigmoid
from multi_abnormality.evaluation.scored_scans import average_over_reconstructions
from multi_abnormality.evaluation.scores import official_scores
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.encoder import SliceEncoder
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import load_checkpoint, save_checkpoint
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.stages import evaluate, export
from multi_abnormality.utils.errors import InputError


def test_evaluate_writes_all_files(trained: Path):
    names = {path.name for path in (trained / "metrics").iterdir()}
    promised = {"scores.json", "evaluate.json", "predictions.json", "calibration.json", "plots"}
    others = {"report.html", "history.csv", "submission.json", "inference.safetensors"}
    assert promised | others == names
    plots = {path.name for path in (trained / "metrics/plots").iterdir()}
    assert plots == {"roc.csv", "precision_recall.csv", "reliability.csv"}


def test_averaged_reconstructions_are_named_and_counted(trained: Path):
    """Every fourth patient has two of them."""
    predictions = json.loads((trained / "metrics/predictions.json").read_text())["predictions"]
    averaged = [row["reconstructions"] for row in predictions if "reconstructions" in row]
    assert averaged == [[f"valid_{patient}_a_{number}" for number in (1, 2)] for patient in (4, 8)]
    counts = json.loads((trained / "metrics/evaluate.json").read_text())["counts"]
    assert (counts["scans"], counts["volumes"]) == (8, 10)
    report = (trained / "metrics/report.html").read_text()
    assert "2 of the scans, by the mean logits of their 4 volumes" in report


def test_the_report_names_the_parameters_that_differ_from_the_recipe(
    trained: Path, small_params: Params
):
    report = (trained / "metrics/report.html").read_text()
    own = small_params.train.batch_size
    assert f"<dt>train.batch_size</dt><dd>{own} <small>recipe: 8</small></dd>" in report


def test_evaluate_gives_the_same_bytes_again(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    shutil.copy(trained / "metrics/history.csv", tmp_path)
    evaluate.run(small_params, trained / "checkpoints", small_set.root, tmp_path)
    for path in (trained / "metrics").rglob("*.*"):
        again = tmp_path / path.relative_to(trained / "metrics")
        assert again.read_bytes() == path.read_bytes(), path.name


def test_another_threshold_metric_needs_no_inference(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset, monkeypatch
):
    metrics = shutil.copytree(trained / "metrics", tmp_path / "metrics")

    def refuse(*_: object) -> None:
        raise AssertionError("the classifier ran")

    monkeypatch.setattr(VolumeClassifier, "forward", refuse)
    monkeypatch.setattr(SliceEncoder, "forward", refuse)
    update = {"threshold_metric": "f1"}
    other = small_params.evaluate.model_copy(update=update)
    params = small_params.model_copy(update={"evaluate": other})
    evaluate.run(params, trained / "checkpoints", small_set.root, metrics)
    old, new = (
        json.loads((one / "predictions.json").read_text()) for one in (trained / "metrics", metrics)
    )
    assert new["thresholds"] != old["thresholds"]
    chances = [[row["probabilities"] for row in one["predictions"]] for one in (old, new)]
    assert chances[0] == chances[1]


def test_kept_logits_of_other_weights_are_not_used(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    shutil.copytree(trained, tmp_path / "other")
    best = tmp_path / "other/checkpoints/best.ckpt"
    checkpoint = load_checkpoint(best)
    for value in checkpoint["state_dict"].values():
        if value.is_floating_point():
            value.mul_(1.01)
    save_checkpoint(checkpoint, best)
    metrics = tmp_path / "other/metrics"
    before = (metrics / "inference.safetensors").read_bytes()
    evaluate.run(small_params, best.parent, small_set.root, metrics)
    kept = (metrics / "inference.safetensors").read_bytes()
    assert kept != before
    (metrics / "inference.safetensors").write_bytes(kept[: len(kept) // 2])  # cut by a kill
    evaluate.run(small_params, best.parent, small_set.root, metrics)
    assert (metrics / "inference.safetensors").read_bytes() == kept


@pytest.mark.slow
def test_the_models_calibration_error_is_the_reports(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    """Computed from the outputs of the ONNX file, and challenge scores from the submission."""
    metrics = shutil.copytree(trained / "metrics", tmp_path / "metrics")
    paths = trained / "checkpoints", small_set.root, metrics, tmp_path / "weights"
    export.run(small_params, *paths)
    (model,) = (tmp_path / "weights").glob("*.onnx")
    session = onnxruntime.InferenceSession(model)
    rows = small_set.volumes("test")
    volumes = np.stack([small_set.read(name) for name in rows["name"]])
    probability, threshold, *_ = session.run(None, {"volume": volumes})
    logits = np.log(probability / (1 - probability.astype(np.float64)))
    labels = rows[list(FINDINGS)].to_numpy()
    scans = average_over_reconstructions(
        rows["name"].tolist(), logits, labels, rows["scan_id"].tolist(),
        rows["patient_id"].tolist(), FINDINGS,
    )  # fmt: skip
    written = json.loads((metrics / "evaluate.json").read_text())
    error = calibration_scores(scans.labels, sigmoid(scans.logits), FINDINGS)["macro"]["ece"]
    assert error == pytest.approx(written["calibration"]["after"]["macro"]["ece"], abs=1e-6)
    calibration = json.loads((metrics / "calibration.json").read_text())["findings"]
    assert threshold == pytest.approx([one["threshold"] for one in calibration.values()])
    submitted = json.loads((metrics / "submission.json").read_text())["predictions"]
    predicted = np.array([[row["probabilities"][one] for one in FINDINGS] for row in submitted])
    official = official_scores(scans.labels, predicted, FINDINGS)
    assert official["crg"] == written["crg"]
    assert official["classification"] == written["classification"]
    predictions = json.loads((metrics / "predictions.json").read_text())["predictions"]
    assert [list(row["positive"].values()) for row in predictions] == (predicted >= 0.5).tolist()


@pytest.mark.slow
def test_an_uncalibrated_finding_is_marked_in_every_output(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset, caplog
):
    """Emphysema, which no validation scan has here."""
    processed = shutil.copytree(small_set.root, tmp_path / "processed")
    labels = pd.read_csv(processed / "labels.csv", dtype=str)
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    validation = checkpoint["about"]["volumes"]["validation"]
    labels.loc[labels["name"].isin(validation), "Emphysema"] = "0"
    labels.to_csv(processed / "labels.csv", index=False, lineterminator="\n")
    metrics = shutil.copytree(trained / "metrics", tmp_path / "metrics")
    identity = checkpoint["about"]["identity"]
    identity["processed"] = ProcessedDataset(processed).content_hash("train")
    save_checkpoint(checkpoint, tmp_path / "best.ckpt")
    paths = tmp_path, processed, metrics
    evaluate.run(small_params, *paths)
    assert "Emphysema: no validation scan is positive" in caplog.text
    written = json.loads((metrics / "predictions.json").read_text())
    assert written["uncalibrated"] == ["Emphysema"]
    assert written["thresholds"]["Emphysema"] == 0.5
    for row in written["predictions"]:
        undecided = [name for name, positive in row["positive"].items() if positive is None]
        assert undecided == ["Emphysema"]
    submitted = json.loads((metrics / "submission.json").read_text())["predictions"]
    for row, shifted in zip(written["predictions"], submitted, strict=True):
        assert shifted["probabilities"]["Emphysema"] == pytest.approx(
            row["probabilities"]["Emphysema"], rel=1e-12
        )
    assert "not calibrated" in (metrics / "report.html").read_text()
    export.run(small_params, *paths, tmp_path / "weights")
    (model,) = (tmp_path / "weights").glob("*.onnx")
    assert load_model(model).card.uncalibrated == ("Emphysema",)


def test_a_processed_set_of_another_recipe_is_refused(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    other = tmp_path / "processed"
    shutil.copytree(small_set.root, other)
    recipe = json.loads((other / "recipe.json").read_text())
    recipe["preprocess"]["spacing"][0] += 1
    (other / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(InputError, match="was made by another recipe"):
        evaluate.run(small_params, trained / "checkpoints", other, tmp_path)


def test_a_processed_set_of_other_findings_is_refused(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    other = tmp_path / "processed"
    shutil.copytree(small_set.root, other)
    text = (other / "labels.csv").read_text()
    (other / "labels.csv").write_text(text.replace("Emphysema", "Cyst", 1))
    paths = trained / "checkpoints", other, trained / "metrics"
    with pytest.raises(InputError, match="the checkpoint was trained on Medical material, "):
        export.run(small_params, *paths, tmp_path / "weights")
    with pytest.raises(InputError, match=r"has the findings .*Cyst, .*; run `dvc repro`"):
        evaluate.run(small_params, *paths)


def drop_rows(folder: Path, start: str) -> None:
    """Remove the volumes whose names begin with `start` from the tables of a processed dataset."""
    for name in ("manifest.csv", "labels.csv"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(line for line in lines if not line.startswith(start)))


@pytest.mark.parametrize(
    ("start", "message"),
    [("valid", "no volume of the test split"), ("train", "are not those that the checkpoint")],
)
def test_evaluate_without_volumes_is_an_error(
    start: str,
    message: str,
    trained: Path,
    tmp_path: Path,
    small_params: Params,
    small_set: ProcessedDataset,
):
    other = tmp_path / "processed"
    shutil.copytree(small_set.root, other)
    drop_rows(other, start)
    shutil.copy(trained / "metrics/history.csv", tmp_path)
    with pytest.raises(InputError, match=message):
        evaluate.run(small_params, trained / "checkpoints", other, tmp_path)


def test_missing_or_damaged_metrics_are_errors_with_a_fix(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    paths = trained / "checkpoints", small_set.root, tmp_path
    with pytest.raises(InputError, match=r"history\.csv: cannot be read .*`dvc repro train`"):
        evaluate.run(small_params, *paths)
    for content in (None, "no json", '{"findings": {"Medical material": {"slope": 1}}}'):
        if content:
            (tmp_path / "calibration.json").write_text(content)
        with pytest.raises(InputError, match=r"calibration\.json: cannot be read .*dvc repro"):
            export.run(small_params, *paths, tmp_path / "weights")
    shutil.copy(trained / "metrics/calibration.json", tmp_path)
    (tmp_path / "evaluate.json").write_text("{}")
    with pytest.raises(InputError, match=r"evaluate\.json: cannot be read .*`dvc repro evaluate`"):
        export.run(small_params, *paths, tmp_path / "weights")


def test_export_without_volumes_is_an_error(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    other = tmp_path / "processed"
    shutil.copytree(small_set.root, other)
    drop_rows(other, "valid")
    with pytest.raises(InputError, match="no volume of the test split to compare"):
        export.run(
            small_params, trained / "checkpoints", other, trained / "metrics", tmp_path / "weights"
        )


def test_an_unfinished_run_is_an_error_in_both(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    unfinished = load_checkpoint(trained / "checkpoints/best.ckpt") | {"complete": False}
    save_checkpoint(unfinished, tmp_path / "best.ckpt")
    paths = tmp_path, small_set.root, trained / "metrics"
    with pytest.raises(InputError, match="has not ended"):
        evaluate.run(small_params, *paths)
    with pytest.raises(InputError, match="has not ended"):
        export.run(small_params, *paths, tmp_path / "weights")


@pytest.mark.slow
def test_export_compares_each_format_and_describes_the_model(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    shutil.copytree(trained / "metrics", tmp_path / "metrics")
    out = tmp_path / "model_weights"
    paths = trained / "checkpoints", small_set.root, tmp_path / "metrics"
    report = export.run(small_params, *paths, out)
    assert set(report["formats"]) == {"pth", "safetensors", "pt2", "onnx"}
    for result in report["formats"].values():
        assert 0 <= result["largest_difference"] <= 1e-4
    assert {path.name for path in out.iterdir()} == {
        "model_weights_test_efficientnet.pth",
        "model_test_efficientnet.safetensors",
        "complete_model_test_efficientnet.pt2",
        "model_test_efficientnet.onnx",
        "model_info.json",
        "MODEL_CARD.md",
    }
    info = json.loads((out / "model_info.json").read_text())
    volume = info["network_data_format"]["inputs"]["volume"]
    assert volume["spatial_shape"] == [8, 32, 32]
    assert info["training_args"]["train"]["learning_rate"] == small_params.train.learning_rate
    weights = torch.load(out / "model_weights_test_efficientnet.pth", weights_only=True)
    assert weights["state_dict"]["classifier.pooling.bias"].isfinite().all()
    models = [path for path in out.iterdir() if path.suffix not in (".json", ".md")]
    assert info["files_sha256"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in models
    }
    assert load_model(out / "model_test_efficientnet.onnx").card.findings == FINDINGS


@pytest.mark.slow
def test_an_inexact_export_is_an_error_with_the_file(
    trained: Path, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    shutil.copytree(trained / "metrics", tmp_path / "metrics")
    strict = small_params.export.model_copy(update={"formats": ("onnx",), "tolerance": 1e-12})
    params = small_params.model_copy(update={"export": strict})
    paths = trained / "checkpoints", small_set.root, tmp_path / "metrics", tmp_path / "out"
    with pytest.raises(InputError, match=r"model_test_efficientnet\.onnx: differs .*tolerance"):
        export.run(params, *paths)


@pytest.mark.slow
def test_an_adapted_encoder_of_the_hub_is_exported_in_every_format(
    tmp_path: Path, small_params: Params, small_set: ProcessedDataset
):
    """From a copy of its repository."""
    weights = make_repository(tmp_path / "weights")
    changes = encoder_settings() | {"finetune": "lora", "pretrained": str(weights)}
    params = small_params.model_copy(
        update={
            "model": small_params.model.model_copy(update=changes),
            "train": small_params.train.model_copy(update={"epochs": 1}),
            "export": small_params.export.model_copy(update={"training_hashes": False}),
        }
    )
    metrics, out = tmp_path / "metrics", tmp_path / "model_weights"
    archive = CheckpointArchive(tmp_path / "aside", tmp_path / "cache")
    paths = RunPaths(tmp_path / "checkpoints", tmp_path / "logs", metrics / "history.csv", archive)
    TrainingRun(params, small_set, paths).run()
    evaluate.run(params, paths.checkpoints, small_set.root, metrics)
    report = export.run(params, paths.checkpoints, small_set.root, metrics, out)
    assert report["formats"].keys() == {"pth", "safetensors", "pt2", "onnx"}
    assert not [name for name in torch.load(next(out.glob("*.pth")))["state_dict"] if "up" in name]
    assert json.loads((out / "model_info.json").read_text())["training_hashes"] == {}
    assert load_model(out).card.training is None
    assert {path.stem.partition("_")[2] for path in out.glob("*Example*")} >= {
        "Example-Lab_chest-encoder"
    }
    card, page = (out / "MODEL_CARD.md").read_text(), (metrics / "report.html").read_text()
    for text in (card, page):
        assert "licensed for non-commercial use only (cc-by-nc-sa-4.0)" in text
        assert "were trained on CT-RATE, whose test split is scored here" in text
    assert params.model.backbone in card
    assert "<dd>ibrahimhamamci/CT-RATE</dd>" in page
