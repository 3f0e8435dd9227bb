import gzip
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from chest_phantom.nifti_writer import encode_nifti
from folders import contents
from multi_abnormality.config.schema import load_params
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.preprocessing.resample import resample_and_quantize
from multi_abnormality.data.storage import process_scan
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.stages import preprocess
from multi_abnormality.utils.errors import InputError

PROJECT = Path(__file__).parents[2]
REAL_SCANS = PROJECT / "../shared/real-ct"


@pytest.fixture
def params():
    params = load_params(PROJECT / "params.yaml")
    machine = params.machine.model_copy(update={"workers": 0})
    return params.model_copy(update={"machine": machine})


@pytest.fixture
def folder(ct_rate):
    for seed, patient in enumerate((1, 2, 10, 11)):
        ct_rate.add(f"train_{patient}_a_1", positive=("Emphysema",), seed=seed)
    ct_rate.add("train_2_a_2", positive=("Emphysema",), seed=8)
    ct_rate.add("valid_1_a_1", seed=9)
    ct_rate.write_tables()
    return ct_rate


class Stage:
    """Runs the stage on a folder, into one output after another."""

    def __init__(self, params, data: Path, tmp_path: Path) -> None:
        self.params, self.data, self.tmp_path = params, data, tmp_path

    def run(self, out: str) -> dict:
        metrics = self.tmp_path / f"{out}.json"
        return preprocess.run(self.params, self.data, self.tmp_path / out, metrics)

    def contents(self, out: str) -> dict[str, bytes]:
        metrics = (self.tmp_path / f"{out}.json").read_bytes()
        return {**contents(self.tmp_path / out), "metrics": metrics}


@pytest.fixture
def stage(params, folder, tmp_path):
    return Stage(params, folder.root, tmp_path)


def test_every_scan_is_stored_as_predict_would_see_it(stage, folder, params):
    summary = stage.run("out")
    stored = ProcessedDataset(stage.tmp_path / "out")
    for name in stored.names:
        path = next(folder.root.glob(f"dataset/*/*/*/{name}.nii.gz"))
        expected = resample_and_quantize(read_volume(path), params.preprocess)
        np.testing.assert_array_equal(stored.read(name), expected)
    assert summary["volumes"] == {"train": 5, "test": 1}
    assert summary["scans"] == {"train": 4, "test": 1}
    assert summary["patients"] == {"train": 4, "test": 1}
    assert summary["excluded"] == 0
    shards = [c for name, c in contents(stage.tmp_path / "out").items() if name.endswith(".zip")]
    assert summary["stored_bytes"] == sum(len(content) for content in shards)
    assert json.loads((stage.tmp_path / "out.json").read_text()) == summary


def test_a_second_run_and_more_workers_change_nothing(stage, monkeypatch):
    stage.run("out")
    fresh = stage.contents("out")
    with monkeypatch.context() as patch:
        patch.setattr(process_scan, "read_volume", None)  # kept volumes are not read again
        stage.run("out")
    assert stage.contents("out") == fresh
    machine = stage.params.machine.model_copy(update={"workers": 2})
    stage.params = stage.params.model_copy(update={"machine": machine})
    stage.run("parallel")
    assert stage.contents("parallel") == fresh


def test_added_changed_and_removed_scans_lead_to_what_a_fresh_run_makes(stage, folder):
    stage.run("grown")
    folder.add("train_3_b_1", seed=20)
    folder.add("train_47_a_1", seed=21)
    folder.add_file("train_10_a_1", seed=22)
    next(folder.root.glob("dataset/*/*/*/train_11_a_1.nii.gz")).unlink()
    folder.rows["train"] = [row for row in folder.rows["train"] if "train_11_" not in row]
    folder.write_tables()
    stage.run("grown")
    stage.run("fresh")
    assert stage.contents("grown") == stage.contents("fresh")
    assert "train/train_00011-00020.zip" not in stage.contents("grown")


def test_other_parameters_lead_to_what_a_fresh_run_makes(stage):
    stage.run("changed")
    recipe = stage.params.preprocess.model_copy(update={"shape": (8, 20, 20)})
    stage.params = stage.params.model_copy(update={"preprocess": recipe})
    stage.run("changed")
    stage.run("fresh")
    assert stage.contents("changed") == stage.contents("fresh")


