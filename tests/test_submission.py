"""Entry point of the challenge's container, run as a process without the container."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from multi_abnormality import load_model
from multi_abnormality.config.findings import FINDINGS
from tiny_model import CARD, write_ensemble, write_model

ROOT = Path(__file__).parents[1]
REAL_CT = ROOT.parent / "shared/real-ct"
UNPRIVILEGED = 65534
# What the image does not hold; importing it there would be an error.
ABSENT = (
    "torch", "timm", "lightning", "pandas", "pydantic", "scipy", "sklearn", "dvc", "joblib",
    "jinja2",
)  # fmt: skip
# What is imported late is imported first: this environment may be closed to others than root.
ALONE = f"""
import os, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
import importlib.metadata, locale, onnxruntime, rich.console, rich.text, tempfile
import multi_abnormality.data.io.metaimage, multi_abnormality.data.io.nifti
import multi_abnormality.inference.batch_prediction
import multi_abnormality.evaluation.prediction_files
sys.argv = sys.argv[1:]
code = compile(open(sys.argv[0]).read(), sys.argv[0], "exec")
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({UNPRIVILEGED})
    os.setuid({UNPRIVILEGED})
exec(code, dict(__name__="__main__"))
"""


class Container:
    """Mounted folders and the program, run by an unprivileged user if root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("input", "output", "weights", "checkpoint"):
            (root / name).mkdir()
            (root / name).chmod(0o777)
        write_model(root / "weights/model_tiny.onnx")
        for folder in (root, *root.parents):  # pytest's own are closed to others
            if os.geteuid() == 0 and folder.stat().st_uid == 0:
                folder.chmod(folder.stat().st_mode | 0o011)

    def add(self, name: str, size: tuple[int, int, int] = (64, 64, 40)) -> Path:
        """A scan of noise with a right header."""
        noise = np.random.default_rng(len(name)).normal(-300, 300, size[::-1])
        image = SimpleITK.GetImageFromArray(noise.clip(-1024, 1500).astype(np.int16))
        image.SetSpacing((5.0, 5.0, 7.0))
        path = self.root / "input" / name
        SimpleITK.WriteImage(image, str(path))
        return path

    def run(self) -> subprocess.CompletedProcess:
        (self.root / "input").chmod(0o555)
        folders = [f"--{name}={self.root / name}" for name in ("input", "output", "weights")]
        command = [
            sys.executable, "-c", ALONE, ROOT / "submission/process.py", *folders,
            f"--checkpoint={self.root / 'checkpoint'}",
        ]  # fmt: skip
        # The unprivileged user may not write coverage files.
        kept = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
        done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd="/", env=kept)
        (self.root / "input").chmod(0o777)
        return done

    @property
    def written(self) -> dict[str, dict]:
        files = sorted((self.root / "output").iterdir())
        return {path.name: json.loads(path.read_text()) for path in files}


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_every_case_is_in_both_files_and_nothing_else_is_written(container: Container):
    container.add("case_b.mha")
    container.add("case_a.nii.gz")
    (container.root / "input/notes.txt").write_text("not a scan")
    (container.root / "input/._case_a.nii.gz").write_text("as Macs leave them")
    (container.root / "input/folder").mkdir()
    done = container.run()
    assert done.returncode == 0, done.stderr
    assert "these are not scans: ._case_a.nii.gz, folder, notes.txt" in done.stderr
    assert list(container.written) == ["predictions.json", "results.json"]
    first, second = container.written.values()
    assert first == second
    assert [row["input_image_name"] for row in first["predictions"]] == ["case_a", "case_b"]
    for row in first["predictions"]:
        assert list(row["probabilities"]) == list(FINDINGS)
        assert all(0 <= chance <= 1 for chance in row["probabilities"].values())
    predictor = load_model(container.root / "weights/model_tiny.onnx")
    chances = predictor.predict(container.root / "input/case_a.nii.gz").probabilities
    positive = {name for name, chance in chances.items() if chance >= CARD["thresholds"][name]}
    assert 0 < len(positive) < len(FINDINGS)
    submitted = first["predictions"][0]["probabilities"]
    assert positive == {name for name, chance in submitted.items() if chance >= 0.5}


