"""How the table of an external test set is read: a data section, whose keys may be missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml.error import YAMLError

from multi_abnormality.config.schema import Columns, Data, parse_section
from multi_abnormality.config.validation_errors import describe
from multi_abnormality.config.yaml_reader import load_yaml
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, raise_errors

PARAMS = Path("params.yaml")
# Of the data section, for keys that are not given.
DEFAULTS: dict[str, Any] = {
    "sheet": None,
    "values": {"positive": [1], "negative": [0], "uncertain": [], "missing": []},
    "uncertain": "missing",
    "scans": ".",
    "columns": dict.fromkeys(Columns.model_fields)
    | {"scan": "scan", "patient": "patient", "split": "split"},
    "split_values": {"train": ["train"], "val": ["val"], "test": ["test"], "missing": []},
    "test_fraction": 0.2,
    "split_seed": 0,
}
UNUSED = {"folds": None, "fold": None}  # of the run, whatever the file says


def read_settings(
    params: Path | None,
    table: Path,
    sheet: str | None,
    columns: Sequence[str],
    findings: Sequence[str],
) -> tuple[Data, str | None]:
    """Return the settings of the table's reader, without the split column, and that column.

    Args:
        params: YAML file with a data section; None for PARAMS, if it exists.
        table: path of the table.
        sheet: sheet of a workbook; None for that of the file.
        columns: pairs such as "patient=Person", which replace those of the file.
        findings: findings to score.

    Raises:
        InputError: lists every wrong key.
    """
    file = params or (PARAMS if PARAMS.is_file() else None)
    given = _read_section(file) if file else {}
    content = DEFAULTS | given | {"table": table.name, "findings": [*findings]} | UNUSED
    for key in ("values", "columns", "split_values"):
        content[key] = DEFAULTS[key] | (given.get(key) or {})
    pairs = [_parse_column(column) for column in columns]
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InputError(f"--column {twice[0]}=NAME: is given more than once; keep one")
    content["columns"] |= dict(pairs)
    if sheet is not None or table.suffix.lower() != ".xlsx":
        content["sheet"] = sheet
    try:
        settings = parse_section(Data, content)
    except ValidationError as error:
        faults = [f"data.{line}" for line in describe(error, Data)]
        raise_errors(faults, f"{file or table}: wrong parameters")
        raise
    unsplit = settings.columns.model_copy(update={"split": None})
    return settings.model_copy(update={"columns": unsplit}), settings.columns.split


def _read_section(file: Path) -> dict[str, Any]:
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, YAMLError) as error:
        raise InputError(f"{file}: is not valid YAML: {error}") from error
    section = content.get("data") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise InputError(f"{file}: has no section data with the settings of the table")
    for key in ("values", "columns", "split_values"):
        if not isinstance(section.get(key, {}), dict | None):
            raise InputError(f"{file}: data.{key} must be a section")
    log.info("the table is read as the data section of %s says", file)
    return section


def _parse_column(text: str) -> tuple[str, str | None]:
    key, equals, name = text.partition("=")
    if not equals or key not in Columns.model_fields:
        known = ", ".join(Columns.model_fields)
        raise InputError(f"--column {text}: must be KEY=NAME, with a KEY of {known}")
    return key, name or None