def test_bad_scans_are_all_listed_and_the_good_ones_kept(stage, folder, monkeypatch):
    broken = {
        name: next(folder.root.glob(f"dataset/*/*/*/{name}.nii.gz"))
        for name in ("train_1_a_1", "train_10_a_1", "train_11_a_1")
    }
    whole = {name: path.read_bytes() for name, path in broken.items()}
    broken["train_1_a_1"].write_bytes(whole["train_1_a_1"][:2000])
    broken["train_10_a_1"].write_text("not found")
    hu = np.full((20, 20, 12), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-4, -4, 5, 1])), broken["train_11_a_1"])
    with pytest.raises(InputError, match="3 of 6 volumes cannot be used") as caught:
        stage.run("fixed")
    assert all(str(path) in str(caught.value) for path in broken.values())
    with pytest.raises(InputError, match=r"manifest.csv: is missing or not finished"):
        ProcessedDataset(stage.tmp_path / "fixed")

    for name, path in broken.items():
        path.write_bytes(whole[name])
    read = []
    monkeypatch.setattr(
        process_scan, "read_volume", lambda p, s: read.append(p) or read_volume(p, s)
    )
    stage.run("fixed")
    assert sorted(read) == sorted(broken.values())
    stage.run("fresh")
    assert stage.contents("fixed") == stage.contents("fresh")


def test_bad_scans_are_skipped_by_parameter_and_counted_by_reason(stage, folder):
    paths = {path.name.split(".")[0]: path for path in folder.root.glob("dataset/*/*/*/*.nii.gz")}
    kept = paths["train_1_a_1"].read_bytes()
    paths["train_1_a_1"].write_bytes(kept[:2000])
    hu = np.full((20, 20, 12), 700, np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-4, -4, 5, 1])), paths["train_10_a_1"])
    recipe = stage.params.preprocess.model_copy(update={"on_error": "skip"})
    stage.params = stage.params.model_copy(update={"preprocess": recipe})
    summary = stage.run("out")
    assert summary["rejected"] == {"damaged": 1, "not HU": 1}
    assert summary["volumes"] == {"train": 3, "test": 1}
    stored = ProcessedDataset(stage.tmp_path / "out")
    assert not {"train_1_a_1", "train_10_a_1"} & set(stored.names)

    paths["train_1_a_1"].write_bytes(kept)  # fixed: it is added
    assert stage.run("out")["rejected"] == {"not HU": 1}
    stage.run("fresh")
    assert stage.contents("out") == stage.contents("fresh")

    for path in paths.values():
        if path.name.startswith("valid"):
            path.write_bytes(b"")
    with pytest.raises(InputError, match="no volume of the test split"):
        stage.run("out")


def test_no_scan_is_skipped_for_a_fault_of_the_disk(stage, folder):
    recipe = stage.params.preprocess.model_copy(update={"on_error": "skip"})
    stage.params = stage.params.model_copy(update={"preprocess": recipe})
    lost = next(folder.root.glob("dataset/*/*/*/train_1_a_1.nii.gz"))
    lost.unlink()
    lost.symlink_to(lost)  # in a circle: it is there, and cannot be read
    with pytest.raises(InputError, match="1 of 6 volumes cannot be used") as caught:
        stage.run("out")
    assert str(lost) in str(caught.value)


def test_both_releases_are_counted_and_a_changed_table_is_read_again(stage, folder):
    metadata = folder.root / "dataset/metadata/train_metadata.csv"
    metadata.parent.mkdir()
    header = "VolumeName,RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing,ImageOrientationPatient\n"
    row = 'train_1_a_1.nii.gz,1,-1024,"[4, 4]",{},"[1, 0, 0, 0, 1, 0]"\n'
    metadata.write_text(header + row.format(5))
    path = next(folder.root.glob("dataset/*/*/*/train_1_a_1.nii.gz"))
    stage.run("out")
    fixed = ProcessedDataset(stage.tmp_path / "out").read("train_1_a_1")
    raw = np.asarray(nibabel.load(path).dataobj) + np.int16(1024)
    nibabel.save(nibabel.Nifti1Image(raw, np.eye(4)), path)
    summary = stage.run("out")
    assert summary["releases"] == {"v1": 1, "v2": 5}
    np.testing.assert_array_equal(
        ProcessedDataset(stage.tmp_path / "out").read("train_1_a_1"), fixed
    )
    metadata.write_text(header + row.format(10))
    stage.run("out")
    assert (ProcessedDataset(stage.tmp_path / "out").read("train_1_a_1") != fixed).any()


def test_one_scan_under_two_patients_is_warned_about(stage, folder, caplog):
    """Also if the second is compressed again, and so is another file."""
    paths = {path.name.split(".")[0]: path for path in folder.root.glob("dataset/*/*/*/*.nii.gz")}
    content = gzip.decompress(paths["train_1_a_1"].read_bytes())
    paths["train_11_a_1"].write_bytes(gzip.compress(content, 1, mtime=1))
    assert paths["train_11_a_1"].read_bytes() != paths["train_1_a_1"].read_bytes()
    stage.run("out")
    assert "train_1_a_1 and train_11_a_1 hold the same voxels, but belong to two pat" in caplog.text


