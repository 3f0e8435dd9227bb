"""`multi-abnormality predict` on a tiny model with the real interface."""

import csv
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import onnx
import pytest
from pydicom.dataset import Dataset

from chest_files import write_metaimage, write_nifti, write_nrrd, write_series
from multi_abnormality import Finding, Prediction, load_model
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.io.scan_sources import ScanSource
from multi_abnormality.data.preprocessing.input_range import InputRange
from multi_abnormality.inference.batch_prediction import predict_all
from multi_abnormality.inference.input_scans import find_scans
from multi_abnormality.inference.output import as_csv, print_tables
from multi_abnormality.inference.progress_log import ProgressLog, scan_key
from multi_abnormality.inference.scan_id import name_scans
from multi_abnormality.utils.console import printable
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.onnx_checksum import INFO_KEY
from program_server import run_program
from tiny_model import CARD, save, write_model

REAL_CT = Path(__file__).resolve().parents[3] / "shared/real-ct"
needs_real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real scans beside the project")
HALF = {"Emphysema": 0.5}  # thresholds


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model_tiny.onnx")


def write_scan(path: Path, tissue: int = 40) -> Path:
    hu = np.full((40, 40, 30), -1000, np.int16)
    hu[8:-8, 8:-8, 3:-3] = tissue
    nib.Nifti1Image(hu, np.diag([5.0, 5.0, 8.0, 1.0])).to_filename(path)
    return path


