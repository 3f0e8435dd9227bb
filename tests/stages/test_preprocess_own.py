"""The preprocess stage on own scans: three kinds of files, and a table that changes."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from folders import contents
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.resample import standardize
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.params import Params
from multi_abnormality.stages import preprocess
from own_scans import write_dicom

TABLE = """scan,patient,split,Cyst,Mass/nodule
Größe 1.nii.gz,A,train,1,0
deep/er/series,B,train,0,1
x.mha,C,valid,1,1
"""


class Own:
    """Runs the stage on a folder of own scans, again and again into the same output."""

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
        sitk.WriteImage(sitk.GetImageFromArray(hu[2]), str(self.data / "x.mha"))
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
    assert summary["volumes"] == summary["patients"] == {"train": 2, "valid": 1}
    assert "releases" not in summary
    stored = ProcessedSet(own.out)
    paths = {"Größe 1": "Größe 1.nii.gz", "deep/er/series": "deep/er/series", "x": "x.mha"}
    assert stored.names == list(paths)
    for name, path in paths.items():
        expected = standardize(read_volume(own.data / path), own.params.preprocess)
        np.testing.assert_array_equal(stored.read(name), expected)
    assert stored.findings == ("Cyst", "Mass/nodule")
    assert stored.labels_of(["deep/er/series", "x"]).tolist() == [[0, 1], [1, 1]]
    assert stored.volumes("valid")["patient_id"].tolist() == ["C"]
    assert stored.scans_of(stored.names) == stored.names
    assert all(name.startswith("scans/") for name in own.contents() if name.endswith(".zip"))


def test_a_table_may_change_without_a_scan_being_read_again(own: Own, caplog):
    caplog.set_level("INFO", logger="multi_abnormality")
    own.run()
    first = own.contents()
    own.write(TABLE.replace("B,train,0,1", "B,valid,0,1").replace("C,valid,1,1", "C,train,0,1"))
    own.run()
    assert "0 volumes made, 3 kept" in caplog.text
    moved = ProcessedSet(own.out).manifest.set_index("name")["split"]
    assert moved.to_dict() == {"Größe 1": "train", "deep/er/series": "valid", "x": "train"}
    own.write(TABLE)
    own.run()
    assert own.contents() == first


def test_a_changed_slice_is_a_changed_series(own: Own, caplog):
    caplog.set_level("INFO", logger="multi_abnormality")
    own.run()
    before = ProcessedSet(own.out).read("deep/er/series")
    write_dicom(own.series, np.full((12, 20, 20), 100, np.int16), range(1))
    own.run()
    assert "1 volumes made, 2 kept" in caplog.text
    assert (ProcessedSet(own.out).read("deep/er/series") != before).any()


def test_an_unusable_series_is_named_or_left_out(own: Own):
    own.write(TABLE.replace("x.mha,C,valid", "y,D,train,1,1\nx.mha,C,valid"))
    write_dicom(own.data / "y", np.zeros((12, 20, 20), np.int16), range(12))
    with pytest.raises(InputError, match=r"(?s)by deleting their rows of .*labels\.csv.*y: does"):
        own.run()
    assert own.run(on_error="skip")["rejected"] == {"not HU": 1}
    assert ProcessedSet(own.out).names == ["Größe 1", "deep/er/series", "x"]


def test_what_is_left_of_deleted_scans_is_not_replaced(own: Own):
    own.run()
    (own.out / "recipe.json").write_text("{}")  # CT-RATE's, say
    (own.data / "train_1_a_1.nii.gz.receipt").touch()
    with pytest.raises(InputError, match="1 of its volumes were deleted after they were processed"):
        own.run()
