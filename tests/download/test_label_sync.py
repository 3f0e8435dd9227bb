"""Label tables: rows of the available volumes; other tables are never overwritten."""

from pathlib import Path

import pytest

from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.tools.download.label_sync import LabelTable
from multi_abnormality.utils.errors import InputError

HUBS = "VolumeName,Emphysema,Lung nodule\ntrain_1_a_1.nii.gz,0,1\ntrain_2_a_1.nii.gz,1,0\n"


@pytest.fixture
def full_table(tmp_path: Path) -> Path:
    path = tmp_path / "hub/train_predicted_labels.csv"
    path.parent.mkdir()
    path.write_text(HUBS)
    return path


def test_rows_of_available_volumes_are_written(full_table: Path, tmp_path: Path):
    table = tmp_path / "labels.csv"
    LabelTable(full_table, table).write_rows([VolumeName.parse("train_2_a_1")])
    assert table.read_text().splitlines() == [*HUBS.splitlines()[:1], HUBS.splitlines()[2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HUBS.replace("Lung nodule", "Hernia"), "has other columns than the hub's; move it"),
        (HUBS.replace("VolumeName", "Scan"), "its first column is not VolumeName; move it"),
        ("", "is empty; move it"),
    ],
)
def test_incompatible_table_is_an_error_and_kept(
    full_table: Path, tmp_path: Path, content: str, message: str
):
    table = tmp_path / "labels.csv"
    table.write_text(content)
    with pytest.raises(InputError, match=f"{table}: {message}"):
        LabelTable(full_table, table)
    assert table.read_text() == content