def run(
    *arguments: object, cwd: Path | None = None, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    program = ("multi_abnormality", "predict", *map(str, arguments))
    if encoding == "utf-8":
        return run_program(cwd or Path.cwd(), dict(os.environ), *program)
    return subprocess.run(
        [sys.executable, "-m", *program], capture_output=True, encoding=encoding, cwd=cwd,
        check=False, env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip


def test_json_has_probability_threshold_and_decision(tmp_path: Path, model: Path) -> None:
    scan = write_scan(tmp_path / "valid_1_a_1.nii.gz")

    result = run(scan, "--model", model, "--json")

    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert list(printed) == ["synthetic", "thresholds", "uncalibrated", "predictions"]
    assert printed["uncalibrated"] == []
    assert printed["thresholds"] == CARD["thresholds"]
    (row,) = printed["predictions"]
    assert list(row) == ["input_image_name", "probabilities", "positive"]
    assert row["positive"] == {
        name: value >= CARD["thresholds"][name] for name, value in row["probabilities"].items()
    }
    assert row["input_image_name"] == "valid_1_a_1"
    assert list(row["probabilities"]) == list(FINDINGS)
    predictor = load_model(model)
    assert row["probabilities"] == predictor.predict(scan).probabilities
    assert row["probabilities"] == predictor.predict(str(scan)).probabilities
    assert all(0 < p < 1 for p in row["probabilities"].values())
    assert len(set(row["probabilities"].values())) == 18


def test_csv_has_three_columns_for_each_finding(tmp_path: Path, model: Path) -> None:
    scans = [write_scan(tmp_path / f"scan_{hu}.nii.gz", hu) for hu in (40, 200)]

    result = run(*scans, "--model", model, "--csv")

    assert result.returncode == 0, result.stderr
    header, *rows = csv.reader(io.StringIO(result.stdout))
    kinds = ("", " (threshold)", " (positive)")
    assert header == ["VolumeName", *(f"{name}{kind}" for name in FINDINGS for kind in kinds)]
    assert [row[0] for row in rows] == ["scan_40", "scan_200"]
    probabilities = load_model(model).predict(scans[0]).probabilities
    assert [float(value) for value in rows[0][1::3]] == list(probabilities.values())
    thresholds = CARD["thresholds"]
    assert [float(value) for value in rows[0][2::3]] == list(thresholds.values())
    positive = [str(int(value >= thresholds[name])) for name, value in probabilities.items()]
    assert rows[0][3::3] == positive
    assert "predict: 2/2 scans" in result.stderr


@pytest.mark.parametrize("width", [50, 74, 80])
def test_a_narrow_table_keeps_the_numbers_and_has_no_bars(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    probabilities = {finding: 0.5 + index / 1000 for index, finding in enumerate(FINDINGS)}
    print_tables([("scan", probabilities)], dict.fromkeys(FINDINGS, 0.123))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    for value in probabilities.values():
        (line,) = [line for line in lines if f" {value:.3f} " in line]
        assert " 0.123 " in line
        assert ("█" in line) == (width == 80)


def test_table_marks_the_positive_findings(tmp_path: Path) -> None:
    """And finds the one model in model_weights/ of the folder that it runs in."""
    (tmp_path / "model_weights").mkdir()
    write_model(tmp_path / "model_weights/model_tiny.onnx")
    scan = write_scan(tmp_path / "patient [1].nii.gz")

    result = run(scan.name, cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    probabilities = load_model(tmp_path / "model_weights").predict(scan).probabilities
    assert "patient [1]" in result.stdout
    assert "…" not in result.stdout  # nothing is cut off in 80 columns
    for finding in FINDINGS:
        (line,) = [line for line in result.stdout.splitlines() if f" {finding} " in line]
        assert f"{probabilities[finding]:.3f}" in line
        assert f"{CARD['thresholds'][finding]:.3f}" in line
        positive = probabilities[finding] >= CARD["thresholds"][finding]
        assert ("●" in line) == (" yes" in line) == positive
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_an_uncalibrated_finding_has_no_decision(tmp_path: Path) -> None:
    """Here both have a probability above their threshold, of which only one is calibrated."""
    name, other = "Coronary artery wall calcification", "Lung nodule"
    thresholds = dict.fromkeys(FINDINGS, 0.001) | {name: 0.5}
    card = CARD | {"thresholds": thresholds, "uncalibrated": [name]}
    model = write_model(tmp_path / "model.onnx", card)
    scan = write_scan(tmp_path / "scan.nii.gz")
    why = tmp_path / "why"
    done = run(scan, "--model", model, "--json", "--explain", why)
    printed = json.loads(done.stdout)
    assert printed["uncalibrated"] == [name]
    (row,) = printed["predictions"]
    assert row["positive"][name] is None
    assert row["positive"][other] is True
    explained = json.loads((why / "scan/explanation.json").read_text())["findings"]
    assert explained[name]["positive"] is None
    assert "heat_map" not in explained[name]
    assert (why / "scan" / explained[other]["heat_map"]).exists()

    header, cells = csv.reader(io.StringIO(run(scan, "--model", model, "--csv").stdout))
    written = dict(zip(header, cells, strict=True))
    assert float(written[name]) == row["probabilities"][name]
    assert written[f"{name} (positive)"] == ""
    assert written[f"{other} (positive)"] == "1"

    for encoding, dash in (("utf-8", "\N{EN DASH}"), ("ascii", "-")):
        lines = run(scan, "--model", model, encoding=encoding).stdout.splitlines()
        (line,) = [line for line in lines if name in line]
        assert f" {dash} not calibrated" in line
        assert line.startswith(f"  {name} ")
        assert max(map(len, lines)) <= 80


def test_an_unknown_uncalibrated_finding_is_refused(tmp_path: Path) -> None:
    card = CARD | {"uncalibrated": ["Fracture"]}
    with pytest.raises(InputError, match="uncalibrated: must be findings of the model"):
        load_model(write_model(tmp_path / "model.onnx", card))


@pytest.mark.parametrize("synthetic", [False, True])
def test_a_synthetic_model_warns_once_per_call(tmp_path: Path, synthetic: bool) -> None:
    model = write_model(tmp_path / "model.onnx", CARD | {"synthetic": synthetic})
    scans = [write_scan(tmp_path / f"{number}.nii.gz") for number in range(2)]
    done = run(*scans, "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no clinical meaning") == int(synthetic)
    assert json.loads(done.stdout)["synthetic"] is synthetic


def test_a_changed_marker_or_threshold_is_detected(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", CARD | {"synthetic": True})
    scan = write_scan(tmp_path / "scan.nii.gz")
    marked, whole = b'"synthetic": true', model.read_bytes()
    assert marked in whole
    model.write_bytes(whole.replace(marked, b'"synthetic":false'))
    done = run(scan, "--model", model)
    assert done.returncode == 1
    assert "is not as it was exported" in done.stderr
    lower = CARD["thresholds"] | {"Emphysema": 0.1}
    write_model(model)
    proto = onnx.load(model)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {INFO_KEY: json.dumps(CARD | {"thresholds": lower})})
    done = run(scan, "--model", save(proto, model))
    assert done.returncode == 1
    assert "thresholds are not those of its metadata" in done.stderr


def test_a_bad_scan_does_not_affect_the_others(tmp_path: Path, model: Path) -> None:
    good = [write_scan(tmp_path / f"good_{index}.nii.gz") for index in range(2)]
    cut = write_scan(tmp_path / "cut.nii.gz")
    cut.write_bytes(cut.read_bytes()[:200])
    missing = tmp_path / "missing.nii.gz"

    result = run(good[0], cut, missing, good[1], "--model", model, "--json")

    assert result.returncode == 1
    names = [row["input_image_name"] for row in json.loads(result.stdout)["predictions"]]
    assert names == ["good_0", "good_1"]
    assert "2 of 4 scans could not be predicted" in result.stderr
    assert f"{cut}: is truncated" in result.stderr
    assert f"{missing}: cannot be read" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text", "is not gzip-compressed"),
        ("nan", "NaN or infinite voxels"),
        ("4d", "not that of one 3D scan"),
    ],
)
def test_bad_scans_end_without_a_traceback(
    tmp_path: Path, model: Path, content: str, words: str
) -> None:
    scan = tmp_path / "scan.nii.gz"
    if content == "text":
        scan.write_text("hello")
    else:
        shape = (20, 20, 20, 2) if content == "4d" else (20, 20, 20)
        data = np.full(shape, np.nan if content == "nan" else 0, np.float32)
        nib.Nifti1Image(data, np.diag([2, 2, 2, 1])).to_filename(scan)

    result = run(scan, "--model", model)

    assert result.returncode == 1
    assert f"{scan}: " in result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_json_and_csv_exclude_each_other(model: Path) -> None:
    result = run("scan.nii.gz", "--model", model, "--json", "--csv")
    assert result.returncode == 2
    assert "--json, --csv, --out: only one of them can be given" in result.stderr


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--out", "scores.txt"), "--out: must end with .json or .csv"),
        (("--workers", 0), "'--workers': Input should be greater than or equal to 1"),
        (("--memory", "nan"), "--memory: must be between 0 and 10000 GB"),
    ],
)
def test_invalid_options_are_errors_before_anything_is_read(option: tuple, words: str) -> None:
    result = run("scan.nii.gz", *option)
    assert result.returncode == 2
    assert words in result.stderr


