"""Ensembles of two trained runs: fusion, files, prediction, and what cannot be fused."""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from multi_abnormality import InputError, __version__, load_model
from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.fusion import MAX_LOGIT, fuse, to_logits
from multi_abnormality.inference import onnx_metadata
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.training_run import RunPaths
from multi_abnormality.stages import evaluate, export, preprocess, train
from multi_abnormality.tools.compare.revisions import Revision
from multi_abnormality.tools.ensemble import fused_model
from multi_abnormality.tools.ensemble.ensemble_stage import new_folder
from multi_abnormality.tools.ensemble.fused_model import fit_weights
from multi_abnormality.tools.ensemble.fused_results import write_results
from multi_abnormality.tools.ensemble.members import Member, check_members, read_member

read_onnx = Member.read_onnx


def train_member(params: Params, processed: Path, folder: Path) -> None:
    """Run the stages after preprocess; the folder then reads as a revision's."""
    metrics, checkpoints = folder / "metrics", folder / "checkpoints"
    archive = CheckpointArchive(folder / "archive", folder / "cache")
    paths = RunPaths(checkpoints, folder / "logs", metrics / "history.csv", archive)
    train.run(params, processed, paths, metrics / "train.json")
    evaluate.run(params, checkpoints, processed, metrics)
    export.run(params, checkpoints, processed, metrics, folder / "model_weights")
    (folder / "processed").symlink_to(processed)
    text = yaml.safe_dump(params.model_dump(mode="json"))
    (folder / "params.yaml").write_text(text)


def read_file(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def member_of(folder: Path) -> Member:
    return read_member(
        Revision(folder.name, f"{folder.name:0<40}"), functools.partial(read_file, folder)
    )


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory, small_params: Params, small_set: ProcessedDataset
) -> Path:
    """Two runs: another seed and other voxels."""
    root = tmp_path_factory.mktemp("ensembles")
    short = {"epochs": 1, "schedule_epochs": 1, "val_fraction": 0.5}
    params = small_params.model_copy(
        update={
            "train": small_params.train.model_copy(update=short),
            "export": small_params.export.model_copy(update={"formats": ("onnx",)}),
        }
    )
    train_member(params, small_set.root, root / "a")
    coarse = {"shape": (6, 24, 24), "spacing": (9.0, 4.0, 4.0)}
    other = params.model_copy(
        update={"seed": 1, "preprocess": params.preprocess.model_copy(update=coarse)}
    )
    data = small_set.root.parent / "data"
    preprocess.run(other, data, root / "coarse", root / "preprocess.json")
    train_member(other, root / "coarse", root / "b")
    return root


@pytest.fixture(scope="module")
def pair(root: Path) -> list[Member]:
    return check_members([member_of(root / "a"), member_of(root / "b")])


@pytest.fixture(scope="module")
def folder(pair: list[Member], root: Path) -> Path:
    write_results(fused_model.fuse_members("pair", pair, "mean"), root / "pair")
    return root / "pair"


def test_fused_logits_are_the_mean_of_calibrated_ones(pair: list[Member], folder: Path):
    content = json.loads((folder / "predictions.json").read_text())
    calibration = json.loads((folder / "calibration.json").read_text())["findings"]
    own = [
        {row["input_image_name"]: row["probabilities"] for row in json.loads(
            member.read("metrics/predictions.json"))["predictions"]}
        for member in pair
    ]  # fmt: skip
    for row in content["predictions"]:
        for finding, probability in row["probabilities"].items():
            logits = [to_logits(each[row["input_image_name"]][finding]) for each in own]
            fitted = calibration[finding]
            fused = fitted["slope"] * np.mean(logits) + fitted["intercept"]
            assert to_logits(probability) == pytest.approx(fused, abs=1e-9)
            assert content["thresholds"][finding] == fitted["threshold"]


def test_scores_name_members_and_hashes_and_repeat(pair: list[Member], folder: Path, root: Path):
    scores = json.loads((folder / "evaluate.json").read_text())
    listed = scores["ensemble"]["members"]
    assert [member["sha256"] for member in listed] == [member.sha256 for member in pair]
    assert [member["weight"] for member in listed] == [0.5, 0.5]
    comparison = json.loads((folder / "comparison.json").read_text())
    best = max(member["auroc"] for member in listed)
    assert comparison["macro"]["auroc"]["a"] == pytest.approx(best, abs=1e-12)
    found = scores["classification"]["macro"]["auroc"]
    assert comparison["macro"]["auroc"]["b"] == pytest.approx(found, abs=1e-12)
    write_results(fused_model.fuse_members("pair", pair, "mean"), root / "again")
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 15
    for file in files:
        assert (folder / file).read_bytes() == (root / "again" / file).read_bytes(), file


