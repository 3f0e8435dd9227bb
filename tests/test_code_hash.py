"""Hashes of code by its meaning."""

from pathlib import Path

import pytest

from multi_abnormality.utils.code_hash import code_hashes

LOSSES = '''"""Losses."""

from package.other import helper
from package.config import Settings
import package.third

LIMIT = 1.0


def loss(x: float) -> float:
    """Loss of x."""
    # squared
    log.info("loss of %s", x)
    return x * x + helper(x)


class Mean:
    """A mean."""

    start = 0

    def add(self, value: float) -> None:
        self.total += value
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "losses.py").write_text(LOSSES)
    (folder / "other.py").write_text("def helper(x):\n    return x\n")
    (folder / "third.py").write_text("from package.losses import loss\n")
    (folder / "config.py").write_text("from package.unseen import x\n")
    return folder


def hashes(package: Path) -> dict[str, dict[str, str]]:
    return code_hashes(package, ["losses.py"], ["config"])


def test_imports_are_followed_except_ignored_ones(package: Path):
    found = hashes(package)
    assert list(found) == ["losses.py", "other.py", "third.py"]
    assert list(found["losses.py"]) == ["loss", "Mean.add", "Mean", "module level"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Losses."""', '"""All losses."""'),
        ('    """Loss of x."""\n', ""),
        ("# squared", "# to the power of two"),
        ("    # squared\n", "\n\n"),
        ('log.info("loss of %s", x)', 'log.debug("%s", x)'),
        ('    log.info("loss of %s", x)\n', ""),
        ("x * x + helper(x)", "(x * x\n        + helper(x))"),
    ],
)
def test_comments_docstrings_logs_and_layout_do_not_count(package: Path, old: str, new: str):
    before = hashes(package)
    (package / "losses.py").write_text(LOSSES.replace(old, new))
    assert LOSSES.replace(old, new) != LOSSES
    assert hashes(package) == before


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("x * x", "x * x * x", "loss"),
        ("x * x", "x * 2.0", "loss"),
        ("LIMIT = 1.0", "LIMIT = 1", "module level"),
        ("start = 0", "start = 1", "Mean"),
        ("self.total += value", "self.total -= value", "Mean.add"),
        ("other import helper", "other import helper as loss", "module level"),
    ],
)
def test_changes_of_meaning_are_named(package: Path, old: str, new: str, name: str):
    before = hashes(package)["losses.py"]
    (package / "losses.py").write_text(LOSSES.replace(old, new))
    after = hashes(package)["losses.py"]
    assert [key for key in before if before[key] != after[key]] == [name]


def test_a_hash_is_the_same_on_all_versions_of_python(package: Path):
    assert hashes(package)["losses.py"]["loss"] == "6f5be10d7fb4"