def test_help_is_quick_to_import() -> None:
    code = "import sys, multi_abnormality.inference.predict; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    heavy = {"torch", "lightning", "pandas", "sklearn", "onnxruntime", "SimpleITK", "scipy"}
    assert not heavy & set(loaded.split())
    assert run("--help").stdout.startswith("Usage: multi-abnormality predict")


def test_model_must_be_one_and_ours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dvc repro.*dvc pull"):
        load_model(tmp_path)
    first = write_model(tmp_path / "model_a.onnx")
    assert load_model(tmp_path).path == first
    shutil.copy(first, tmp_path / "model_b.onnx")
    with pytest.raises(InputError, match=r"model_a\.onnx, .*model_b\.onnx"):
        load_model(tmp_path)


def test_wrong_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(InputError, match="no such model"):
        load_model(path)
    path.touch()
    with pytest.raises(InputError, match="is empty"):
        load_model(path)
    path.write_text("hello")
    with pytest.raises(InputError, match="not a valid ONNX model"):
        load_model(path)
    with pytest.raises(InputError, match="not exported by this project"):
        load_model(write_model(path, card=None))
    with pytest.raises(InputError, match=r"wrong metadata(.|\n)*findings: "):
        load_model(write_model(path, card={**CARD, "findings": None}))
    other = {"version": "9.9.9", "a key of another version": {}}
    with pytest.raises(InputError, match=r"exported by version 9\.9\.9 .* export the model again"):
        load_model(write_model(path, card=other))
    with pytest.raises(InputError, match="has ports"):
        load_model(write_model(path, outputs=17))


