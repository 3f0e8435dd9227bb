"""The scans in data/, of whichever layout params.yaml says."""

from pathlib import Path

from multi_abnormality.data.catalogue import Catalogue
from multi_abnormality.data.ct_rate import read_ct_rate
from multi_abnormality.data.own import read_own
from multi_abnormality.params_data import Data


def read_catalogue(root: Path, settings: Data) -> Catalogue:
    """Read the tables and find the scans; none is opened.

    Raises:
        InputError: lists every fault, each with its way out.
    """
    if settings.table is None:
        return read_ct_rate(root, settings.names)
    return read_own(root, settings.table, settings)
