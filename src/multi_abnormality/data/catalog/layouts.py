"""Read the catalog of data/, in the layout that params.yaml selects."""

from pathlib import Path

from multi_abnormality.config.schema import Data
from multi_abnormality.data.catalog.ct_rate import read_ct_rate
from multi_abnormality.data.catalog.custom import read_custom
from multi_abnormality.data.catalog.dataset_layout import Catalog


def read_catalog(root: Path, settings: Data) -> Catalog:
    """Read the tables and find the scans, without opening any.

    Raises:
        InputError: lists every error, each with its fix.
    """
    if settings.table is None:
        return read_ct_rate(root, settings.names)
    return read_custom(root, settings.table, settings)