def test_a_changed_bit_of_a_model_is_detected(tmp_path: Path, model: Path) -> None:
    """In the weights, in the metadata, and by an ONNX editor."""
    whole = model.read_bytes()
    copy = tmp_path / "copied alone.onnx"
    copy.write_bytes(whole)
    assert load_model(copy).card.findings == FINDINGS
    weights = whole.index(b"matrix") + len(whole) // 2
    words = whole.index(b"Emphysema")
    for index in (0, words, weights, len(whole) - 1):
        changed = bytearray(whole)
        changed[index] ^= 1
        copy.write_bytes(changed)
        with pytest.raises(
            InputError, match=r"copied alone\.onnx: is not as it was exported.*copy"
        ):
            load_model(copy)
    copy.write_bytes(whole.replace(b"-1024, 0]", b"-1000, 0]"))
    with pytest.raises(InputError, match="is not as it was exported"):
        load_model(copy)
    edited = onnx.load(model)
    edited.metadata_props[0].value = edited.metadata_props[0].value.replace("Emphysema", "Ephysema")
    onnx.save(edited, copy)
    with pytest.raises(InputError, match="is not as it was exported"):
        load_model(copy)
    del edited.metadata_props[1:]
    onnx.save(edited, copy)
    with pytest.raises(InputError, match=r"has no checksum at its end.*export it again"):
        load_model(copy)
    copy.write_bytes(whole[:-1000])
    with pytest.raises(InputError, match=r"alone\.onnx: .*was truncated .*; copy it again"):
        load_model(copy)


@pytest.mark.parametrize("name", ["", "../../elsewhere", "/elsewhere", "a\nb", "EMPHYSEMA"])
def test_a_model_whose_findings_are_no_names_is_refused(tmp_path: Path, name: str) -> None:
    """One would stand for two, and --explain would write outside of its folder."""
    card = {**CARD, "findings": [name, *FINDINGS[1:]]}
    with pytest.raises(InputError, match=r"wrong metadata(.|\n)*findings: "):
        load_model(write_model(tmp_path / "model.onnx", card=card))


