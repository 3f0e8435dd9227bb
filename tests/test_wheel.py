"""The wheel, installed without extras into an empty environment."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from chest_files import write_series
from documents import ROOT
from multi_abnormality.config.findings import FINDINGS
from tiny_model import write_model

MAX_MB = 350
ABSENT = {"dvc", "pandas", "scikit-learn", "scipy", "simpleitk", "timm", "torch"}
TRAIN = "pip install 'multi-abnormality[train]'"
# Of each command that needs an extra: arguments with which it imports its packages.
NEED_TRAIN = {
    "compare": ("a", "b"),
    "download": ("--max-gb", "1"),
    "experiments": (),
    "find-lr": (),
    "preview-augmentation": (),
    "resume": (),
}


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)


def succeed(*command: object, cwd: Path) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_without_extras_predicts(tmp_path: Path):
    project, empty = tmp_path / "project", tmp_path / "empty"
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, project)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    succeed(*pip, "wheel", "--no-deps", "--wheel-dir", "dist", project, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").iterdir()
    succeed(sys.executable, "-m", "venv", "--without-pip", empty, cwd=tmp_path)
    python, command = empty / "bin/python", empty / "bin/multi-abnormality"
    pins = ("--constraint", ROOT / "requirements.txt")
    succeed(*pip, "--python", python, "install", *pins, wheel, cwd=tmp_path)

    (packages,) = empty.glob("lib/python*/site-packages")
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) / 1e6
    assert size <= MAX_MB
    names = {found.name.lower() for found in distributions(path=[str(packages)])}
    assert names & ABSENT == set()

    work = tmp_path / "work"
    (work / "model_weights").mkdir(parents=True)
    write_model(work / "model_weights/model_tiny.onnx")
    succeed(command, "sample", "--patients", 2, "--size", 64, "--slices", 24, cwd=work)
    nifti = sorted(work.rglob("*.nii.gz"))[0]
    write_series(work / "series")
    for scan in (nifti, work / "series"):
        (row,) = json.loads(succeed(command, "predict", scan, "--json", cwd=work))["predictions"]
        assert list(row["probabilities"]) == list(FINDINGS)
        assert "Finding " in succeed(command, "predict", scan, "--explain", "why", cwd=work)

    (work / ".dvc").mkdir()
    shutil.copy(ROOT / "params.yaml", work)
    programs = [(command, name, *arguments) for name, arguments in NEED_TRAIN.items()]
    stages = ("preprocess", "train", "evaluate", "export")
    programs += [(python, "-m", f"multi_abnormality.stages.{stage}") for stage in stages]
    for program in programs:
        done = run(*program, cwd=work)
        assert done.returncode == 1
        assert done.stderr.startswith("error: the package ")
        assert done.stderr.endswith(f" is missing: {TRAIN}\n")
    done = run(command, "evaluate", "model_weights", "--table", "t", "--scans", ".", cwd=work)
    assert done.stderr.endswith(" is missing: pip install 'multi-abnormality[evaluate]'\n")
    done = run(command, "doctor", cwd=work)
    assert done.returncode == 1
    assert f"→ {TRAIN}\n" in done.stdout
    done = run(command, "recipe", "sample", cwd=work)
    assert done.returncode == 1
    assert "run in the project's folder" in done.stderr
