"""The Python API: what a program of somebody else uses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import multi_abnormality
from chest_files import write_metaimage, write_nifti, write_nrrd, write_series
from documents import ROOT
from multi_abnormality import Finding, InputError, load_model
from multi_abnormality.config.findings import FINDINGS
from tiny_model import CARD, SHAPE, write_model

PAGE = ROOT / "docs/reference/python-api.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a model, as the export stage writes it."""
    (tmp_path / "model_weights").mkdir()
    write_model(tmp_path / "model_weights/model_tiny.onnx")
    return tmp_path


def test_a_prediction_has_all_findings_with_their_decisions(folder: Path) -> None:
    write_nifti(folder / "scan.nii.gz")
    model = load_model(folder / "model_weights")
    prediction = model.predict(folder / "scan.nii.gz")
    assert model.findings == FINDINGS == tuple(one.name for one in prediction.findings)
    assert prediction.scan == folder / "scan.nii.gz"
    assert prediction.warnings == ()
    for finding in prediction.findings:
        assert finding.threshold == model.thresholds[finding.name]
        assert finding.positive == (finding.probability >= finding.threshold)
        assert prediction[finding.name] is finding
    assert prediction.attention.shape == (len(FINDINGS), SHAPE[0])
    assert prediction.volume.shape == SHAPE
    assert prediction == model.predict(str(folder / "scan.nii.gz"))


def test_every_format_is_accepted(folder: Path) -> None:
    write_nifti(folder / "scan.nii.gz")
    write_metaimage(folder / "scan.mha")
    write_nrrd(folder / "scan.nrrd")
    write_series(folder / "series")
    model = load_model(folder / "model_weights/model_tiny.onnx")
    files = sorted((folder / "series").iterdir())
    scans = [*(folder / f"scan.{suffix}" for suffix in ("nii.gz", "mha", "nrrd")), files[0].parent]
    for scan in (*scans, files[0]):
        assert isinstance(model.predict(scan).findings[0], Finding)


def test_an_unlike_scan_has_a_warning_and_a_finding_may_have_no_decision(tmp_path: Path) -> None:
    card = CARD | {"familiar": {"lung_share": [2.0, 3.0], "length": [0.0, 1.0]}}
    model = load_model(write_model(tmp_path / "m.onnx", card | {"uncalibrated": ["Emphysema"]}))
    write_nifti(tmp_path / "scan.nii")
    prediction = model.predict(tmp_path / "scan.nii")
    (warning,) = prediction.warnings
    assert "may not be a chest CT" in warning
    assert prediction["Emphysema"].positive is None


def test_errors_name_the_file(folder: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.nii"):
        load_model(folder / "model_weights").predict(folder / "missing.nii")
    with pytest.raises(InputError, match="no such model"):
        load_model(folder / "missing.onnx")
    write_nifti(folder / "scan.nii")
    prediction = load_model(folder / "model_weights").predict(folder / "scan.nii")
    with pytest.raises(KeyError):
        prediction["Fracture"]


def test_the_example_of_the_page_runs(folder: Path) -> None:
    write_nifti(folder / "scan.nii.gz")
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[:18]] == list(FINDINGS)


def test_the_page_lists_the_stable_names() -> None:
    stable = PAGE.read_text().partition("## Stable names")[2].partition("##")[0]
    assert all(f"{name}`" in stable for name in multi_abnormality.__all__)
    assert all(hasattr(multi_abnormality, name) for name in multi_abnormality.__all__)
