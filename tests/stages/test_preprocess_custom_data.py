"""The preprocess stage on own scans: three kinds of files, and a table that changes."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import tasks
from chest_files import write_metaimage, write_nifti, write_series, write_zipped_series
from folders import contents
from multi_abnormality.config.schema import LabelValues, Params
from multi_abnormality.data.io.read import Volume, read_volume
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.data.preprocessing.resample import resample_and_quantize
from multi_abnormality.data.storage import process_scan
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.stages import preprocess
from multi_abnormality.utils.errors import InputError
from own_scans import write_dicom

TABLE = """scan,patient,split,Cyst,Mass/nodule
Größe 1.nii.gz,A,train,1,0
deep/er/series,B,train,0,1
x.mha,C,test,1,1
"""


class Own:
    """Runs the stage on a folder of own scans, repeatedly into the same output."""

    def __init__(self, folder: Path, params: Params) -> None:
        self.data, self.out, self.metrics = (folder / n for n in ("data", "out", "metrics.json"))
        self.memory = folder / "hashes.json"
        changes = {"table": "labels.csv", "findings": ("Cyst", "Mass/nodule")}
        data = params.data.model_copy(update=changes)
        self.params = params.model_copy(update={"data": data})
        self.data.mkdir()
        hu = [np.random.default_rng(seed).integers(-1000, 300, (12, 20, 20), dtype=np.int16)
              for seed in range(3)]  # fmt: skip
        image = nibabel.Nifti1Image(hu[0].T, np.diag([-4, -4, 5, 1]))
        nibabel.save(image, self.data / "Größe 1.nii.gz")
        self.series = self.data / "deep/er/series"
        self.series.parent.mkdir(parents=True)
        write_dicom(self.series, hu[1], range(12))
        image = sitk.GetImageFromArray(hu[2])
        image.SetSpacing((4, 4, 5))
        sitk.WriteImage(image, str(self.data / "x.mha"))
        self.write(TABLE)

    def write(self, table: str) -> None:
        (self.data / "labels.csv").write_text(table, encoding="utf-8")

    def run(self, **changes: object) -> dict:
        section = self.params.preprocess.model_copy(update=changes)
        params = self.params.model_copy(update={"preprocess": section})
        return preprocess.run(params, self.data, self.out, self.metrics, self.memory)

    def contents(self) -> dict[str, bytes]:
        return contents(self.out)


@pytest.fixture
def own(tmp_path: Path, small_params: Params) -> Own:
    return Own(tmp_path, small_params)


def test_every_kind_of_scan_is_stored_under_its_own_name(own: Own):
    summary = own.run()
    assert summary["volumes"] == summary["patients"] == {"train": 2, "test": 1}
    assert "releases" not in summary
    stored = ProcessedDataset(own.out)
    paths = {"Größe 1": "Größe 1.nii.gz", "deep/er/series": "deep/er/series", "x": "x.mha"}
    assert stored.names == list(paths)
    for name, path in paths.items():
        expected = resample_and_quantize(read_volume(own.data / path), own.params.preprocess)
        np.testing.assert_array_equal(stored.read(name), expected)
    assert stored.findings == ("Cyst", "Mass/nodule")
    assert stored.labels_of(["deep/er/series", "x"]).tolist() == [[0, 1], [1, 1]]
    assert stored.volumes("test")["patient_id"].tolist() == ["C"]
    assert stored.scans_of(stored.names) == stored.names
    assert all(name.startswith("scans/") for name in own.contents() if name.endswith(".zip"))


def test_a_table_may_change_without_a_scan_being_read_again(own: Own, caplog):
    caplog.set_level("INFO", logger="multi_abnormality")
    own.run()
    first = own.contents()
    own.write(TABLE.replace("B,train,0,1", "B,test,0,1").replace("C,test,1,1", "C,train,0,1"))
    own.run()
    assert "0 volumes made, 3 kept" in caplog.text
    moved = ProcessedDataset(own.out).manifest.set_index("name")["split"]
    assert moved.to_dict() == {"Größe 1": "train", "deep/er/series": "test", "x": "train"}
    own.write(TABLE)
    own.run()
    assert own.contents() == first


def test_a_corrected_patient_is_other_training_data(own: Own):
    """It may move scans between training and validation, so a run must not be resumed over it."""
    own.run()
    before = ProcessedDataset(own.out).content_hash("train")
    own.write(TABLE.replace("series,B", "series,A"))
    own.run()
    assert ProcessedDataset(own.out).content_hash("train") != before


def test_a_changed_slice_is_a_changed_series(own: Own, caplog):
    caplog.set_level("INFO", logger="multi_abnormality")
    own.run()
    before = ProcessedDataset(own.out).read("deep/er/series")
    write_dicom(own.series, np.full((12, 20, 20), 100, np.int16), range(1))
    own.run()
    assert "1 volume made, 2 kept" in caplog.text
    assert (ProcessedDataset(own.out).read("deep/er/series") != before).any()


def test_an_unusable_series_is_named_or_left_out(own: Own):
    own.write(TABLE.replace("x.mha,C,test", "y,D,train,1,1\nx.mha,C,test"))
    write_dicom(own.data / "y", np.zeros((12, 20, 20), np.int16), range(12))
    with pytest.raises(InputError, match=r"(?s)by deleting their rows of .*labels\.csv.*y: does"):
        own.run()
    assert own.run(on_error="skip")["rejected"] == {"not HU": 1}
    assert ProcessedDataset(own.out).names == ["Größe 1", "deep/er/series", "x"]


def test_placeholders_of_deleted_scans_are_not_replaced(own: Own):
    own.run()
    (own.out / "recipe.json").write_text("{}")  # as of CT-RATE
    (own.data / "train_1_a_1.nii.gz.receipt").touch()
    with pytest.raises(InputError, match="1 of its volumes were deleted after they were processed"):
        own.run()


def test_a_row_may_name_a_scan_in_all_ways_in_which_predict_finds_it(
    tmp_path: Path, small_params: Params, caplog
):
    """One file of a series, a series over subfolders or in a .zip, and headers beside voxels."""
    own = Own(tmp_path, small_params)
    write_series(own.data / "one", slices=12)
    write_series(own.data / "spread", name=lambda index: f"{index % 3}/IM{index}")
    write_zipped_series(own.data / "packed.zip", slices=13)
    write_metaimage(own.data / "header.mhd", ElementDataFile="its voxels")
    write_nifti(own.data / "pair.hdr")
    write_series(own.data / "no row", slices=3)
    cells = ("one/003.dcm", "spread", "packed", "header.mhd", "pair")
    rows = [f"{cell},P{number},train,1,0" for number, cell in enumerate(cells)]
    own.write("\n".join([TABLE.rstrip(), *rows]))
    assert own.run()["volumes"] == {"train": 7, "test": 1}
    names = {"one", "spread", "packed", "header", "pair"}
    assert names < set(ProcessedDataset(own.out).names)
    assert "1 scan without a row" in caplog.text
    assert str(own.data / "no row") in caplog.text

    content = bytearray((own.data / "its voxels").read_bytes())
    content[9] ^= 1
    (own.data / "its voxels").write_bytes(content)
    caplog.set_level("INFO", logger="multi_abnormality")
    own.run()
    assert "1 volume made, 7 kept" in caplog.text


def test_an_unexpected_error_in_one_scan_does_not_affect_the_others(own: Own, monkeypatch):
    """With `stop` all others are stored, and the error names the scan."""

    def fail(path: Path, series: Series | None) -> Volume:
        if path.name == "x.mha":
            raise RecursionError("deep")
        return read_volume(path, series)

    own.params = own.params.model_copy(update={"machine": tasks.machine(workers=0)})
    monkeypatch.setattr(process_scan, "read_volume", fail)
    with pytest.raises(
        InputError, match=r"x\.mha: failed with an unexpected RecursionError \(deep"
    ):
        own.run()
    monkeypatch.setattr(process_scan, "read_volume", None)  # what was done is not read again
    own.write(TABLE.replace("x.mha,C", "Größe 2.nii.gz,C"))
    (own.data / "Größe 2.nii.gz").write_bytes((own.data / "Größe 1.nii.gz").read_bytes())
    with pytest.raises(InputError, match=r"(?s)1 of 3 volumes.*Größe 2\.nii\.gz: .*TypeError"):
        own.run()


CRASH = """
import os, signal
from pathlib import Path
from multi_abnormality.data.storage import process_scan

