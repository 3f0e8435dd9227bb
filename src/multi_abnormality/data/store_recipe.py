"""What a processed set was made by: its recipe.json, and whether another one may take its place."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from multi_abnormality.data.receipts import is_receipt
from multi_abnormality.data.store import FORMAT, RECIPE
from multi_abnormality.errors import InputError
from multi_abnormality.params import Recipe

# What decides the voxels; of CT-RATE, which is NIfTI, and of others.
_CODE = ("resample.py", "io/hounsfield.py", "io/nifti.py", "io/read.py", "io/series_metadata.py")
_CODE_OF_OTHERS = (*_CODE, "io/itk.py")


def recipe_content(recipe: Recipe, is_ct_rate: bool) -> bytes:
    """Of recipe.json."""
    preprocess = recipe.model_dump(mode="json")
    code = _code_hash(_CODE if is_ct_rate else _CODE_OF_OTHERS)
    about = {"format": FORMAT, "code": code, "preprocess": preprocess}
    return (json.dumps(about, indent=2, sort_keys=True) + "\n").encode()


def _code_hash(names: Iterable[str]) -> str:
    """Of the code that makes the voxels: volumes made by another are not kept."""
    content = hashlib.sha256()
    for name in names:
        content.update((Path(__file__).parent / name).read_text(encoding="utf-8").encode())
    return content.hexdigest()


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
