"""The program that predicts, run as a user runs it, on a tiny model with the real interface."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest
import SimpleITK
from PIL import Image

from multi_abnormality import predict
from multi_abnormality.data.composition import Familiar
from multi_abnormality.errors import InputError
from multi_abnormality.findings import FINDINGS
from multi_abnormality.predict import __main__ as program
from multi_abnormality.predict.explain import write_explanation
from multi_abnormality.predict.journal import Journal
from multi_abnormality.predict.many import predict_all
from multi_abnormality.predict.names import name_scans
from tiny_model import CARD, save, write_model

REAL_CT = Path(__file__).resolve().parents[2] / "shared/real-ct"
needs_real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real scans beside the project")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model_tiny.onnx")


def write_scan(path: Path, tissue: int = 40) -> Path:
    hu = np.full((40, 40, 30), -1000, np.int16)
    hu[8:-8, 8:-8, 3:-3] = tissue
    nib.Nifti1Image(hu, np.diag([5.0, 5.0, 8.0, 1.0])).to_filename(path)
    return path


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "multi_abnormality.predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=cwd, check=False)


def test_json_is_the_challenges_form(tmp_path: Path, model: Path) -> None:
    scan = write_scan(tmp_path / "valid_1_a_1.nii.gz")

    result = run(scan, "--model", model, "--json")

    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert list(printed) == ["name", "predictions"]
    (row,) = printed["predictions"]
    assert list(row) == ["input_image_name", "probabilities"]
    assert row["input_image_name"] == "valid_1_a_1"
    assert list(row["probabilities"]) == list(FINDINGS)
    assert row["probabilities"] == predict.load(model)(scan)
    assert all(0 < p < 1 for p in row["probabilities"].values())
    assert len(set(row["probabilities"].values())) == 18


def test_csv_has_the_label_tables_header(tmp_path: Path, model: Path) -> None:
    scans = [write_scan(tmp_path / f"scan_{hu}.nii.gz", hu) for hu in (40, 200)]

    result = run(*scans, "--model", model, "--csv")

    assert result.returncode == 0, result.stderr
    header, *rows = csv.reader(io.StringIO(result.stdout))
    assert header == ["VolumeName", *FINDINGS]
    assert [row[0] for row in rows] == ["scan_40", "scan_200"]
    assert [float(value) for value in rows[0][1:]] == list(predict.load(model)(scans[0]).values())
    assert "predict: 2 scans" in result.stderr


def test_table_marks_the_positive_findings(tmp_path: Path) -> None:
    """And finds the one model in model_weights/ of the folder that it runs in."""
    (tmp_path / "model_weights").mkdir()
    write_model(tmp_path / "model_weights/model_tiny.onnx")
    scan = write_scan(tmp_path / "patient [1].nii.gz")

    result = run(scan.name, cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    probabilities = predict.load(tmp_path / "model_weights/model_tiny.onnx")(scan)
    assert "patient [1]" in result.stdout
    assert "…" not in result.stdout  # nothing is cut off in 80 columns
    for finding in FINDINGS:
        (line,) = [line for line in result.stdout.splitlines() if f" {finding} " in line]
        assert f"{probabilities[finding]:.3f}" in line
        assert ("●" in line) == (probabilities[finding] >= 0.5)


def test_a_bad_scan_spoils_no_other(tmp_path: Path, model: Path) -> None:
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
    assert "not allowed with" in result.stderr


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--out", "scores.txt"), "--out must end with .json or .csv"),
        (("--workers", 0), "--workers must be at least 1"),
    ],
)
def test_an_option_that_cannot_be_is_told_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, option: tuple, words: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", "scan.nii.gz", *map(str, option)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_help_is_quick_to_import() -> None:
    code = "import sys, multi_abnormality.predict; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    heavy = {"torch", "lightning", "pandas", "sklearn", "onnxruntime", "SimpleITK", "scipy"}
    assert not heavy & set(loaded.split())
    assert run("--help").stdout.startswith("usage: python -m multi_abnormality.predict")


def test_model_must_be_one_and_ours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dvc repro.*dvc pull"):
        predict.find_model(tmp_path)
    first = write_model(tmp_path / "model_a.onnx")
    assert predict.find_model(tmp_path) == first
    shutil.copy(first, tmp_path / "model_b.onnx")
    with pytest.raises(InputError, match=r"model_a\.onnx, .*model_b\.onnx"):
        predict.find_model(tmp_path)


def test_wrong_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(InputError, match="no such model"):
        predict.load(path)
    with pytest.raises(InputError, match=r"is a folder; name the \.onnx file"):
        predict.load(tmp_path)
    path.touch()
    with pytest.raises(InputError, match="is empty"):
        predict.load(path)
    path.write_text("hello")
    with pytest.raises(InputError, match="no valid ONNX model"):
        predict.load(path)
    with pytest.raises(InputError, match="not exported by this project"):
        predict.load(write_model(path, card=None))
    with pytest.raises(InputError, match=r"wrong metadata(.|\n)*findings: "):
        predict.load(write_model(path, card={**CARD, "findings": None}))
    other = {"version": "9.9.9", "a key of another version": {}}
    with pytest.raises(InputError, match=r"exported by version 9\.9\.9 .* export the model again"):
        predict.load(write_model(path, card=other))
    with pytest.raises(InputError, match="has ports"):
        predict.load(write_model(path, outputs=17))


def test_no_bit_of_a_model_can_change_unseen(tmp_path: Path, model: Path) -> None:
    """Neither in its weights nor in what it says of itself, nor by way of an ONNX editor."""
    whole = model.read_bytes()
    copy = tmp_path / "copied alone.onnx"
    copy.write_bytes(whole)
    assert predict.load(copy).card.findings == FINDINGS
    weights = whole.index(b"matrix") + len(whole) // 2
    words = whole.index(b"Emphysema")
    for place in (0, words, weights, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        copy.write_bytes(changed)
        with pytest.raises(
            InputError, match=r"copied alone\.onnx: is not as it was exported.*copy"
        ):
            predict.load(copy)
    copy.write_bytes(whole.replace(b"-1024, 0]", b"-1000, 0]"))
    with pytest.raises(InputError, match="is not as it was exported"):
        predict.load(copy)
    edited = onnx.load(model)
    edited.metadata_props[0].value = edited.metadata_props[0].value.replace("Emphysema", "Ephysema")
    onnx.save(edited, copy)
    with pytest.raises(InputError, match="is not as it was exported"):
        predict.load(copy)
    del edited.metadata_props[1:]
    onnx.save(edited, copy)
    with pytest.raises(InputError, match=r"has no checksum at its end.*export it again"):
        predict.load(copy)
    copy.write_bytes(whole[:-1000])
    with pytest.raises(InputError, match=r"alone\.onnx: .*was cut short .*; copy it again"):
        predict.load(copy)


@pytest.mark.parametrize("name", ["", "../../elsewhere", "/elsewhere", "a\nb", "EMPHYSEMA"])
def test_a_model_whose_findings_are_no_names_is_refused(tmp_path: Path, name: str) -> None:
    """One would stand for two, and --explain would write outside of its folder."""
    card = {**CARD, "findings": [name, *FINDINGS[1:]]}
    with pytest.raises(InputError, match=r"wrong metadata(.|\n)*findings: "):
        predict.load(write_model(tmp_path / "model.onnx", card=card))


def test_a_model_without_finite_probabilities_is_told(tmp_path: Path) -> None:
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


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, model: Path) -> None:
    scans = [write_scan(tmp_path / f"scan_{number}.nii.gz", number) for number in range(3)]
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
    expected = predict.load(model)(scans[1])
    assert [float(value) for value in rows[2][1:]] == list(expected.values())


def test_replaced_voxels_are_predicted_anew(tmp_path: Path, model: Path) -> None:
    """Also where the scan's own file or folder does not change with them."""
    hu = np.full((30, 40, 40), -1000, np.int16)
    hu[:, 8:-8, 8:-8] = 40
    image = SimpleITK.GetImageFromArray(hu)
    image.SetSpacing((5.0, 5.0, 8.0))
    scan, voxels = tmp_path / "scan.mhd", tmp_path / "scan.raw"
    SimpleITK.WriteImage(image, str(scan))
    prediction = predict.load(model).predict(scan)
    journal = Journal(tmp_path / "out.csv", model)
    journal.add(scan, prediction)
    journal.close(finished=False)
    assert Journal(tmp_path / "out.csv", model).find(scan).probabilities == prediction.probabilities
    os.utime(voxels, (1, 2**32))
    assert Journal(tmp_path / "out.csv", model).find(scan) is None


