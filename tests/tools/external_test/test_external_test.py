"""`multi-abnormality evaluate`: scores of an exported model on another labeled set."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import onnx
import pandas as pd
import pytest
from typer.testing import CliRunner

from conftest import SharedFolders
from documents import ROOT, commands
from multi_abnormality import load_model
from multi_abnormality.cli import app
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.training_hashes import TrainingHashes
from multi_abnormality.inference.predictor import Model
from multi_abnormality.stages import evaluate, export
from multi_abnormality.tools.external_test import external_test
from multi_abnormality.tools.external_test.label_settings import read_settings
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.onnx_checksum import INFO_KEY
from tiny_model import save

GUIDE = ROOT / "docs/how-to/external-test-sets.md"
OTHERS = 12  # scans of no one's test split


class Hospital:
    """Scans with a table: the test split of the small set, and other scans of noise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model_weights"
        self.scans = root / "scans"
        self.stage = json.loads((root / "metrics/evaluate.json").read_text())
        self.rows = pd.read_csv(root / "labels.csv", dtype=str, keep_default_na=False)

    def evaluate(self, out: Path, rows: pd.DataFrame, **options: object) -> dict:
        """Score the scans of some rows; the small set's interval settings are the default."""
        table = out.with_suffix(".csv")
        rows.to_csv(table, index=False)
        given = {"model": self.model, "scans": self.scans, "n_bootstrap": 50} | options
        external_test.evaluate(table=table, out=out, **given)
        return json.loads((out / "evaluate.json").read_text())

    def error(self, out: Path, rows: pd.DataFrame, **options: object) -> str:
        with pytest.raises(InputError) as caught:
            self.evaluate(out, rows, **options)
        return str(caught.value)

    @property
    def test_rows(self) -> pd.DataFrame:
        return self.rows[self.rows["split"] == "test"]

    @property
    def other_rows(self) -> pd.DataFrame:
        return self.rows[self.rows["split"] == "other"]


@pytest.fixture(scope="module")
def hospital(
    shared_folders: SharedFolders, trained: Path, small_params: Params, small_set: ProcessedDataset
) -> Hospital:
    def create(root: Path) -> None:
        processed = shutil.copytree(small_set.root, root / "processed")
        for name in ("manifest.csv", "labels.csv"):  # in a table, each reconstruction is a scan
            lines = (processed / name).read_text().splitlines(keepends=True)
            kept = [
                line
                for line in lines
                if not (line[:5] == "valid" and line.split(",")[0][-1] == "2")
            ]
            (processed / name).write_text("".join(kept))
        metrics = root / "metrics"
        metrics.mkdir()
        shutil.copy(trained / "metrics/history.csv", metrics)
        evaluate.run(small_params, trained / "checkpoints", processed, metrics)
        only_onnx = small_params.export.model_copy(update={"formats": ("onnx",)})
        params = small_params.model_copy(update={"export": only_onnx})
        weights = root / "model_weights"
        export.run(params, trained / "checkpoints", processed, metrics, weights)
        (root / "scans").mkdir()
        rows = []
        data = small_set.root.parent / "data/dataset"
        for row in ProcessedDataset(processed).volumes("test").itertuples():
            (file,) = data.rglob(f"{row.name}.nii.gz")
            shutil.copy(file, root / "scans")
            labels = small_set.labels_of([row.name])[0].tolist()
            rows.append([file.name, row.patient_id, "test", *labels])
        rng = np.random.default_rng(5)
        for number in range(OTHERS):
            hu = np.random.default_rng(900 + number).integers(-1000, 300, (20, 20, 12), np.int16)
            name = f"other {number}.nii.gz"
            image = nibabel.Nifti1Image(hu, np.diag([-4, -4, 5, 1]))
            nibabel.save(image, root / "scans" / name)
            labels = (rng.random(len(FINDINGS)) < 0.5).astype(int).tolist()
            rows.append([name, f"X {number}", "other", *labels])
        columns = ["scan", "patient", "split", *FINDINGS]
        pd.DataFrame(rows, columns=columns).to_csv(root / "labels.csv", index=False)

    return Hospital(shared_folders("hospital", create))