def draw_phantom(path: Path) -> None:
    hu = np.random.default_rng(7).integers(-1000, 300, (20, 20, 12), dtype=np.int16)
    path.write_bytes(encode_nifti(hu, np.diag([-4.0, -4, 5, 1])))


def test_phantoms_among_patients_are_refused(stage, folder):
    draw_phantom(folder.add_file("train_10_a_1"))
    with pytest.raises(InputError, match=r"such as train_10_a_1.*patients \(such as train_1_a_1"):
        stage.run("out")
    assert not (stage.tmp_path / "out/manifest.csv").exists()
    folder.add_file("train_10_a_1", seed=1)
    stage.run("out")
    assert not ProcessedDataset(stage.tmp_path / "out").synthetic


def test_phantoms_added_to_a_finished_set_are_refused(stage, folder):
    stage.run("out")
    draw_phantom(folder.add("train_12_a_1"))
    folder.write_tables()
    with pytest.raises(InputError, match=r"such as train_12_a_1"):
        stage.run("out")


def test_a_set_of_phantoms_is_marked_whatever_its_tables(stage, folder):
    for path in folder.root.rglob("*.nii.gz"):
        draw_phantom(path)
    stage.run("out")
    marked = ProcessedDataset(stage.tmp_path / "out")
    assert marked.synthetic
    manifest = stage.tmp_path / "out/manifest.csv"
    text = manifest.read_text()
    manifest.write_text(text.replace("synthetic", ""))
    assert ProcessedDataset(manifest.parent).content_hash("train") != marked.content_hash("train")
    manifest.write_text(text.replace("synthetic", "", 1))
    with pytest.raises(InputError, match="mixes synthetic scans"):
        ProcessedDataset(manifest.parent)


def test_a_bad_scan_can_be_left_out(stage, folder):
    next(folder.root.glob("dataset/*/*/*/train_1_a_1.nii.gz")).write_text("not found")
    (folder.root / "dataset/no_chest_train.txt").write_text("train_1_a_1.nii.gz\n")
    assert stage.run("out")["excluded"] == 1
    assert "train_1_a_1" not in ProcessedDataset(stage.tmp_path / "out").names


def start(work: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "multi_abnormality.stages.preprocess"]
    return subprocess.Popen(command, cwd=work, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_bytes_of_a_fresh_run(ct_rate, tmp_path):
    for patient in range(1, 61):
        ct_rate.add(f"train_{patient}_a_1", seed=patient)
    ct_rate.add("valid_1_a_1", seed=0)
    ct_rate.write_tables()
    text = (PROJECT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("workers: auto", "workers: 1"))

    def written() -> set[Path]:
        return set(tmp_path.glob("processed/*/*.zip"))

    unfinished = 0
    for _ in range(4):
        before = written()
        child = start(tmp_path)
        while child.poll() is None and len(written() - before) < 3:
            time.sleep(0.001)
        child.kill()
        child.communicate()
        unfinished += not (tmp_path / "processed/manifest.csv").exists()
    assert unfinished
    assert start(tmp_path).wait() == 0
    resumed = contents(tmp_path / "processed")
    shutil.rmtree(tmp_path / "processed")
    assert start(tmp_path).wait() == 0
    assert contents(tmp_path / "processed") == resumed
    assert len(ProcessedDataset(tmp_path / "processed").names) == 61


def test_the_program_lists_bad_input_without_a_traceback(folder, tmp_path):
    next(folder.root.glob("dataset/*/*/*/train_1_a_1.nii.gz")).write_text("not found")
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    child = start(tmp_path)
    _, messages = child.communicate()
    assert child.returncode == 1
    assert "train_1_a_1.nii.gz" in messages
    assert "Traceback" not in messages


@pytest.mark.skipif(not REAL_SCANS.exists(), reason="no real scans here")
def test_real_chests_shrink_to_less_than_two_thirds(ct_rate, params, tmp_path):
    scans = sorted(REAL_SCANS.glob("chest_CIP*.nii.gz"))
    scans.append(REAL_SCANS / "chest_LungDx-A0001_5mm_dcm2niix.nii.gz")
    names = [*(f"train_{patient}_a_1" for patient in range(1, len(scans))), "valid_1_a_1"]
    for name, scan in zip(names, scans, strict=True):
        shutil.copyfile(scan, ct_rate.add(name))
    ct_rate.write_tables()
    summary = preprocess.run(params, ct_rate.root, tmp_path / "out", tmp_path / "metrics.json")
    raw = np.prod(params.preprocess.shape) * len(scans)
    assert summary["stored_bytes"] < raw / 1.5
    stored = ProcessedDataset(tmp_path / "out")
    first, *others = stored.manifest["voxels_sha256"][:5]  # one scan, oriented in five ways
    assert others == [first] * 4