def test_folders_and_patterns_stand_for_their_scans(tmp_path: Path, model: Path) -> None:
    for place in ("a/one.nii.gz", "a/deep/two.nii", "b/three.nii.gz"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_scan(tmp_path / place)
    (tmp_path / "a/notes.txt").write_text("no scan")

    pattern = tmp_path / "**/*.nii.gz"
    result = run(tmp_path / "a", pattern, "--model", model, "--csv", "--workers", 2)
    assert result.returncode == 0, result.stderr
    names = [row[0] for row in csv.reader(io.StringIO(result.stdout))]
    assert names == ["VolumeName", "two", "one", "three"]

    result = run(tmp_path, tmp_path / "*.mha", "--model", model)
    assert result.returncode == 1
    assert "*.mha: no scan fits this pattern" in result.stderr


def test_scans_of_one_file_name_are_told_apart_by_their_folders(
    tmp_path: Path, model: Path
) -> None:
    """As hospitals lay them out: in what is printed, explained, and gone on with after a kill."""
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
        told = json.loads((why / row["input_image_name"] / "explanation.json").read_text())
        assert all(told[name]["probability"] == row["probabilities"][name] for name in told)


def test_other_files_in_a_folder_hide_no_scan(tmp_path: Path) -> None:
    """Files without a suffix are DICOM files by what they hold, and so are those with odd ones."""
    scan = write_scan(tmp_path / "ein Größe.nii.gz")
    for name in ("README", "._ein Größe.nii.gz", "LICENSE.txt"):
        (tmp_path / name).write_text("no scan" * 100)
    series = tmp_path / "below/series"
    series.mkdir(parents=True)
    (series / "CT.1.2.840.113619").write_bytes(bytes(128) + b"DICM")

    assert predict.find_scans([tmp_path]) == [series, scan]
    assert predict.find_scans([tmp_path, scan, scan.resolve(), tmp_path / "*.gz"]) == [series, scan]

    gone = tmp_path / "gone.nii.gz"  # a link whose scan is not there: told when it is read
    gone.symlink_to(tmp_path / "elsewhere.nii.gz")
    assert predict.find_scans([tmp_path]) == [series, scan, gone]
    assert predict.find_scans([tmp_path / "*.gz"]) == [scan, gone]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_told(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "closed").mkdir(mode=0)
    assert predict.find_scans([tmp_path]) == [scan]
    with pytest.raises(InputError, match=r"closed.*: cannot be read"):
        predict.find_scans([tmp_path / "closed/scan.nii.gz"])


def test_explained_scans_are_not_explained_again(tmp_path: Path, model: Path) -> None:
    """And a doubt is told again; a folder cannot be written as a file."""
    card = {**CARD, "familiar": {"lung_share": [2.0, 3.0], "length": [0.0, 1.0]}}
    doubting = write_model(tmp_path / "model.onnx", card)
    scan = write_scan(tmp_path / "scan.nii.gz", 200)
    why = tmp_path / "why"
    command = scan, tmp_path / "missing.mha", "--model", doubting, "--out", tmp_path / "out.csv"
    assert "may be no chest" in run(*command, "--explain", why).stderr
    before = (why / "scan/explanation.json").stat().st_mtime_ns
    assert "may be no chest" in run(*command, "--explain", why).stderr
    assert (why / "scan/explanation.json").stat().st_mtime_ns == before
    (why / "scan/explanation.json").unlink()  # a kill before the last file
    run(*command, "--explain", why)
    assert (why / "scan/explanation.json").exists()

    (tmp_path / "folder.csv").mkdir()
    result = run(scan, "--model", model, "--out", tmp_path / "folder.csv")
    assert "folder.csv: is a folder" in result.stderr
    assert not (tmp_path / "folder.csv.part").exists()


def test_slices_that_speak_for_findings_are_written(tmp_path: Path, model: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", 200)
    result = run(scan, "--model", model, "--explain", tmp_path / "why", "--json")
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(result.stdout)["predictions"]
    positive = {name for name, chance in row["probabilities"].items() if chance >= 0.5}
    assert 0 < len(positive) < 18
    told = json.loads((tmp_path / "why/scan/explanation.json").read_text())
    assert told.keys() == positive
    for finding in positive:
        with Image.open(tmp_path / f"why/scan/{finding}.jpg") as picture:
            assert picture.size == (480, 160)
        heights = [one["mm_above_middle"] for one in told[finding]["slices"]]
        assert len(heights) == 3
        assert heights == sorted(heights)
        assert all(abs(height) <= 96 for height in heights)  # where the body is


@pytest.mark.parametrize(("counting", "heights"), [("one", [-135.0]), ("all", [-9.0, 0.0, 9.0])])
def test_slices_that_count_nothing_are_not_shown(
    tmp_path: Path, model: Path, counting: str, heights: list[float]
) -> None:
    """As where the model pools by max or by mean."""
    attention = np.full((1, 31), 1 / 31, np.float32)
    if counting == "one":
        attention[:] = np.arange(31) == 0
    hu = np.zeros((31, 8, 8), np.float32)
    prediction = predict.Prediction({"Emphysema": 0.7}, attention, hu, None)
    write_explanation(prediction, predict.load(model).card.preprocess, tmp_path)
    told = json.loads((tmp_path / "explanation.json").read_text())
    assert [one["mm_above_middle"] for one in told["Emphysema"]["slices"]] == heights


@needs_real_ct
def test_a_belly_is_doubted_and_chests_are_not(tmp_path: Path) -> None:
    """By the ranges that the sample's chests have."""
    familiar = Familiar.of([0.157, 0.364], [247.6, 318.1])
    card = {**CARD, "familiar": familiar.model_dump(mode="json")}
    predictor = predict.load(write_model(tmp_path / "model.onnx", card))
    doubts = {
        path.name: predictor.predict(path).doubt is not None
        for path in REAL_CT.iterdir()
        if path.name.startswith(("chest", "abd", "dicom_abdomen"))
    }
    assert doubts == {name: not name.startswith("chest") for name in doubts}
    assert len(doubts) == 10


@needs_real_ct
def test_real_orientations_have_equal_probabilities(model: Path) -> None:
    predictor = predict.load(model)
    answers = [predictor(scan) for scan in sorted(REAL_CT.glob("chest_CIP_ct64_*.nii.gz"))]

    assert len(answers) == 5
    assert all(answer == answers[0] for answer in answers)


@needs_real_ct
def test_every_real_scan_is_predicted(model: Path) -> None:
    scans = [path for path in sorted(REAL_CT.iterdir()) if path.suffix != ".md"]

    predictions, faults = predict_all(predict.load(model), name_scans(scans))

    assert faults == []
    assert len(predictions) == len(scans)
    names = [name for name, _ in predictions]
    assert "dicom_abdomen_TotalSegmentator_J2K" in names
    assert "halfthorax_elastix_baseline_small_int16" in names
    for _, probabilities in predictions:
        assert np.isfinite(list(probabilities.values())).all()
