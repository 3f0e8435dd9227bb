"""A file format that is registered is read wherever scans are."""

from pathlib import Path

import numpy as np
import pytest

from chest_files import chest, write_nifti
from multi_abnormality import load_model
from multi_abnormality.config.schema import Columns, Data, LabelValues, SplitValues
from multi_abnormality.data.catalog.read_catalog import read_catalog
from multi_abnormality.data.io.hu_conversion import to_hounsfield
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.reader_registry import FORMATS, FileFormat
from multi_abnormality.data.io.scan import Scan, check_shape
from multi_abnormality.data.io.scan_sources import require_scans, resolve_scan
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.data.storage.file_hashes import hash_scan
from multi_abnormality.inference.input_scans import find_scans
from multi_abnormality.utils.errors import UnusableScan
from mutations.formats import FORMATS as MUTATED
from tiny_model import write_model

TABLE = "scan,patient,split,Emphysema\na,1,train,1\nb.npz,2,train,0\nc.npy,3,test,1\n"
COLUMNS = dict.fromkeys(("manufacturer", "kernel", "sex", "age"))


def read(path: Path, _metadata: Series | None = None) -> Scan:
    """Read a .npz of the affine; the voxels are in a .npy beside it."""
    voxels = np.load(path.with_suffix(".npy"))
    shape = check_shape(voxels.shape[::-1])
    hu, notes = to_hounsfield(voxels, shape[::-1], True)
    return Scan(hu.T, np.load(path)["affine"], notes)


def data_file(path: Path) -> Path | None:
    return path.with_suffix(".npy")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = FileFormat("NumPy", __name__, (".npz",), (".npy",))
    monkeypatch.setattr("multi_abnormality.data.io.reader_registry.FORMATS", [*FORMATS, toy])


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array([[-2, 0, 0, 7], [0, -3, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1]], float)
    np.savez(path, affine=affine)
    np.save(path.with_suffix(".npy"), chest())
    return path


def test_it_is_found_beside_others(tmp_path: Path) -> None:
    write(tmp_path / "below/a.npz")
    write_nifti(tmp_path / "b.nii.gz")

    sources = require_scans(tmp_path)

    assert [source.name for source in sources] == ["b", "a"]
    assert sources[1].files == (tmp_path / "below/a.npz", tmp_path / "below/a.npy")
    assert read_volume(sources[1]).original_axes == "LPS"
    assert read_volume(tmp_path / "below").spacing == (4, 3, 2)
    before = hash_scan(tmp_path / "below/a.npz").sha256
    (tmp_path / "below/a.npy").write_bytes(b"others")
    assert hash_scan(tmp_path / "below/a.npz").sha256 != before


def test_it_is_predicted(tmp_path: Path) -> None:
    scan = write(tmp_path / "a.npz")
    predictor = load_model(write_model(tmp_path / "model.onnx"))

    (source,) = find_scans([tmp_path]).scans

    assert predictor.predict(source).findings == predictor.predict(scan).findings


def test_it_is_listed_in_a_table_of_own_scans(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"scans/{name}.npz")
    (tmp_path / "labels.csv").write_text(TABLE)
    columns = Columns(scan="scan", patient="patient", split="split", **COLUMNS)
    settings = Data(
        table="labels.csv", sheet=None, findings=("Emphysema",), scans="scans", test_fraction=0.2,
        values=LabelValues(positive=(1,), negative=(0,), uncertain=(), missing=()),
        uncertain="missing", split_seed=0, folds=None, fold=None,
        split_values=SplitValues(train=("train",), val=("val",), test=("test",), missing=()),
        columns=columns,
    )  # fmt: skip

    catalog = read_catalog(tmp_path, settings)

    assert catalog.volumes["name"].tolist() == ["a", "b", "c"]
    assert [Path(path).name for path in catalog.volumes["path"]] == ["a.npz", "b.npz", "c.npy"]


def test_its_suffix_is_named_where_there_is_no_scan(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")

    with pytest.raises(UnusableScan, match=r"holds no scan, DICOM or one of .*, \.npz"):
        resolve_scan(tmp_path)


def test_files_of_every_format_are_mutated() -> None:
    mutated = " ".join(MUTATED).split()

    assert {suffix for one in FORMATS for suffix in one.suffixes} <= set(mutated)