def test_scores_of_the_models_own_test_split_are_those_of_the_evaluate_stage(
    hospital: Hospital, tmp_path: Path
):
    scores, stage = hospital.evaluate(tmp_path / "out", hospital.test_rows), hospital.stage
    assert set(scores) == set(stage) | {"external"}
    assert scores["counts"] == stage["counts"]
    for key in ("classification", "crg", "average_precision", "intervals"):
        assert flat(scores[key]) == pytest.approx(flat(stage[key]), abs=1e-9), key
    for key in ("operating_points", "groups"):
        assert flat(scores[key]) == pytest.approx(flat(stage[key]), abs=1e-9), key
    after = scores["calibration"]["after"], stage["calibration"]["after"]
    assert flat(after[0]) == pytest.approx(flat(after[1]), abs=1e-6)
    assert "before" not in scores["calibration"]
    predictions = [
        json.loads((folder / "predictions.json").read_text())
        for folder in (tmp_path / "out", hospital.root / "metrics")
    ]
    decided = [[row["positive"] for row in one["predictions"]] for one in predictions]
    assert decided[0] == decided[1]
    page = (tmp_path / "out/report.html").read_text()
    assert "of an external test set" in page
    assert "no threshold was fitted on these scans" in page
    assert scores["external"]["training_patients"] == {"checked": True, "same_ids": 0}
    assert not (tmp_path / "out/predictions.json.part").exists()


def flat(content: object, prefix: str = "") -> dict[str, float]:
    """Return the numbers of nested content, by their paths; None is -1."""
    if not isinstance(content, dict | list):
        return {prefix: -1 if content is None else content}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return {
        path: value
        for key, one in items
        for path, value in flat(one, f"{prefix}/{key}").items()
        if not isinstance(value, str)
    }


def test_recalibration_changes_probabilities_but_no_decision(hospital: Hospital, tmp_path: Path):
    plain = hospital.evaluate(tmp_path / "plain", hospital.test_rows)
    scores = hospital.evaluate(tmp_path / "again", hospital.rows, recalibrate_on="other")
    assert scores["counts"] == plain["counts"]
    recalibration = scores["external"]["recalibration"]
    assert (recalibration["part"], recalibration["patients"]) == ("other", OTHERS)
    assert scores["calibration"]["before"] == plain["calibration"]["after"]
    assert scores["calibration"]["after"] != plain["calibration"]["after"]
    assert scores["classification"] == plain["classification"]
    assert scores["crg"] == plain["crg"]
    for finding, point in scores["operating_points"].items():
        before = plain["operating_points"][finding]
        assert [point[name] for name in ("tp", "fp", "tn", "fn")] == [
            before[name] for name in ("tp", "fp", "tn", "fn")
        ]
        assert point["threshold"] != before["threshold"]
    text = (tmp_path / "again/report.html").read_text()
    assert "Each threshold was moved along with its finding's probabilities" in text
    assert f"{OTHERS} scans of {OTHERS} patients of the part other" in text
    assert f"The part other has {OTHERS} patients: few" in text


def test_training_patients_are_refused_in_any_spelling(hospital: Hospital, tmp_path: Path):
    rows = hospital.test_rows.copy()
    rows.iloc[0, 1], rows.iloc[1, 1] = "TRAIN_07", "train_8"
    message = hospital.error(tmp_path / "out", rows)
    assert "has ids of patients that the model was trained or calibrated on, 2 of 8, so" in message
    assert "TRAIN_07, train_8. Delete their rows, lines 2-3. If" in message
    assert not (tmp_path / "out").exists()
    scores = hospital.evaluate(tmp_path / "out", rows, allow_same_ids=True)
    assert scores["external"]["training_patients"]["same_ids"] == 2
    assert "2 patients have ids of training patients" in (tmp_path / "out/report.html").read_text()


def test_a_training_scan_is_refused_under_any_name_and_patient(
    hospital: Hospital, small_set: ProcessedDataset, tmp_path: Path
):
    scans = shutil.copytree(hospital.scans, tmp_path / "scans")
    data = small_set.root.parent / "data"
    image = nibabel.load(next(data.rglob("train_3_a_1.nii.gz")))
    nibabel.save(image, scans / "other 0.nii")  # as other bytes
    (scans / "other 0.nii.gz").unlink()
    rows = hospital.other_rows.replace("other 0.nii.gz", "other 0.nii")
    for allowed in (False, True):
        message = hospital.error(tmp_path / "out", rows, scans=scans, allow_same_ids=allowed)
        assert "1 of 12 scans, by their voxels, are of those that the model was trained" in message
        assert "delete the rows of their patients, line 2\n" in message
        assert message.endswith("  - other 0")
    assert not (tmp_path / "out/evaluate.json").exists()


