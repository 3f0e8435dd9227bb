"""A custom dataset of empty files, and its table."""

from pathlib import Path

import pandas as pd
import pytest

from documents import ROOT
from multi_abnormality.config.schema import Data, load_params
from multi_abnormality.data.catalog.read_catalog import read_catalog
from multi_abnormality.utils.errors import InputError

FINDINGS = ("Cyst", "Mass/nodule", "Effusion")
HEADER = "scan,patient,split,Cyst,Mass/nodule,Effusion"
ROWS = (
    "a/one.nii.gz,P 1,train,1,0,1",
    "a/two,P 1,train,0,1,0",
    "b/series,P 2,train,0,0,0.0",
    "b/ten.mha,P10,test,1,1,0",
    r"b\nine.nii,P 9,test,0,0,1",
)

GERMAN = {
    "positive": ("1", "ja"),
    "negative": ("0", "nein"),
    "uncertain": ("-1", "u"),
    "missing": ("", "na"),
}
GERMAN_ROWS = (
    "a/one.nii.gz,P 1,train,ja,na,1.0",
    "a/two,P 1,train,nein,na,-1.0",
    "b/series,P 2,train,,na,0",
    "b/ten.mha,P10,test,1,ja,u",
    "b/nine.nii,P 9,test,0,nein,1",
)


class OwnFolder:
    """A custom dataset of empty files, and its table."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("a/one.nii.gz", "a/two.nii.gz", "b/series/IM0001", "b/ten.mha", "b/nine.nii"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        self.write()

    def write(self, header: str = HEADER, rows: tuple[str, ...] = ROWS) -> None:
        text = "\n".join([header, *rows]) + "\n"
        (self.root / "labels.csv").write_text(text, encoding="utf-8")

    def read(self, columns: dict[str, str | None] | None = None, **changes: object) -> pd.DataFrame:
        return read_catalog(self.root, settings(columns, **changes)).volumes

    def error(self, columns: dict[str, str | None] | None = None, **changes: object) -> str:
        with pytest.raises(InputError) as caught:
            self.read(columns, **changes)
        return str(caught.value)


def settings(columns: dict[str, str | None] | None = None, **changes: object) -> Data:
    default = load_params(ROOT / "params.yaml").data
    plain = default.model_dump() | {"table": "labels.csv", "findings": FINDINGS} | changes
    return Data.model_validate(plain | {"columns": plain["columns"] | (columns or {})})