def deadly(path, series, read=process_scan.read_volume):
    if path.name == "Größe 1.nii.gz":
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(path, series)

process_scan.read_volume = deadly
"""


def test_without_workers_a_reader_that_crashes_is_skipped(own: Own, monkeypatch):
    """By a fault that is in every Python process: nothing but the end of one shows it."""
    folder = own.data.parent / "fault"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"import sys\nif any('loky' in word for word in sys.orig_argv):\n    exec({CRASH!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    own.params = own.params.model_copy(update={"machine": tasks.machine(workers=0)})
    assert own.run(on_error="skip")["rejected"] == {"crashed its reader": 1}
    assert ProcessedDataset(own.out).names == ["deep/er/series", "x"]


def test_one_scan_in_both_splits_is_refused(own: Own, caplog: pytest.LogCaptureFixture):
    """Under two patients and in two files: it would be trained on and scored."""
    hu = np.asarray(nibabel.load(own.data / "Größe 1.nii.gz").dataobj)
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-4, -4, 5, 1])), own.data / "again.nii")
    own.write(TABLE + "again.nii,D,test,1,0\n")
    with pytest.raises(InputError) as caught:
        own.run()
    message = str(caught.value)
    assert "Größe 1 and again hold the same voxels" in message
    assert "in two splits or folds" in message
    assert "data.columns.patient" in message
    own.write(TABLE + "again.nii,D,train,1,0\n")
    own.run()
    assert "hold the same voxels, but belong to two patients; remove one" in caplog.text
    own.write(TABLE + "again.nii,A,train,1,0\n")
    caplog.clear()
    own.run()
    assert "same voxels" not in caplog.text


VALUES = {"positive": ("1",), "negative": ("0",), "uncertain": ("u",), "missing": ("",)}
SOME_MISSING = TABLE.replace("train,1,0", "train,1,").replace("train,0,1", "train,0,u")


def test_missing_labels_are_stored_as_empty_cells_and_counted(own: Own):
    own.run()
    complete = own.contents()
    trained = ProcessedDataset(own.out).content_hash("train")
    own.params = own.params.model_copy(
        update={"data": own.params.data.model_copy(update={"values": LabelValues(**VALUES)})}
    )
    assert own.run()["labels"]["train"]["Cyst"] == {"positives": 1, "negatives": 1, "missing": 0}
    assert own.contents() == complete
    own.write(SOME_MISSING.replace("C,test,1", "C,test,"))
    counts = own.run()["labels"]
    assert counts["train"]["Mass/nodule"] == {"positives": 0, "negatives": 0, "missing": 2}
    assert counts["test"]["Cyst"] == {"positives": 0, "negatives": 0, "missing": 1}
    assert (own.out / "labels.csv").read_text() == (
        "name,Cyst,Mass/nodule\nGröße 1,1,\ndeep/er/series,0,\nx,,1\n"
    )
    stored = ProcessedDataset(own.out)
    expected = [[1, np.nan], [0, np.nan], [np.nan, 1]]
    np.testing.assert_array_equal(stored.labels_of(stored.names), expected)
    assert stored.content_hash("train") != trained
