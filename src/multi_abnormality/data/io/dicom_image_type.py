"""Detection of DICOM series whose images were computed from a scanner's slices.

ImageType (0008,0008) marks them, with terms of the standard (PS3.3 C.7.6.1.1.2 and C.8.16.1) and of
vendors. DERIVED alone does not count: compression and anonymization set it as well.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Derivation(NamedTuple):
    """How images were computed from others."""

    # Name of the method, such as "maximum intensity projection"; "" for a scanner's slices.
    name: str = ""
    # Whether values come from other positions, so that HU are not meaningful.
    is_projection: bool = False


ORIGINAL = Derivation()
_TERMS = {  # without spaces and underscores
    Derivation("maximum intensity projection", True): "MIP MAXIP MIPTHIN MIPTHICK MAXIMUM",
    Derivation("minimum intensity projection", True): "MINIP MINIMUM MNIP",
    Derivation("projection", True): "PROJECTION PROJECTIONIMAGE",
    Derivation("3D rendering", True): (
        "3D 3DRENDERING VR VRT VOLREN VOLUMERENDER VOLUMERENDERING SSD SURFACERENDER SURFACESHADED"
    ),
    Derivation("curved reformat", True): "CPR CURVEDMPR CURVED",
    Derivation("reformat"): "MPR MPVR MPRTHIN MPRTHICK REFORMATTED RESAMPLED MEANIP",
}
_DERIVATIONS = {term: found for found, terms in _TERMS.items() for term in terms.split()}
_SECONDARY = Derivation("derived secondary images")


def derivation_of(image_types: Iterable[str], description: str) -> Derivation:
    """Return the derivation of most images of a series.

    Args:
        image_types: ImageType of each image, values separated by backslashes.
        description: SeriesDescription, used if the type is DERIVED without details.
    """
    image_type = Counter(image_types).most_common(1)[0][0].upper()
    values = [value.strip() for value in image_type.split("\\")]
    if found := _find_term(term for value in values[2:] for term in (value, *value.split())):
        return found
    if values[0] != "DERIVED":
        return ORIGINAL
    if found := _find_term(re.findall(r"[A-Z0-9]+", description.upper())):
        return found
    return _SECONDARY if values[1:2] == ["SECONDARY"] else ORIGINAL


def _find_term(terms: Iterable[str]) -> Derivation | None:
    known = (_DERIVATIONS.get(re.sub(r"[\s_-]", "", term)) for term in terms)
    return next(filter(None, known), None)
