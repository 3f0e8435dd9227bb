"""The label tables: rows of what is there, and no other table is written over."""

from pathlib import Path

import pytest

from multi_abnormality.data.names import VolumeName
from multi_abnormality.download.tables import Labels
from multi_abnormality.errors import InputError

HUBS = "VolumeName,Emphysema,Lung nodule\ntrain_1_a_1.nii.gz,0,1\ntrain_2_a_1.nii.gz,1,0\n"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "hub/train_predicted_labels.csv"
    path.parent.mkdir()
    path.write_text(HUBS)
    return path


def test_the_rows_of_what_is_there_are_written(whole: Path, tmp_path: Path):
    table = tmp_path / "labels.csv"
    Labels(whole, table).cut_to([VolumeName.parse("train_2_a_1")])
    assert table.read_text().splitlines() == [*HUBS.splitlines()[:1], HUBS.splitlines()[2]]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (HUBS.replace("Lung nodule", "Hernia"), "has other columns than the hub's; move it away"),
        (HUBS.replace("VolumeName", "Scan"), "its first column is not VolumeName; move it away"),
        ("", "is empty; move it away"),
    ],
)
def test_a_users_table_of_another_kind_stays_as_it_is(
    whole: Path, tmp_path: Path, content: str, fault: str
):
    table = tmp_path / "labels.csv"
    table.write_text(content)
    with pytest.raises(InputError, match=f"{table}: {fault}"):
        Labels(whole, table)
    assert table.read_text() == content
