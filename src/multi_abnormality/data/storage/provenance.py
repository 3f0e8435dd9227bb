"""The recipe.json of a processed set, and checks before it is replaced by another."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from multi_abnormality.config.schema import PreprocessSpec
from multi_abnormality.data.catalog.dataset_layout import Catalog
from multi_abnormality.data.catalog.placeholders import SUFFIX, is_placeholder
from multi_abnormality.data.storage.processed_dataset import FORMAT, RECIPE
from multi_abnormality.utils.errors import InputError

# Code that determines the voxels of CT-RATE, which is NIfTI; for custom data, all readers do.
_CODE_OF_NIFTI = (
    "preprocessing/resample.py",
    *(f"io/{name}.py" for name in ("byte_streams", "geometry", "hounsfield", "hu_checks", "nifti")),
    *(f"io/{name}.py" for name in ("read", "scan", "series_metadata")),
)


def recipe_content(recipe: PreprocessSpec, is_ct_rate: bool) -> bytes:
    """Return the content of recipe.json."""
    preprocess = recipe.model_dump(mode="json")
    code = _code_hash(is_ct_rate)
    content = {"format": FORMAT, "code": code, "preprocess": preprocess}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _code_hash(is_ct_rate: bool) -> str:
    """Hash the code that determines the voxels: volumes made by other code are not kept."""
    folder = Path(__file__).parents[1]
    files = {folder / name for name in _CODE_OF_NIFTI}
    if not is_ct_rate:
        files |= set((folder / "io").glob("*.py"))
    content = hashlib.sha256()
    for file in sorted(files):
        content.update(file.read_text(encoding="utf-8").encode())
    return content.hexdigest()


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
