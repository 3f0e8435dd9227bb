"""Every program answers --help before it imports what takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "dask", "distributed", "dvc", "huggingface_hub", "lightning", "nibabel", "numpy", "onnxruntime",
    "pandas", "PIL", "scipy", "SimpleITK", "sklearn", "timm", "torch", "torchvision",
}  # fmt: skip
PROGRAMS = (
    "compare", "doctor", "download", "experiments", "find_learning_rate", "predict", "recipe",
    "resume",
    "sample", "show_augmentation",
)  # fmt: skip
STAGES = ("preprocess", "train", "evaluate", "export")
SOURCE = Path(__file__).parents[1] / "src/multi_abnormality"

LOADED = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def test_every_program_is_known():
    texts = {path: path.read_text() for path in SOURCE.rglob("*.py")}
    found = {
        path.parent.name if path.name == "__main__.py" else path.stem
        for path, text in texts.items()
        if 'if __name__ == "__main__"' in text and "argparse" in text
    }
    assert found == set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_takes_no_heavy_package(name: str):
    command = [sys.executable, "-c", LOADED, f"multi_abnormality.{name}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"usage: python -m multi_abnormality.{name} " in done.stdout
    assert "-q, --quiet" in done.stdout
    assert HEAVY.intersection(done.stderr.split()) == set()


def test_the_package_alone_takes_nothing():
    program = (
        "import sys; before = set(sys.modules)\n"
        "import multi_abnormality; print(*set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["multi_abnormality"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_asked_for_help_does_nothing_else(name: str, tmp_path: Path):
    command = [sys.executable, "-c", LOADED, f"multi_abnormality.stages.{name}"]
    done = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"usage: python -m multi_abnormality.stages.{name} [-h] [-q | -v]" in done.stdout
    assert HEAVY.intersection(done.stderr.split()) == set()
    done = subprocess.run([*command, "--epochs", "3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unrecognized arguments: --epochs 3" in done.stderr
    assert list(tmp_path.iterdir()) == []
