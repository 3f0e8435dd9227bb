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
    if x < 0:
        raise ValueError(f"{x} is " "negative", x)
    assert x < 9, "too large"
    return x * x + helper(x)


class Mean:
    """A mean."""

    start = 0

    def add(self, value: float) -> None:
        self.total += value

    @property
    def mean(self) -> float:
        return self.total

    @mean.setter
    def mean(self, value: float) -> None:
        self.total = value


@functools.cache
def cached(x: int) -> int:
    return x


try:
    from fast import square
except ImportError:
    def square(x):
        return x**2


def twice(x):
    return x


def twice(x):
    return 2 * x
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
    assert list(found["losses.py"]) == [
        "module level", "loss", "Mean.add", "Mean.mean", "Mean", "cached", "twice",
    ]  # fmt: skip


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
        ('f"{x} is " "negative", x', 'f"a loss of {x}" + " is below 0", x'),
        ('f"{x} is " "negative", x', "x"),
        (', "too large"', ""),
        ("loss(x: float) -> float", 'loss(x: "np.float32")'),
        ("add(self, value: float) -> None", "add(self, value)"),
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
        ("raise ValueError", "raise KeyError", "loss"),
        ('"negative", x)', '"negative", -x)', "loss"),
        ("x < 9", "x < 8", "loss"),
        ("if x < 0:", "if x <= 0:", "loss"),
        ("return self.total", "return self.total / 2", "Mean.mean"),
        ("self.total = value", "self.total = -value", "Mean.mean"),
        ("    start = 0", "    start: int = 0", "Mean"),
        ("functools.cache", "functools.lru_cache(1)", "cached"),
        ("@functools.cache\n", "", "cached"),
        ("cached(x: int)", "cached(x: float)", "cached"),  # decorators may read annotations
        ("return x**2", "return x**3", "module level"),
        ("except ImportError", "except ValueError", "module level"),
        ("def twice(x):\n    return x\n", "def twice(x):\n    return -x\n", "twice"),
        ("return 2 * x", "return 3 * x", "twice"),
    ],
)
def test_changes_of_meaning_are_named(package: Path, old: str, new: str, name: str):
    before = hashes(package)["losses.py"]
    (package / "losses.py").write_text(LOSSES.replace(old, new))
    after = hashes(package)["losses.py"]
    assert [key for key in before if before[key] != after[key]] == [name]


@pytest.mark.parametrize(
    "line",
    [
        "from package.parts.first import x",
        "from package.parts import first",
        "from package.parts import *",
        "from package.parts import x",  # a name that the package's __init__.py imports
        "import package.parts.first",
        "import package.parts.first as parts",
        "from .parts.first import x",
        "from .parts import first",
        "from . import parts",
        "def late():\n    from package.parts.first import x",
    ],
)
def test_every_form_of_import_is_followed(package: Path, line: str):
    (package / "losses.py").write_text(line)
    parts = package / "parts"
    parts.mkdir()
    (parts / "__init__.py").write_text("from .first import x")
    (parts / "first.py").write_text("from ..other import x\nfrom .second import y")
    (parts / "second.py").write_text("y = 1")
    expected = ["losses.py", "other.py", "parts/__init__.py", "parts/first.py", "parts/second.py"]
    assert list(hashes(package)) == expected


def test_a_package_counts_only_if_its_init_does_something(package: Path):
    (package / "losses.py").write_text("import package.parts.first")
    (package / "parts").mkdir()
    (package / "parts/first.py").write_text("x = 1")
    (package / "parts/__init__.py").write_text('"""Parts."""')
    assert list(hashes(package)) == ["losses.py", "parts/first.py"]
    (package / "parts/__init__.py").write_text("import torch\ntorch.set_default_dtype(None)")
    assert list(hashes(package)) == ["losses.py", "parts/__init__.py", "parts/first.py"]


def test_a_hash_is_the_same_on_all_versions_of_python(package: Path):
    """The second differs between the syntax trees of Python 3.11 and 3.12."""
    assert hashes(package)["losses.py"]["loss"] == "94ff365fdf83"
    (package / "losses.py").write_text('def show(x, n):\n    return f"{x:>{n}}"\n')
    assert hashes(package)["losses.py"]["show"] == "71a7461a5253"