def test_a_model_without_finite_probabilities_is_an_error(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx")
    broken = onnx.load(path)
    (matrix,) = [one for one in broken.graph.initializer if one.name == "matrix"]
    nothing = np.full_like(onnx.numpy_helper.to_array(matrix), np.nan)
    matrix.CopyFrom(onnx.numpy_helper.from_array(nothing, "matrix"))
    save(broken, path)

    result = run(write_scan(tmp_path / "scan.nii.gz"), "--model", path, "--json")

    assert result.returncode == 1
    assert "scan.nii.gz: the model has no finite probability" in result.stderr
    assert "NaN" not in result.stdout


def test_a_link_in_a_circle_is_one_bad_scan(tmp_path: Path, model: Path) -> None:
    write_scan(tmp_path / "good.nii.gz")
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    result = run(tmp_path, "--model", model, "--out", tmp_path / "out.csv")
    assert result.returncode == 1
    assert "loop.nii.gz: cannot be read" in result.stderr
    assert "Traceback" not in result.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2


def test_a_killed_run_resumes(tmp_path: Path, model: Path) -> None:
    scans = [write_scan(tmp_path / f"scan_{n}.nii.gz", 100 + n) for n in range(3)]
    third = scans[2].read_bytes()
    scans[2].unlink()
    out, part = tmp_path / "new folder/out.csv", tmp_path / "new folder/out.csv.part"
    command = *scans, "--model", model, "--out", out
    result = run(*command)
    assert result.returncode == 1
    assert "1 of 3 scans could not be predicted" in result.stderr
    with part.open("a") as file:
        file.write('{"model": "cut sh')
    scans[2].write_bytes(third)
    before = scans[0].stat()  # who reads it again fails
    scans[0].write_bytes(bytes(before.st_size))
    os.utime(scans[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    another = write_model(
        tmp_path / "another.onnx", {**CARD, "version": f"{CARD['version']}.post1"}
    )

    again = run(*command[:3], "--model", another, "--out", out)
    assert f"{scans[0]}: is not gzip-compressed" in again.stderr
    result = run(*command)

    assert result.returncode == 0, result.stderr
    assert not part.exists()
    rows = list(csv.reader(out.open()))
    assert [row[0] for row in rows[1:]] == ["scan_0", "scan_1", "scan_2"]
    expected = load_model(model).predict(scans[1]).probabilities
    assert [float(value) for value in rows[2][1::3]] == list(expected.values())


def test_changed_voxels_are_predicted_again(tmp_path: Path, model: Path) -> None:
    """Also where the scan's own file or folder does not change with them."""
    write_metaimage(tmp_path / "scan.mhd", ElementDataFile="voxels of any name")
    write_nrrd(tmp_path / "scan.nhdr")
    write_nifti(tmp_path / "scan.hdr")
    write_series(tmp_path / "series", name=lambda index: f"{index % 2}/IM{index}", slices=4)
    scans = find_scans([tmp_path]).scans
    assert len(scans) == 4
    finding = Finding("Emphysema", 0.7, HALF["Emphysema"], positive=True)
    prediction = Prediction(Path("a.nii"), (finding,), (), np.ones((1, 1)), np.ones((1, 1, 1)))
    progress = ProgressLog(tmp_path / "out.csv", model)
    for scan in scans:
        progress.add(scan_key(scan), prediction)
    progress.close(finished=False)
    progress = ProgressLog(tmp_path / "out.csv", model)
    assert all(scan_key(scan) in progress.done for scan in scans)
    for name in ("voxels of any name", "scan.raw", "scan.img", "series/1/IM3"):
        about = (tmp_path / name).stat()
        os.utime(tmp_path / name, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert not any(scan_key(scan) in progress.done for scan in scans)
    (tmp_path / "scan.img").unlink()
    assert scan_key(scans[0]) not in progress.done


def test_folders_and_patterns_stand_for_their_scans(tmp_path: Path, model: Path) -> None:
    for name in ("a/one.nii.gz", "a/deep/two.nii", "b/three.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_scan(tmp_path / name)
    (tmp_path / "a/notes.txt").write_text("no scan")

    pattern = tmp_path / "**/*.nii.gz"
    result = run(tmp_path / "a", pattern, "--model", model, "--csv", "--workers", 2)
    assert result.returncode == 0, result.stderr
    names = [row[0] for row in csv.reader(io.StringIO(result.stdout))]
    assert names == ["VolumeName", "two", "one", "three"]

    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    others = [tmp_path / name for name in ("*.mha", "empty", "a/notes.txt", "pipe")]
    result = run(tmp_path / "b", *others, "--model", model, "--csv")
    assert result.returncode == 1
    assert "4 of 5 scans could not be predicted" in result.stderr
    assert "*.mha: no scan matches this pattern" in result.stderr
    for path in others:
        assert f"  - {path}: " in result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_scans_of_one_file_name_are_distinguished_by_their_folders(
    tmp_path: Path, model: Path
) -> None:
    """In printed rows, explanations, and after resuming."""
    scans = []
    for number, patient in enumerate(("7", "8")):
        folder = tmp_path / "a" / patient
        folder.mkdir(parents=True)
        scans.append(write_scan(folder / "CT.nii.gz", 40 + 160 * number))
    out, why = tmp_path / "out.json", tmp_path / "why"
    missing = tmp_path / "b/7/CT.nii.gz"
    options = "--model", model, "--out", out, "--explain", why

    assert run(*scans, missing, *options).returncode == 1  # ends as one that was killed
    rows = json.loads(out.read_text())["predictions"]
    assert [row["input_image_name"] for row in rows] == ["a/7/CT", "a/8/CT"]
    before = [path.stat() for path in scans]  # who reads them again fails
    for path, about in zip(scans, before, strict=True):
        path.write_bytes(bytes(about.st_size))
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    result = run(*scans, "--model", model, "--out", out)

    assert result.returncode == 0, result.stderr
    again = json.loads(out.read_text())["predictions"]
    assert [row["input_image_name"] for row in again] == ["7/CT", "8/CT"]
    assert [row["probabilities"] for row in again] == [row["probabilities"] for row in rows]
    assert rows[0]["probabilities"] != rows[1]["probabilities"]
    for row in rows:
        explained = json.loads((why / row["input_image_name"] / "explanation.json").read_text())
        values = {name: one["probability"] for name, one in explained["findings"].items()}
        assert values == row["probabilities"]


def test_other_files_in_a_folder_hide_no_scan(tmp_path: Path) -> None:
    """Files without a suffix are DICOM files by what they hold, and so are those with odd ones."""
    scan = write_scan(tmp_path / "ein Größe.nii.gz")
    for name in ("README", "._ein Größe.nii.gz", "LICENSE.txt"):
        (tmp_path / name).write_text("no scan" * 100)
    series = tmp_path / "below/series"
    series.mkdir(parents=True)
    write_series(series, name=lambda index: f"CT.1.2.840.{index}", slices=4)

    def find(*given: Path) -> list[Path]:
        found = find_scans(given)
        assert found.faults == []
        return [source.path for source in found.scans]

    assert find(tmp_path) == [series, scan]
    assert find(tmp_path, scan, scan.resolve(), tmp_path / "*.gz") == [series, scan]
    assert find(tmp_path / "**") == [series, scan]
    assert find(series / "CT.1.2.840.2") == [series]

    gone = tmp_path / "gone.nii.gz"  # a dangling link: reported when it is read
    gone.symlink_to(tmp_path / "elsewhere.nii.gz")
    assert find(tmp_path) == [series, scan, gone]
    assert find(tmp_path / "*.gz") == [scan, gone]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_reported(tmp_path: Path, model: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "closed").mkdir(mode=0)
    assert [source.path for source in find_scans([tmp_path]).scans] == [scan]
    result = run(tmp_path / "closed/scan.nii.gz", scan, "--model", model, "--csv")
    assert result.returncode == 1
    assert "closed/scan.nii.gz: cannot be read (Permission denied)" in result.stderr
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.slow
def test_explained_scans_are_not_explained_again(tmp_path: Path, model: Path) -> None:
    """The warning is repeated, and a folder is not a valid output file."""
    card = {**CARD, "familiar": {"lung_share": [2.0, 3.0], "length": [0.0, 1.0]}}
    doubting = write_model(tmp_path / "model.onnx", card)
    scan = write_scan(tmp_path / "scan.nii.gz", 200)
    why = tmp_path / "why"
    command = scan, tmp_path / "missing.mha", "--model", doubting, "--out", tmp_path / "out.csv"
    assert "may not be a chest CT" in run(*command, "--explain", why).stderr
    before = (why / "scan/explanation.json").stat().st_mtime_ns
    assert "may not be a chest CT" in run(*command, "--explain", why).stderr
    assert (why / "scan/explanation.json").stat().st_mtime_ns == before
    (why / "scan/explanation.json").unlink()  # a kill before the last file
    run(*command, "--explain", why)
    assert (why / "scan/explanation.json").exists()

    (tmp_path / "folder.csv").mkdir()
    result = run(scan, "--model", model, "--out", tmp_path / "folder.csv")
    assert "folder.csv: is a folder" in result.stderr
    assert not (tmp_path / "folder.csv.part").exists()


def test_it_imports_nothing_slow_that_it_does_not_use() -> None:
    package = "multi_abnormality"
    modules = f"{package}.inference.batch_prediction, {package}.evaluation.prediction_files"
    code = f"import sys, {modules}; print(*sys.modules, sep='\\n')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pydantic", "pandas", "scipy"} & set(found.stdout.split())


@needs_real_ct
def test_an_abdomen_is_warned_about_and_chests_are_not(tmp_path: Path) -> None:
    """With the input range of the sample."""
    familiar = InputRange.of([0.157, 0.364], [247.6, 318.1])
    card = {**CARD, "familiar": asdict(familiar)}
    predictor = load_model(write_model(tmp_path / "model.onnx", card))
    doubts = {
        path.name: predictor.predict(path).warnings != ()
        for path in REAL_CT.iterdir()
        if path.name.startswith(("chest", "abd", "dicom_abdomen"))
    }
    assert doubts == {name: not name.startswith("chest") for name in doubts}
    assert len(doubts) == 10


@needs_real_ct
def test_real_orientations_have_equal_probabilities(model: Path) -> None:
    predictor = load_model(model)
    scans = sorted(REAL_CT.glob("chest_CIP_ct64_*.nii.gz"))
    answers = [predictor.predict(scan).probabilities for scan in scans]

    assert len(answers) == 5
    assert all(answer == answers[0] for answer in answers)


@needs_real_ct
def test_every_real_scan_is_predicted(model: Path) -> None:
    scans = [path for path in sorted(REAL_CT.iterdir()) if path.suffix != ".md"]

    found = find_scans(scans)
    predictions, faults = predict_all(load_model(model), name_scans(found.scans))

    assert (found.faults, faults) == ([], [])
    assert len(predictions) == len(scans)
    names = [name for name, _ in predictions]
    assert "dicom_abdomen_TotalSegmentator_J2K" in names
    assert "halfthorax_elastix_baseline_small_int16" in names
    for _, probabilities in predictions:
        assert np.isfinite(list(probabilities.values())).all()


def odd_names(folder: Path) -> list[Path]:
    """Scans whose names are no UTF-8, a formula, and escape sequences."""
    names = (b"bad\xff.nii.gz", b"=cmd|' C calc'!A0.nii", b"a;+1.nii", b"red\x1b[31m\n.nii")
    paths = [folder / os.fsdecode(name) for name in names]
    return [write_scan(path) for path in paths]


@pytest.mark.slow
def test_any_file_name_works_in_every_output(tmp_path: Path, model: Path) -> None:
    """Also on a terminal that is not UTF-8, and a resumed --out finds its scans."""
    scans = odd_names(tmp_path)
    exact = [r"bad\xff", "=cmd|' C calc'!A0", "a;+1", "red\x1b[31m\n"]
    for encoding in ("utf-8", "ascii", "cp1252"):
        output = tmp_path / f"out-{encoding}.json"
        options = *scans, tmp_path / "missing.mha", "--model", model
        result = run(*options, "--out", output, "--explain", tmp_path / "why", encoding=encoding)
        assert result.returncode == 1
        assert "error: 1 of 5 scans could not be predicted" in result.stderr
        assert "Traceback" not in result.stderr
        rows = json.loads(output.read_text())["predictions"]
        assert [row["input_image_name"] for row in rows] == exact
        folders = [tmp_path / "why" / printable(name) for name in exact]
        assert all((folder / "explanation.json").exists() for folder in folders)
        again = run(*scans, "--model", model, "--out", output, encoding=encoding)
        assert again.returncode == 0, again.stderr
    assert len(set(map(bytes, (path.read_bytes() for path in tmp_path.glob("*.json"))))) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_act_neither_in_spreadsheets_nor_on_terminals(
    tmp_path: Path, model: Path, encoding: str
) -> None:
    *scans, red = odd_names(tmp_path)
    table = run(*scans, red, "--model", model, "--csv", encoding=encoding).stdout
    names = [row[0] for row in csv.reader(io.StringIO(table))][1:]
    assert names == [r"bad\xff", "'=cmd|' C calc'!A0", "a;+1", r"red\x1b[31m\x0a"]
    assert '"a;+1",' in table  # else its second half is a cell where semicolons separate
    shown = run(red, "--model", model, encoding=encoding)
    assert shown.returncode == 0, shown.stderr
    red.write_bytes(b"")
    failed = run(red, "--model", model, encoding=encoding)
    for text in (table, shown.stdout, failed.stderr):
        assert "\x1b" not in text
        assert r"red\x1b[31m\x0a" in text
    assert ("█" in shown.stdout) == (encoding == "utf-8")


def test_formulas_get_an_apostrophe_and_other_names_none() -> None:
    formulas = ["=1", "+1", "-2", "@x", " =1", "\uff1d1", "'=1"]
    others = ["1=1", "a-2", "'x", "Gr\u00f6\u00dfe 1"]
    rows = [(name, {"Emphysema": 0.5}) for name in (*formulas, *others)]
    table = as_csv(rows, {"Emphysema": 0.5})
    names = [row[0] for row in csv.reader(io.StringIO(table))][1:]
    assert names == [*(f"'{name}" for name in formulas), *others]


def test_a_reader_that_ends_early_is_no_error(tmp_path: Path, model: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii")
    for option in ("--json", "--csv", "-q"):
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "multi_abnormality", "predict", scan, "--model", model]
        done = subprocess.run(
            [*map(str, command), option], stdout=writing, stderr=subprocess.PIPE, text=True
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (1, "")


def study(folder: Path) -> Path:
    """Two reconstructions of a chest, its localizer, a head, and an MR."""
    kinds: dict[str, dict[str, object]] = {
        "soft": {"SeriesNumber": 2, "SeriesDescription": "Chest soft", "ConvolutionKernel": "B30"},
        "sharp": {
            "SeriesNumber": 3,
            "SeriesDescription": "Chest sharp",
            "ConvolutionKernel": "B70",
        },
        "scout": {"SeriesNumber": 1, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "head": {"SeriesNumber": 4, "BodyPartExamined": "HEAD"},
        "mr": {"SeriesNumber": 5, "Modality": "MR"},
    }
    for number, (name, tags) in enumerate(kinds.items()):

        def edit(
            dataset: Dataset, index: int, number: int = number, tags: dict[str, object] = tags
        ) -> None:
            dataset.SeriesInstanceUID = f"1.2.3.{number}"
            dataset.SOPInstanceUID = f"1.2.3.{number}.{index}"
            for keyword, value in tags.items():
                setattr(dataset, keyword, value)

        write_series(
            folder,
            edit,
            lambda index, name=name: f"{name}{index}",
            slices=2 if name == "scout" else 24,
        )
    return folder


def test_a_study_lists_its_series_and_predicts_the_chests(tmp_path: Path, model: Path) -> None:
    folder = study(tmp_path / "study")
    result = run(folder, "--model", model, "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["predictions"]
    assert [row["input_image_name"] for row in rows] == ["study/2", "study/3"]
    for number, words in {
        2: "B30 yes",
        3: "B70 yes",
        4: "body part HEAD",
        5: "modality MR",
    }.items():
        (line,) = [one for one in result.stderr.splitlines() if f"study/{number}" in one]
        assert words in " ".join(line.split())
    assert "localizer" in result.stderr

    result = run(folder, "--model", model, "--json", "--series", "chest SHARP", "--series", 4)
    assert result.returncode == 0, result.stderr
    chosen = json.loads(result.stdout)["predictions"]
    assert [row["input_image_name"] for row in chosen] == ["study/3", "study/4"]
    result = run(folder, "--model", model, "--series", 9)
    assert result.returncode == 1
    assert "--series 9: there is no such series" in result.stderr
    assert "0 scans were predicted; 1 other error\n" in result.stderr
    result = run(folder, folder / "gone", "--model", model, "--series", 3, "--series", 9)
    assert "1 of 2 scans could not be predicted; 1 other error\n" in result.stderr
    alone = run(folder / "head0", "--model", model, "--json")
    assert alone.returncode == 0, alone.stderr


class Failing:
    """Predictor that raises an unexpected error for one scan."""

    def __init__(self, error: BaseException, bad: str) -> None:
        self.error, self.bad = error, bad
        self.card = SimpleNamespace(preprocess=None, thresholds=HALF, uncalibrated=())

    def predict(self, source: ScanSource) -> Prediction:
        if source.path.name == self.bad:
            raise self.error
        finding = Finding("Emphysema", 0.1, HALF["Emphysema"], positive=False)
        return Prediction(Path("scan.nii"), (finding,), (), np.ones((1, 1)), np.ones((1, 1, 1)))


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), zlib.error("x"), struct.error("y"), OSError(5)]
)
def test_an_exception_in_one_scan_does_not_affect_the_others(
    tmp_path: Path, model: Path, error: Exception
) -> None:
    scans = name_scans([ScanSource(Path(f"{name}.nii")) for name in ("a", "b", "c")])
    progress = ProgressLog(tmp_path / "out.csv", model)
    rows, faults = predict_all(Failing(error, "b.nii"), scans, 2, progress)
    assert [name for name, _ in rows] == ["a", "c"]
    (fault,) = faults
    assert fault.startswith("b.nii: ")
    assert ("more memory" in fault) == isinstance(error, MemoryError)
    assert (type(error).__name__ in fault) != isinstance(error, MemoryError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModuleNotFoundError(name="scipy")])
def test_ctrl_c_or_a_missing_package_ends_all_scans(error: BaseException) -> None:
    scans = name_scans([ScanSource(Path(f"{name}.nii")) for name in ("a", "b")])
    with pytest.raises(type(error)):
        predict_all(Failing(error, "a.nii"), scans)


def test_a_picture_that_cannot_be_written_costs_no_prediction(tmp_path: Path, model: Path) -> None:
    scans = [write_scan(tmp_path / f"{name}.nii", 200) for name in ("a", "b")]
    (tmp_path / "why").mkdir()
    (tmp_path / "why/a").write_text("instead of a folder")
    result = run(*scans, "--model", model, "--explain", tmp_path / "why", "--csv")
    assert result.returncode == 1
    assert [line.split(",")[0] for line in result.stdout.splitlines()[1:]] == ["a", "b"]
    assert "2 scans were predicted; 1 other error" in result.stderr
    assert "why/a" in result.stderr
    assert (tmp_path / "why/b/explanation.json").exists()
