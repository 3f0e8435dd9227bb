"""Label tables: rows of the available volumes; other tables are never overwritten."""

from pathlib import Path

import pytest

from multi_abnormality.data.catalog.ct_rate_files import label_path
from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.tools.download.label_tables import LabelTables
from multi_abnormality.utils.errors import InputError

HUBS = "VolumeName,Emphysema,Lung nodule\ntrain_1_a_1.nii.gz,0,1\ntrain_2_a_1.nii.gz,1,0\n"


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        path = tmp_path / "hub" / label_path(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HUBS.replace("train", "train" if split == "train" else "valid"))
    return tmp_path / "hub"


def test_rows_of_available_volumes_are_written(complete: Path, tmp_path: Path):
    LabelTables(complete, tmp_path).write([VolumeName.parse("train_2_a_1")])
    table = tmp_path / label_path("train")
    assert table.read_text().splitlines() == [*HUBS.splitlines()[:1], HUBS.splitlines()[2]]
    assert not (tmp_path / label_path("test")).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HUBS.replace("Lung nodule", "Hernia"), "has other columns than the hub's; move it"),
        (HUBS.replace("VolumeName", "Scan"), "its first column is not VolumeName; move it"),
        ("", "is empty; move it"),
    ],
)
def test_incompatible_table_is_an_error_and_kept(
    complete: Path, tmp_path: Path, content: str, message: str
):
    table = tmp_path / label_path("train")
    table.parent.mkdir(parents=True)
    table.write_text(content)
    with pytest.raises(InputError, match=f"{table}: {message}"):
        LabelTables(complete, tmp_path)
    assert table.read_text() == content