def test_a_copy_of_a_scan_under_another_patient_is_named(hospital: Hospital, tmp_path: Path):
    scans = shutil.copytree(hospital.scans, tmp_path / "scans")
    shutil.copy(scans / "other 0.nii.gz", scans / "copy.nii.gz")
    rows = hospital.other_rows
    copy = rows.head(1).assign(scan="copy.nii.gz", patient="Y")
    scores = hospital.evaluate(tmp_path / "out", pd.concat([rows, copy]), scans=scans)
    line = "copy and other 0 have the same voxels, but belong to two patients"
    assert scores["external"]["copies"] == [line]
    assert line in (tmp_path / "out/report.html").read_text()
    rows = pd.concat([rows, copy.assign(split="test"), hospital.test_rows])
    message = hospital.error(tmp_path / "leak", rows, scans=scans, recalibrate_on="other")
    assert "the same scan is in the part other and scored" in message
    assert line in message
    assert not (tmp_path / "leak/evaluate.json").exists()


def test_a_model_without_hashes_says_so(hospital: Hospital, tmp_path: Path):
    (path,) = hospital.model.glob("*.onnx")
    model = onnx.load(path)
    (entry,) = (one for one in model.metadata_props if one.key == INFO_KEY)
    info = json.loads(entry.value)
    del info["training"]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {INFO_KEY: json.dumps(info)})
    save(model, tmp_path / "model.onnx")
    rows = hospital.test_rows.copy()
    rows.iloc[0, 1] = "train_7"
    scores = hospital.evaluate(tmp_path / "out", rows, model=tmp_path / "model.onnx")
    assert scores["external"]["training_patients"] == {"checked": False, "same_ids": 0}
    text = (tmp_path / "out/report.html").read_text()
    assert "The model has no hashes of its training patients" in text


def test_the_export_has_hashes_of_training_and_validation_patients(
    hospital: Hospital, small_set: ProcessedDataset
):
    info = json.loads((hospital.model / "model_info.json").read_text())
    train = small_set.volumes("train")
    counts = {"patients": train["patient_id"].nunique(), "scans": len(train)}
    assert info["training_hashes"] == counts
    hashes = load_model(hospital.model).card.training
    assert hashes is not None
    assert hashes.find_patients(["valid_1", *train["patient_id"]]) == [
        *dict.fromkeys(train["patient_id"])
    ]
    text = json.dumps(hashes.content())
    assert not [one for one in train["patient_id"] if one in text]
    assert (
        f"of the ids of these {counts['patients']} patients"
        in (hospital.model / "MODEL_CARD.md").read_text()
    )


def test_hashes_of_20000_patients_stay_small():
    hashes = TrainingHashes("salt", "A" * 8 * 20_000, "B" * 8 * 50_000)
    assert len(json.dumps(hashes.content())) < 600_000
    assert TrainingHashes.parse(hashes.content()) == hashes
    with pytest.raises(ValueError, match="8 characters"):
        TrainingHashes.parse(hashes.content() | {"scans": "AAAA"})


