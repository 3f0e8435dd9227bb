"""Read the catalog of data/, in the layout that params.yaml selects."""

import logging
from dataclasses import replace
from pathlib import Path

from multi_abnormality.config.schema import Data
from multi_abnormality.data.catalog.catalog import FOLD, Catalog
from multi_abnormality.data.catalog.ct_rate import read_ct_rate
from multi_abnormality.data.catalog.custom import read_custom
from multi_abnormality.data.catalog.splits import assign_folds

log = logging.getLogger(__name__)


def read_catalog(root: Path, settings: Data) -> Catalog:
    """Read the tables and find the scans, without opening any.

    Raises:
        InputError: lists every error, each with its fix.
    """
    if settings.table is None:
        catalog = read_ct_rate(root, settings.names, needs_test=settings.folds is None)
    else:
        catalog = read_custom(root, settings.table, settings)
    return catalog if settings.folds is None else _add_folds(catalog, settings.folds, settings)


def _add_folds(catalog: Catalog, folds: int, settings: Data) -> Catalog:
    """Divide the patients of the train split into folds; those of the test split are in none."""
    volumes = catalog.volumes
    train = volumes[volumes["split"] == "train"]
    fold_of = assign_folds(train, settings.names, folds, settings.split_seed)
    log.info("data.folds: %d patients in %d folds (data.split_seed %d)",
             len(fold_of), folds, settings.split_seed)  # fmt: skip
    test = volumes.loc[volumes["split"] == "test", "patient_id"].nunique()
    if test:
        log.info("data.folds: patients of the test split, who are in no fold: %d", test)
    fold = train["patient_id"].map(fold_of).astype(str).reindex(volumes.index, fill_value="")
    return replace(catalog, volumes=volumes.assign(**{FOLD: fold}))
