"""The documentation site: built strictly, complete, and without requests to the network.

tests/test_pages.py opens it in a browser.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from documents import ROOT, documents
from multi_abnormality.config.schema import Params
from test_docs import keys

pytestmark = pytest.mark.slow

# What a browser loads from an address; a link that a reader clicks is not among it.
LOADED = re.compile(
    r"""<(?:img|script|iframe|source)\b[^>]*\ssrc=["']?https?:[^>]*"""
    r"""|<link\b(?![^>]*canonical)[^>]*\shref=["']?https?:[^>]*"""
    r"""|url\(["']?https?:[^)]*"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it, in another folder."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "docs/generate_pages.py"], cwd=ROOT, check=True)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_the_network(site: Path):
    files = [*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")]
    found = {path.name: LOADED.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {name: loaded for name, loaded in found.items() if loaded} == {}
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    assert [page for page in pages if 'class="mermaid"' in page] == []  # loads its program


def test_the_search_has_every_page(site: Path):
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    docs = ROOT / "docs"
    pages = [page.relative_to(docs) for page in documents() if page.is_relative_to(docs)]
    expected = {
        str(page.with_suffix(".html")).replace("README.html", "index.html") for page in pages
    }
    assert expected - found == set()
    assert (site / "search/search_index.js").exists()  # for pages that are opened from the disk
    assert 'src="javascripts/iframe-worker.js"' in (site / "index.html").read_text(encoding="utf-8")


def test_the_reference_has_every_parameter_and_command(site: Path):
    parameters = (site / "reference/parameters.html").read_text(encoding="utf-8")
    sections = {key for key in keys(Params) if f"<code>{key}</code>" not in parameters}
    assert sections == {  # whose keys are listed
        "data.columns", "data.values", "data.split_values", "model.lora",
        "model.pretrained_cfg_overlay",
    }  # fmt: skip
    commands = (site / "reference/command-line.html").read_text(encoding="utf-8")
    known = ("compare", "doctor", "download", "find-lr", "predict", "recipe", "resume", "sample")
    assert [name for name in known if f'id="{name}"' not in commands] == []