def test_predict_reads_a_scan_once_and_agrees_with_the_scores(
    folder: Path, small_set: ProcessedDataset, monkeypatch: pytest.MonkeyPatch
):
    from multi_abnormality.inference import onnx_model

    opened = []

    def read_volume(scan: Path):
        opened.append(scan)
        return original(scan)

    original = onnx_model.read_volume
    monkeypatch.setattr(onnx_model, "read_volume", read_volume)
    content = json.loads((folder / "predictions.json").read_text())["predictions"]
    rows = small_set.manifest[small_set.manifest["split"] == "test"]
    single = rows[~rows["scan_id"].duplicated(keep=False)]["name"].tolist()
    model = load_model(folder / "model")
    by_name = {row["input_image_name"]: row for row in content}
    for name in single[:2]:
        (path,) = (small_set.root.parent / "data").rglob(f"{name}.nii.gz")
        prediction = model.predict(path)
        expected = by_name[name]
        assert prediction.probabilities == pytest.approx(expected["probabilities"], abs=1e-4)
        decisions = {finding.name: finding.positive for finding in prediction.findings}
        assert decisions == expected["positive"]
        assert prediction.attention.shape == (len(model.findings), 8)
        assert prediction.volume.shape == (8, 32, 32)
    assert len(opened) == 2
    with pytest.raises(InputError, match=r"no such|does not exist|cannot be read"):
        model.predict(folder / "missing.nii.gz")


def test_training_scans_of_any_member_are_recognized(folder: Path, small_set: ProcessedDataset):
    model = load_model(folder / "model")
    assert model.has_training_hashes
    trained = small_set.volumes("train")["name"].iloc[0]
    (path,) = (small_set.root.parent / "data").rglob(f"{trained}.nii.gz")
    held_out = small_set.volumes("test")["name"].iloc[0]
    (other,) = (small_set.root.parent / "data").rglob(f"{held_out}.nii.gz")
    inputs = [model.predict(scan).input_sha256 for scan in (other, path)]
    assert model.find_training_scans(inputs) == [1]
    patient = small_set.volumes("train")["patient_id"].iloc[0]
    assert model.find_training_patients(["someone else", patient]) == [patient]


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder / "model", tmp_path / "model")


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_finding_that_a_member_was_not_trained_on_is_named(pair: list[Member]):
    name = pair[0].test.columns[3]
    fused = fused_model.fuse_members("pair", [pair[0], replace(pair[1], untrained=[name])], "mean")
    assert fused.scores["counts"]["untrained"] == [name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info["members"][0].update(file="../../model.onnx"), "path in the folder"),
        (lambda info: info["members"][0].update(file="/etc/passwd"), "path in the folder"),
        (lambda info: info["members"][0].update(weight=-0.5), "weight must be between 0 and 1"),
        (lambda info: info["members"][0].update(weight=0.9), "the sum 1"),
        (lambda info: info["members"][0].update(sha256="0" * 64), "is not the member"),
        (lambda info: info["members"][0].update(file="members/9/a.onnx"), "is missing, a member"),
        (lambda info: info.update(members=[]), "members: must be"),
        (lambda info: info.update(version="9.0"), "was exported by version 9.0"),
        (lambda info: info["slope"].popitem(), "exactly one for each finding"),
        (lambda info: info["thresholds"].update({info["findings"][0]: 2}), "between 0 and 1"),
    ],
)
def test_a_wrong_description_is_refused(copied: Path, change: Callable, message: str):
    edit(copied / "model_info.json", change)
    with pytest.raises(InputError, match=message):
        load_model(copied)


def test_a_damaged_description_or_member_is_refused(copied: Path):
    text = (copied / "model_info.json").read_text()
    (copied / "model_info.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match="not the description of an ensemble"):
        load_model(copied)
    (copied / "model_info.json").write_text(text)
    (file,) = (copied / "members/1").glob("*.onnx")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"is not the member .* SHA-256"):
        load_model(copied)


def test_members_of_one_model_or_revision_are_refused(pair: list[Member]):
    with pytest.raises(InputError, match=r"^a and a are the same model"):
        check_members([pair[0], pair[0]])
    with pytest.raises(InputError, match="at least two"):
        check_members(pair[:1])


def without(member: Member, **changes: object) -> Member:
    return replace(member, **changes)


def test_members_of_other_findings_are_refused(pair: list[Member]):
    first, second = pair
    fewer = without(second, test=second.test.iloc[:, 1:])
    with pytest.raises(InputError, match="different findings: only one of them has Medical"):
        check_members([first, fewer])


def test_a_member_trained_on_test_patients_of_another_is_refused(pair: list[Member]):
    first, second = pair
    manifest = second.manifest.copy()
    test = manifest["split"] == "test"
    patient = manifest["patient_id"][test].iloc[0]
    manifest.loc[manifest["patient_id"] == patient, "split"] = "train"
    leaky = without(second, manifest=manifest)
    message = rf"^b was trained on 1 test patients of a: {patient};.* data.split_seed"
    with pytest.raises(InputError, match=message):
        check_members([first, leaky])
    manifest.loc[manifest["patient_id"] == patient, "patient_id"] = "under another id"
    with pytest.raises(InputError, match=r"was trained on .* test scans of a"):
        check_members([first, leaky])


