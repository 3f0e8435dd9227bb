"""The recipe.json of a processed set, and checks before it is replaced by another."""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from multi_abnormality.config.schema import PreprocessSpec
from multi_abnormality.data.catalog.catalog import Catalog
from multi_abnormality.data.catalog.placeholders import SUFFIX, is_placeholder
from multi_abnormality.data.storage.processed_dataset import FORMAT, RECIPE
from multi_abnormality.utils.code_hash import code_hashes
from multi_abnormality.utils.errors import InputError

# Code that determines the voxels: these files, and what they import of the package.
_ROOTS = ("data/preprocessing/resample.py", "data/io/read.py", "data/io/nifti.py")
_IGNORED = ("__init__", "config/", "utils/")
# CT-RATE is NIfTI: changes of other readers do not affect it. Custom data may be of any format.
_OTHER_FORMATS = ("data/io/dicom", "data/io/reader_registry", "data/io/scan_sources")


def recipe_content(recipe: PreprocessSpec, is_ct_rate: bool) -> bytes:
    """Return the content of recipe.json."""
    preprocess = recipe.model_dump(mode="json")
    code = _code_hash(is_ct_rate)
    content = {"format": FORMAT, "code": code, "preprocess": preprocess}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


@cache
def _code_hash(is_ct_rate: bool) -> str:
    """Hash the code that determines the voxels: volumes made by other code are not kept."""
    package = Path(__file__).parents[2]
    roots = list(_ROOTS)
    ignored: tuple[str, ...] = _IGNORED + _OTHER_FORMATS
    if not is_ct_rate:
        roots += [f"data/io/{path.name}" for path in (package / "data/io").glob("*.py")]
        ignored = _IGNORED
    hashes = code_hashes(package, roots, ignored)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def check_catalog_replaceable(
    catalogue: Catalog, data: Path, root: Path, recipe: PreprocessSpec
) -> None:
    """Refuse to empty a folder with the only copy of a catalogue's deleted scans.

    Raises:
        InputError: as check_replaceable.
    """
    is_ct_rate = catalogue.source.is_ct_rate
    # Custom scans would replace processed CT-RATE scans, so CT-RATE's placeholders count too.
    sources = map(Path, catalogue.volumes["path"]) if is_ct_rate else data.rglob(f"*{SUFFIX}")
    check_replaceable(sources, root, recipe, is_ct_rate)


def check_replaceable(
    sources: Iterable[Path], root: Path, recipe: PreprocessSpec, is_ct_rate: bool = True
) -> None:
    """Refuse to empty a folder with the only copy of deleted volumes.

    Raises:
        InputError: the recipe has changed, and some volumes exist only as placeholders.
    """
    recipe_file = root / RECIPE
    if not recipe_file.exists() or recipe_file.read_bytes() == recipe_content(recipe, is_ct_rate):
        return
    gone = sum(is_placeholder(source) for source in sources)
    if gone:
        raise InputError(
            f"{root}/: was made by other preprocess parameters or by another version of the code, "
            f"and {gone} of its volumes were deleted after they were processed. Put params.yaml "
            f"and the code back as they were; or move {root}/ away, and fetch the volumes again by "
            "`multi-abnormality download ... --then-preprocess`"
        )
