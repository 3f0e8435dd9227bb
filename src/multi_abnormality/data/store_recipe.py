"""What a processed set was made by: its recipe.json, and whether another one may take its place."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from multi_abnormality.data.catalogue import Catalogue
from multi_abnormality.data.receipts import SUFFIX, is_receipt
from multi_abnormality.data.store import FORMAT, RECIPE
from multi_abnormality.errors import InputError
from multi_abnormality.params_preprocess import Recipe

# What decides the voxels of CT-RATE, which is NIfTI; of others all readers do.
_CODE_OF_NIFTI = (
    "resample.py",
    *(f"io/{name}.py" for name in ("byte_streams", "geometry", "hounsfield", "hu_checks", "nifti")),
    *(f"io/{name}.py" for name in ("read", "scan", "series_metadata")),
)


def recipe_content(recipe: Recipe, is_ct_rate: bool) -> bytes:
    """Of recipe.json."""
    preprocess = recipe.model_dump(mode="json")
    code = _code_hash(is_ct_rate)
    about = {"format": FORMAT, "code": code, "preprocess": preprocess}
    return (json.dumps(about, indent=2, sort_keys=True) + "\n").encode()


def _code_hash(is_ct_rate: bool) -> str:
    """Of the code that makes the voxels: volumes made by another are not kept."""
    folder = Path(__file__).parent
    files = {folder / name for name in _CODE_OF_NIFTI}
    if not is_ct_rate:
        files |= set((folder / "io").glob("*.py"))
    content = hashlib.sha256()
    for file in sorted(files):
        content.update(file.read_text(encoding="utf-8").encode())
    return content.hexdigest()


def check_catalogue_replaceable(
    catalogue: Catalogue, data: Path, root: Path, recipe: Recipe
) -> None:
    """Refuse to empty a folder that alone holds what was made of a catalogue's deleted scans.

    Raises:
        InputError: as check_replaceable.
    """
    is_ct_rate = catalogue.source.is_ct_rate
    # CT-RATE's receipts count for other scans too: these would take the place of what is left.
    sources = map(Path, catalogue.volumes["path"]) if is_ct_rate else data.rglob(f"*{SUFFIX}")
    check_replaceable(sources, root, recipe, is_ct_rate)


def check_replaceable(
    sources: Iterable[Path], root: Path, recipe: Recipe, is_ct_rate: bool = True
) -> None:
    """Refuse to empty a folder that alone holds what was made of volumes that are gone.

    Raises:
        InputError: the recipe is another, and of some volumes there are only receipts.
    """
    recipe_file = root / RECIPE
    if not recipe_file.exists() or recipe_file.read_bytes() == recipe_content(recipe, is_ct_rate):
        return
    gone = sum(is_receipt(source) for source in sources)
    if gone:
        raise InputError(
            f"{root}/: was made by other preprocess parameters or by another version of the code, "
            f"and {gone} of its volumes were deleted after they were processed. Put params.yaml "
            f"and the code back as they were; or move {root}/ away, and fetch the volumes again by "
            "`python -m multi_abnormality.download ... --then-preprocess`"
        )