def test_an_unreadable_scan_is_named_and_an_interrupted_run_resumes(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    scans = shutil.copytree(hospital.scans, tmp_path / "scans")
    broken = scans / "other 3.nii.gz"
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    message = hospital.error(tmp_path / "out", hospital.other_rows, scans=scans, json=True)
    assert message.startswith("1 of 12 scans could not be read; ")
    assert "other 3.nii.gz" in message
    printed = json.loads(capsys.readouterr().out)
    assert printed["external"]["unreadable"] == ["other 3"]
    assert printed["counts"]["scans"] == OTHERS - 1
    assert "1 of 12 scans could not be read" in (tmp_path / "out/report.html").read_text()
    predicted = []
    predict = Model.predict

    def count(model: Model, scan: object) -> object:
        predicted.append(scan)
        return predict(model, scan)

    monkeypatch.setattr(Model, "predict", count)
    broken.write_bytes(content)
    again = hospital.evaluate(tmp_path / "out", hospital.other_rows, scans=scans)
    assert len(predicted) == 1
    fresh = hospital.evaluate(tmp_path / "fresh", hospital.other_rows, scans=scans)
    assert {**again, "external": {}} == {**fresh, "external": {}}


def test_words_of_the_table_are_those_of_a_data_section(hospital: Hospital, tmp_path: Path):
    rows = hospital.test_rows.copy()
    expected = hospital.evaluate(tmp_path / "plain", rows)["counts"]
    words = {"0": "nein", "1": "ja"}
    rows[list(FINDINGS)] = rows[list(FINDINGS)].replace(words)
    rows.loc[0, "Emphysema"] = ""
    rows = rows.rename(columns={"patient": "Person", "scan": "Aufnahme"}).drop(columns="split")
    params = tmp_path / "words.yaml"
    params.write_text(
        "data:\n  values: {positive: [ja], negative: [nein], missing: ['']}\n"
        "  columns: {scan: Aufnahme}\n"
    )
    counts = hospital.evaluate(tmp_path / "out", rows, params=params, column=["patient=Person"])[
        "counts"
    ]
    assert counts["labels"]["scored"]["Emphysema"]["missing"] == 1
    others = [finding for finding in FINDINGS if finding != "Emphysema"]
    assert [counts["positives"][one] for one in others] == [
        expected["positives"][one] for one in others
    ]


def test_findings_that_the_table_lacks(hospital: Hospital, tmp_path: Path):
    rows = hospital.test_rows.rename(columns={"Emphysema": "emphysaema"})
    message = hospital.error(tmp_path / "out", rows)
    assert "has no column for 'Emphysema' (is it 'emphysaema'?)" in message
    assert "--skip-missing-findings" in message
    scores = hospital.evaluate(tmp_path / "out", rows, skip_missing_findings=True)
    assert scores["external"]["findings_not_scored"] == ["Emphysema"]
    assert list(scores["operating_points"]) == [one for one in FINDINGS if one != "Emphysema"]
    text = (tmp_path / "out/report.html").read_text()
    assert "Not scored, since the table lacks them: Emphysema" in text


def empty_labels(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(**dict.fromkeys(FINDINGS, "?"))


def lacking_labels(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(columns=list(FINDINGS))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (empty_labels, {}, "'?' is neither 0 nor 1"),
        (empty_labels, {"params": "data: {values: {missing: ['?']}}"}, "no scan to score has a"),
        (lacking_labels, {"skip_missing_findings": True}, "none of the model's findings"),
        (None, {"scans": Path("/nowhere")}, "/nowhere: is not a folder"),
        (None, {"scans": Path(__file__).parent}, "does not exist; copy it there"),
        (None, {"model": Path("/nowhere")}, "/nowhere: no such model"),
        (None, {"recalibrate_on": "other", "column": ["split=Teil"]}, "has no column 'Teil' with"),
        (None, {"recalibrate_on": "other", "column": ["split="]}, "has no split column with"),
        (None, {"recalibrate_on": "calib"}, "no row of the split column has 'calib'"),
        (None, {"recalibrate_on": "test"}, "'test' is too small to recalibrate on: 8 patients"),
        (None, {"column": ["Person"]}, "--column Person: must be KEY=NAME"),
        (None, {"column": ["patient=Person"]}, "column 'Person' (--column patient=NAME) is mis"),
        (None, {"column": ["patient=Person"]}, "add --column patient= if each scan is of another"),
        (None, {"params": "seed: 0"}, "has no section data"),
        (None, {"params": "data: {uncertain: never}"}, "data.uncertain: must be 'missing', "),
        (lambda rows: rows.assign(patient="X"), {"recalibrate_on": "other"}, "patient X has scans"),
        (
            lambda rows: rows.assign(split=rows["split"].replace("test", "Other")),
            {"recalibrate_on": "other"},
            "some rows have 'other' (--recalibrate-on), others 'Other'; write them alike",
        ),
    ],
)
def test_wrong_input_is_an_error_with_the_fix(
    change, options: dict, message: str, hospital: Hospital, tmp_path: Path
):
    rows = change(hospital.rows) if change else hospital.rows
    if "params" in options:
        (tmp_path / "words.yaml").write_text(options["params"])
        options = options | {"params": tmp_path / "words.yaml"}
    assert message in hospital.error(tmp_path / "out", rows, **options)
    assert not (tmp_path / "out/evaluate.json").exists()


def test_a_key_of_the_columns_given_twice_is_an_error(tmp_path: Path):
    columns = ["patient=Person", "sex=S", "patient=Patient"]
    with pytest.raises(
        InputError, match="--column patient=NAME: is given more than once; keep one"
    ):
        read_settings(None, tmp_path / "labels.csv", None, columns, FINDINGS)


@pytest.mark.parametrize(
    ("option", "path", "problem"),
    [("--table", ".", "file '.' is a directory"), ("--out", "a.csv", "'a.csv' is a file")],
)
def test_a_folder_in_place_of_a_file_is_named_as_its_option(
    option: str, path: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").touch()
    given = {"--table": "a.csv", "--scans": ".", option: path}
    done = CliRunner().invoke(app, ["evaluate", "model", *sum(given.items(), ())])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.stderr
    assert problem in done.stderr


def test_the_scores_of_the_evaluate_stage_are_not_replaced(hospital: Hospital, tmp_path: Path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/scores.json").write_text("{}")
    assert "use another folder" in hospital.error(tmp_path / "metrics", hospital.rows)


def test_without_a_readable_scan_nothing_is_written(hospital: Hospital, tmp_path: Path):
    scans = shutil.copytree(hospital.scans, tmp_path / "scans")
    for path in scans.iterdir():
        path.write_bytes(b"no scan")
    message = hospital.error(tmp_path / "out", hospital.test_rows, scans=scans)
    assert message.startswith("none of 8 scans could be read")
    assert not (tmp_path / "out/report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "code", "stderr"),
    [
        ("torch", 0, ""),
        ("sklearn", 1, "is missing: pip install 'multi-abnormality[evaluate]'"),
    ],
)
def test_it_needs_no_torch(
    package: str, code: int, stderr: str, hospital: Hospital, tmp_path: Path
):
    program = (
        "import runpy, sys\n"
        "class Block:\n"
        "    def find_spec(name, *_):\n"
        f"        if name == {package!r}:\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Block)\n"
        'runpy.run_module("multi_abnormality", run_name="__main__", alter_sys=True)'
    )
    hospital.test_rows.to_csv(tmp_path / "table.csv", index=False)
    options = {"--table": "table.csv", "--scans": hospital.scans, "--n-bootstrap": 5}
    arguments = [str(one) for pair in options.items() for one in pair]
    command = [sys.executable, "-c", program, "evaluate", str(hospital.model), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ, check=False
    )
    assert done.returncode == code, done.stderr
    assert stderr in done.stderr
    assert (tmp_path / "evaluation/report.html").exists() == (code == 0)


@pytest.mark.slow
def test_the_guides_commands_run(hospital: Hospital, tmp_path: Path):
    (tmp_path / "model_weights").symlink_to(hospital.model)
    (tmp_path / "scans").symlink_to(hospital.scans)
    rows = hospital.rows.assign(split=hospital.rows["split"].replace("other", "calibration"))
    rows = rows.assign(**{"Person": rows["patient"], "w/m": "w"})
    rows.to_csv(tmp_path / "labels.csv", index=False)
    german = {"scan": "Aufnahme", "patient": "Nummer"}
    sheet = rows.rename(columns=german).assign(Hersteller="Siemens")
    sheet[list(FINDINGS)] = sheet[list(FINDINGS)].replace({"1": "ja", "0": "nein"})
    sheet.to_excel(tmp_path / "labels.xlsx", sheet_name="Befunde", index=False)
    settings = GUIDE.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "words.yaml").write_text(settings)
    typed = [one.text.replace("/data/scans", "scans") for one in commands(GUIDE)]
    assert len(typed) == 4
    for number, text in enumerate(typed):
        command = text.replace("multi-abnormality", f"{sys.executable} -m multi_abnormality", 1)
        done = subprocess.run(
            [*shlex.split(command), "--n-bootstrap", "20"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{number}: {done.stderr}"
        shutil.rmtree(tmp_path / "evaluation", ignore_errors=True)