def test_an_ensemble_runs_as_a_model(container: Container):
    weights = container.root / "weights"
    write_ensemble(weights, {"first": 0.75, "second": 0.25})
    (weights / "model_tiny.onnx").unlink()
    scan = container.add("case_a.mha")
    done = container.run()
    assert done.returncode == 0, done.stderr
    (row,) = container.written["results.json"]["predictions"]
    prediction = load_model(weights).predict(scan)
    positive = {finding.name for finding in prediction.findings if finding.positive}
    assert 0 < len(positive) < len(FINDINGS)
    assert positive == {name for name, chance in row["probabilities"].items() if chance >= 0.5}
    first, second = (
        load_model(weights / f"members/{name}").predict(scan).probabilities
        for name in ("first", "second")
    )
    for finding in prediction.findings:
        chances = np.array([first[finding.name], second[finding.name]])
        with np.errstate(divide="ignore"):
            logits = np.log(chances / (1 - chances)).clip(-14, 14)
        fused = 2 * (0.75 * logits[0] + 0.25 * logits[1]) - 0.5
        assert finding.probability == pytest.approx(1 / (1 + np.exp(-fused)), abs=1e-6)


def test_one_bad_case_is_an_error_and_the_others_are_reused(container: Container):
    good = container.add("good.mha")
    bad = container.add("bad.mha")
    whole = bad.read_bytes()
    bad.write_bytes(whole[:1000])
    (container.root / "output/results.json").write_text("{}")
    done = container.run()
    assert done.returncode == 1
    assert "no results: 1 of 2 cases failed" in done.stderr
    assert str(bad) in done.stderr
    assert container.written == {}
    bad.write_bytes(whole)
    before = good.stat()  # who reads it again fails
    good.write_bytes(bytes(before.st_size))
    os.utime(good, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = container.run()
    assert done.returncode == 0, done.stderr
    assert len(container.written["results.json"]["predictions"]) == 2


def test_a_scan_in_a_subfolder_is_an_error(container: Container):
    container.add("case_a.mha")
    (container.root / "input/more").mkdir()
    container.add("more/case_b.mha")
    done = container.run()
    assert done.returncode == 1
    assert str(container.root / "input/more/case_b.mha") in done.stderr
    assert container.written == {}


def test_two_cases_of_one_name_are_refused_before_any_is_predicted(container: Container):
    for name in ("case_a.mha", "case_a.nii.gz", "case_b.mha"):
        container.add(name)
    done = container.run()
    assert done.returncode == 1
    assert "case_a: is the name of several scans" in done.stderr
    assert "case_a.mha" in done.stderr
    assert "case_a.nii.gz" in done.stderr
    assert "case_b" not in done.stderr
    assert container.written == {}


def test_no_scan_and_no_model_are_errors(container: Container):
    done = container.run()
    assert done.returncode == 1
    assert "holds no scan" in done.stderr
    (container.root / "weights/model_tiny.onnx").unlink()
    assert "holds no .onnx model" in container.run().stderr


def test_an_output_that_cannot_be_written_is_reported_first(container: Container):
    (container.root / "output/results.json").mkdir()
    done = container.run()
    assert done.returncode == 1
    assert "output: cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real scans beside the project")
def test_real_scans_are_predicted(container: Container):
    names = ("chest_CIP_ct64_4mm_int16_RAI.nii.gz", "halfthorax_elastix_baseline_small_int16.mha")
    for name in names:
        (container.root / "input" / name).write_bytes((REAL_CT / name).read_bytes())
    done = container.run()
    assert done.returncode == 0, done.stderr
    assert len(container.written["results.json"]["predictions"]) == 2
