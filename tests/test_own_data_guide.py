"""docs/how-to/own-data.md, typed in a project with scans of three kinds and three findings."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from documents import ROOT, commands
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.checkpoint_io import load_checkpoint
from own_scans import OWN_FINDINGS, write_own_scans
from test_guides import Shell
from test_pipeline import make_project, run

GUIDE = ROOT / "docs/how-to/own-data.md"
NAMES = list(OWN_FINDINGS)


def set_data(folder: Path, **changes: object) -> None:
    """Set `data` as the guide does, with changes."""
    block, *_ = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    settings = yaml.safe_load(block)["data"] | changes
    params = yaml.safe_load((folder / "params.yaml").read_text())
    settings["columns"] = params["data"]["columns"] | settings["columns"]
    params["data"] |= settings
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A project after the guide's commands, and the output of each."""
    folder = make_project(tmp_path_factory.mktemp("own") / "Projekt", patients=2)
    shutil.rmtree(folder / "data")
    write_own_scans(folder / "data")
    set_data(folder)
    shell = Shell(folder)
    return folder, {command.text: shell(command.text) for command in commands(GUIDE)}


@pytest.mark.slow
def test_from_a_folder_and_a_table_to_a_model(typed: tuple[Path, dict[str, str]]):
    folder, printed = typed
    doctor, _, repro, _, predicted = printed.values()
    assert "36 patients" in doctor
    assert "these columns are not read: 'Remark'" in repro
    shown = [line for line in predicted.splitlines() if re.search(r"\d\.\d{3}", line)]
    assert len(shown) == 3
    assert all(any(name in line for line in shown) for name in NAMES)
    info = json.loads((folder / "model_weights/model_info.json").read_text())
    assert info["findings"] == NAMES
    assert "CT-RATE" not in json.dumps(info["references"] + [info["data_source"]])
    scores = json.loads((folder / "metrics/evaluate.json").read_text())
    assert list(scores["classification"]["per_pathology"]) == NAMES
    assert "Age" in scores["groups"]
    assert "3 findings in chest CT" in (folder / "metrics/report.html").read_text()
    stored = ProcessedDataset(folder / "processed")
    assert not stored.is_ct_rate
    assert {Path(name).name.partition(" ")[0] for name in stored.names} == {"chest"}
    assert load_checkpoint(folder / "checkpoints/best.ckpt")["about"]["findings"] == NAMES


@pytest.mark.slow
def test_predict_agrees_with_the_stored_predictions(typed: tuple[Path, dict[str, str]]):
    """NIfTI, DICOM and MetaImage, from the file as from the processed set."""
    folder, _ = typed
    entries = json.loads((folder / "metrics/predictions.json").read_text())["predictions"]
    paths = []
    for entry in entries[:6]:
        path = folder / "data/scans" / entry["input_image_name"]
        paths.append(next(p for p in path.parent.iterdir() if p.name.startswith(path.name)))
    assert {path.suffix for path in paths} == {".gz", ".mha", ""}
    options = "--json", "--names-below", "data/scans"
    printed = run(
        folder, "python", "-m", "multi_abnormality", "predict", *options, *map(str, paths)
    )
    found = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])["predictions"]
    names = [[entry["input_image_name"] for entry in entries] for entries in (found, entries[:6])]
    assert names[0] == names[1]
    for new, stored in zip(found, entries[:6], strict=True):
        assert new["probabilities"] == pytest.approx(stored["probabilities"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.drill
def test_other_findings_are_another_training(typed: tuple[Path, dict[str, str]], tmp_path: Path):
    folder = shutil.copytree(typed[0], tmp_path / "other", symlinks=True)
    set_data(folder, findings=["Emphysema"])
    printed = run(folder, "dvc", "repro")
    assert "0 volumes made" in printed
    assert "findings: ['Effusion', 'Emphysema', 'Device/line'], now ['Emphysema']" in printed
    info = json.loads((folder / "model_weights/model_info.json").read_text())
    assert info["findings"] == ["Emphysema"]
    assert "classification of 1 abnormality" in info["task"]
    scan = next((folder / "data/scans").glob("*/*.mha"))
    printed = run(folder, "python", "-m", "multi_abnormality", "predict", "--json", str(scan))
    (row,) = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])["predictions"]
    assert list(row["probabilities"]) == ["Emphysema"]
