"""Whether a DICOM series has a scanner's slices, or images that were computed from them.

ImageType (0008,0008) says so, by terms of the standard (PS3.3 C.7.6.1.1.2 and C.8.16.1) and of
scanners' vendors. DERIVED alone does not count: compression and anonymization set it as well.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Derivation(NamedTuple):
    """How images were computed from others.

    Attributes:
        name: such as "maximum intensity projection"; "" for a scanner's slices.
        is_projection: whether values are those of other places, so that HU mean something else.
    """

    name: str = ""
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
    """What most images of a series are.

    Args:
        image_types: values of ImageType of each image, separated by backslashes.
        description: SeriesDescription, for derived images whose type does not say more.
    """
    image_type = Counter(image_types).most_common(1)[0][0].upper()
    values = [value.strip() for value in image_type.split("\\")]
    if found := _find(term for value in values[2:] for term in (value, *value.split())):
        return found
    if values[0] != "DERIVED":
        return ORIGINAL
    if found := _find(re.findall(r"[A-Z0-9]+", description.upper())):
        return found
    return _SECONDARY if values[1:2] == ["SECONDARY"] else ORIGINAL


def _find(terms: Iterable[str]) -> Derivation | None:
    known = (_DERIVATIONS.get(re.sub(r"[\s_-]", "", term)) for term in terms)
    return next(filter(None, known), None)