def test_members_scored_on_other_scans_are_refused(pair: list[Member]):
    first, second = pair
    scored = second.predictions
    scans = scored.scans.index[1:]
    fewer = without(second, predictions=scored.select(scans, scored.labels.columns))
    with pytest.raises(InputError, match=r"different test scans: 8 and 7, of which only one has"):
        check_members([first, fewer])


def test_members_without_common_val_patients_are_refused(pair: list[Member]):
    first, second = pair
    few = without(second, val=second.val.iloc[:3], val_labels=second.val_labels.iloc[:3])
    with pytest.raises(InputError, match=r"only [123] val patients .* at least 10 .*split_seed"):
        check_members([first, few])


def test_a_run_without_an_onnx_file_is_refused(root: Path, tmp_path: Path):
    shutil.copytree(root / "a", tmp_path / "a", symlinks=True)
    info = tmp_path / "a/model_weights/model_info.json"
    edit(info, lambda content: content["files_sha256"].clear())
    with pytest.raises(InputError, match=r"^a: has no ONNX file.* export.formats"):
        check_members([member_of(root / "b"), member_of(tmp_path / "a")])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda info: info.pop("license"), "license: is missing"),
        (lambda info: info.update(license=None), "license: must be text, not None"),
        (lambda info: info["files_sha256"].update(a=1), "files_sha256.a: must be text, not 1"),
    ],
)
def test_a_run_with_a_wrong_model_info_is_refused(
    root: Path, tmp_path: Path, change: Callable, key: str
):
    shutil.copytree(root / "a", tmp_path / "a", symlinks=True)
    edit(tmp_path / "a/model_weights/model_info.json", change)
    message = (
        rf"^a: model_weights/model_info.json is not valid: {key}.* `git checkout @{{-1}} -- src"
    )
    with pytest.raises(InputError, match=message):
        member_of(tmp_path / "a")


def test_a_member_without_pretrained_weights_in_its_model_info_has_none(root: Path, tmp_path: Path):
    shutil.copytree(root / "a", tmp_path / "a", symlinks=True)
    info = tmp_path / "a/model_weights/model_info.json"
    edit(info, lambda content: content.pop("pretrained_weights"))
    assert member_of(tmp_path / "a").info.pretrained_weights is None


@pytest.mark.parametrize(
    ("version", "damage", "message"),
    [
        ("9.0.0", b"", "was exported by version .* but this is 9.0.0"),
        (__version__, b"x", "has no checksum at its end|is not a valid ONNX model"),
    ],
)
def test_a_member_whose_model_cannot_be_loaded_is_refused(
    pair: list[Member],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    damage: bytes,
    message: str,
):
    monkeypatch.setattr(onnx_metadata, "__version__", version)
    monkeypatch.setattr(Member, "read_onnx", lambda member: read_onnx(member) + damage)
    with pytest.raises(InputError, match=rf"^a: its model cannot be loaded \(.*({message})"):
        write_results(fused_model.fuse_members("pair", pair, "mean"), tmp_path / "pair")
    assert list((tmp_path / "pair").iterdir()) == []


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 101, "with space"])
def test_a_name_that_is_no_file_name_is_refused(name: str, tmp_path: Path):
    with pytest.raises(InputError, match="must be a file name"):
        new_folder(tmp_path, name)


def test_a_name_that_exists_is_refused(tmp_path: Path):
    new_folder(tmp_path, "pair").mkdir(parents=True)
    with pytest.raises(InputError, match=r"ensembles/pair exists; choose another name"):
        new_folder(tmp_path, "pair")


def test_weights_prefer_the_better_member_and_are_bounded():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 3)) < 0.4).astype(float)
    signal = 4 * labels - 2
    good, noise = signal + rng.normal(0, 1, labels.shape), rng.normal(0, 2, labels.shape)
    labels[::7, 1] = np.nan
    weights = fit_weights(np.stack([noise, good, -good]), labels)
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    assert min(weights) >= 0
    assert weights[1] > 0.7
    assert weights[2] == 0
    equal = fit_weights(np.stack([good, good]), labels)
    assert equal == pytest.approx([0.5, 0.5], abs=1e-3)
    with pytest.raises(InputError, match="no member is better than chance"):
        fit_weights(np.stack([-4 * good, -4 * good]), labels)


def test_extreme_probabilities_have_finite_logits():
    assert to_logits(np.array([0.0, 1.0, np.float32(1) - np.float32(6e-8)])).tolist() == [
        -MAX_LOGIT, MAX_LOGIT, MAX_LOGIT,
    ]  # fmt: skip
    fused = fuse(np.array([[[1e300]], [[-1.0]]]), [0.5, 0.5])
    assert fused.tolist() == [[(MAX_LOGIT - 1) / 2]]
