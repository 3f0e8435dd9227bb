import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.catalog.ct_rate import read_ct_rate
from multi_abnormality.data.catalog.ct_rate_files import read_metadata_table
from multi_abnormality.data.catalog.placeholders import placeholder_path
from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.utils.errors import InputError

REAL_METADATA = Path(__file__).parents[3] / "../shared/ct-rate/validation_metadata.csv"


@pytest.fixture
def folder(ct_rate):
    """Two training patients, one with two reconstructions, and one test patient."""
    ct_rate.add("train_10_a_1")
    ct_rate.add("train_2_a_1", positive=("Emphysema",))
    ct_rate.add("train_2_a_2", positive=("Emphysema",))
    ct_rate.add("valid_2_b_1", positive=("Lung nodule", "Bronchiectasis"))
    ct_rate.write_tables()
    return ct_rate


def errors_of(folder) -> str:
    with pytest.raises(InputError) as caught:
        read_ct_rate(folder.root)
    return str(caught.value)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("text", ["train_1_a_2", "train_1_a_2.nii", "train_1_a_2.nii.gz"])
def test_names_are_read_with_any_suffix(text):
    name = VolumeName.parse(text)
    assert (name.patient_id, name.scan_id, str(name)) == ("train_1", "train_1_a", "train_1_a_2")


@pytest.mark.parametrize(
    "text", ["train_1_a", "test_1_a_1", "train_01_a_1", "train_0_a_1", "train_1_a_1.nii.gz.part"]
)
def test_invalid_names_are_refused(text):
    with pytest.raises(InputError, match="not a CT-RATE volume name"):
        VolumeName.parse(text)


def test_catalogue_joins_volumes_and_labels_in_natural_order(folder):
    volumes = read_ct_rate(folder.root).volumes
    names = ["train_2_a_1", "train_2_a_2", "train_10_a_1", "valid_2_b_1"]
    assert volumes["name"].tolist() == names
    assert volumes["patient_id"].tolist() == ["train_2", "train_2", "train_10", "valid_2"]
    assert [Path(path).name for path in volumes["path"]] == [f"{name}.nii.gz" for name in names]
    assert volumes["Emphysema"].tolist() == [1, 1, 0, 0]
    assert volumes["Bronchiectasis"].tolist() == [0, 0, 0, 1]
    assert all(volumes[finding].dtype == np.int64 for finding in FINDINGS)


def test_older_layout_plain_nifti_linked_folders_and_float_labels_are_read(folder, tmp_path):
    other_disk = tmp_path / "other_disk"
    (folder.root / "dataset/train_fixed").rename(other_disk)
    (folder.root / "dataset/train_fixed").symlink_to(other_disk)
    folder.label("train_3_a_1")
    folder.add_file("train_3_a_1", version="", suffix=".nii")
    folder.write_tables()
    edit(folder.table(), "0,0,0", "0.0,0.0,0.0")
    assert len(read_ct_rate(folder.root).volumes) == 5


def test_a_link_to_a_parent_folder_is_not_followed(folder):
    (folder.root / "dataset/train_fixed/parent").symlink_to("..")
    assert len(read_ct_rate(folder.root).volumes) == 4


def test_excluded_volumes_are_left_out_and_counted(folder):
    folder.add("train_4_a_1")
    folder.label("train_5_a_1")  # excluded and never fetched: not an error
    folder.write_tables()
    lists = folder.root / "dataset" / "somewhere" / "no_chest_train.txt"
    lists.parent.mkdir()
    lists.write_text("/mnt/ct/train/train_4/train_4_a/train_4_a_1.nii.gz\n\ntrain_5_a_1.nii.gz\n")
    catalogue = read_ct_rate(folder.root)
    assert "train_4_a_1" not in set(catalogue.volumes["name"])
    assert [str(name) for name in catalogue.excluded] == ["train_4_a_1"]
    lists.write_text("train_4\n")
    assert f"{lists}, line 1: 'train_4' is not a CT-RATE volume name" in errors_of(folder)


def test_metadata_are_joined_as_text_where_they_are_known(folder):
    table = folder.root / "dataset/metadata/train_metadata.csv"
    table.parent.mkdir()
    table.write_text(
        "VolumeName,Manufacturer,PatientAge,XYSpacing\n"
        'train_2_a_1.nii.gz,Philips,036Y,"[0.7, 0.7]"\n'
    )
    volumes = read_ct_rate(folder.root).volumes.set_index("name")
    assert volumes.loc["train_2_a_1", ["Manufacturer", "PatientAge"]].tolist() == [
        "Philips",
        "036Y",
    ]
    assert volumes.loc["train_2_a_1", "PatientSex"] == ""
    assert volumes.loc["train_10_a_1", "Manufacturer"] == ""
    with table.open("a") as file:
        file.write("train_2_a_1.nii.gz,Siemens,036Y,1\n")
    assert f"{table}, lines 2, 3: the rows of train_2_a_1 differ; keep one" in errors_of(folder)


def test_missing_metadata_are_warned_about(folder, caplog):
    table = folder.root / "dataset/metadata/train_metadata.csv"
    table.parent.mkdir()
    table.write_text("VolumeName,Manufacturer,Z_Spacing\n ct/train_2_a_1.nii.gz ,Philips,1\n")
    volumes = read_ct_rate(folder.root).volumes.set_index("name")
    assert volumes.loc["train_2_a_1", "Manufacturer"] == "Philips"
    assert "has no column ManufacturerModelName" in caplog.text
    assert "ZSpacing" in caplog.text
    assert "without a row in the metadata tables: 3 of 4 volumes: train_2_a_2" in caplog.text


METADATA = (
    "VolumeName,Manufacturer,XYSpacing\n"
    'train_2_a_1.nii.gz,Philips,"[0.7, 0.7]"\n'
    'train_10_a_1.nii.gz,Siemens,"[0.8, 0.8]"\n'
)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (",", ";", ", line 1: has one column; separate the cells by commas, or fetch it"),
        ("VolumeName", "Volume", ", line 1: column 'VolumeName' is missing; rename 'Volume'"),
        (METADATA, "", ": is empty; fetch it again"),
        (METADATA, "VolumeName,Manufacturer\n", ": has no rows below its header; fetch it"),
        ('"[0.7, 0.7]"', "[0.7, 0.7]", ", line 2: has 4 cells and the header 3; put a cell that"),
        (",Siemens", "", ", line 3: has 2 cells and the header 3; add the missing ones"),
        ('"[0.7, 0.7]"', '"[0.7, 0.7]', ", line 2: a quote opens and is never closed; close it"),
        ('0.8]"', "0.8]", ", line 3: a quote opens and is never closed; close it"),
        ('"[0.7', 'a"[0.7', ", line 2: has 4 cells"),
        ('0.7]"', '0.7]"mm', ", line 2: text follows a closing quote"),
        ("XYSpacing", "Manufacturer", ", line 1: column 'Manufacturer' comes more than once"),
        (
            "train_10_a_1",
            "train_10_1",
            ", line 3, column 'VolumeName': 'train_10_1.nii.gz' is not a CT-RATE volume name",
        ),
        ("Philips", "Phi\0lips", ", line 2: has a NUL byte"),
    ],
)
def test_invalid_metadata_tables_are_refused(folder, old, new, expected):
    """Otherwise cells would move to other columns, or volumes would lose their rows."""
    table = folder.root / "dataset/metadata/train_metadata.csv"
    table.parent.mkdir()
    assert old in METADATA
    table.write_text(METADATA.replace(old, new))
    message = errors_of(folder)
    assert f"{table}{expected}" in message, message


@pytest.mark.skipif(not REAL_METADATA.exists(), reason="no real tables here")
def test_the_real_metadata_table_is_read(folder):
    table = folder.root / "dataset/metadata/validation_metadata.csv"
    table.parent.mkdir()
    shutil.copy(REAL_METADATA, table)
    known, errors = read_metadata_table(folder.root, "test")
    assert errors == []
    assert len(known) == 3039
    assert known.loc["valid_1_a_1", "PatientAge"] == "036Y"
    assert known.loc["valid_1_a_1", "series"].xy_spacing == "[0.341796875, 0.341796875]"


@pytest.mark.parametrize("present", [False, True])
def test_empty_or_missing_data_hints_at_how_to_get_some(tmp_path, present):
    root = tmp_path / "data"
    if present:
        (root / "dataset" / "train_fixed").mkdir(parents=True)
    with pytest.raises(InputError, match=r"(?s)holds no volumes.*make repro.*CT-RATE"):
        read_ct_rate(root)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("Emphysema", "Emphysemas", ("'Emphysema' is missing; rename 'Emphysemas'",)),
        (
            ",Emphysema",
            "",
            ("'Emphysema' is missing; add it", "line 2: has 19 cells and the header 18"),
        ),
        ("Emphysema", "Pneumothorax", ("'Pneumothorax' is unknown", "'Emphysema' is missing")),
        ("Emphysema,Atelectasis", "Atelectasis,Emphysema", ("another order", "'Emphysema'")),
        ("Emphysema", "Lung nodule", ("'Lung nodule' comes more than once", "'Emphysema' is m")),
        ("VolumeName", "Volume", ("'VolumeName' is missing",)),
        (
            "_1.nii.gz,0",
            "_1.nii.gz,2",
            ("line 2, column 'Medical material': '2' is neither 0 nor 1",),
        ),
        ("_1.nii.gz,0", "_1.nii.gz,nan", ("'nan' is neither 0 nor 1",)),
        ("_1.nii.gz,0", "_1.nii.gz,", ("'Medical material': is empty, neither 0 nor 1",)),
        (
            "train_10_a_1",
            "train_10_1",
            ("line 2, column 'VolumeName': 'train_10_1.nii.gz' is not a CT-RATE volume name",),
        ),
        (
            "train_10_a_1",
            "valid_10_a_1",
            ("'valid_10_a_1.nii.gz' is not in CT-RATE's train split",),
        ),
        ("train_10_a_1", "train_2_a_1", ("line 3: train_2_a_1 has labels in line 2 already",)),
        ("train_2_a_1.nii.gz,0", "train_2_a_1.nii.gz,1", ("scan train_2_a differ in Medical",)),
    ],
)
def test_an_invalid_table_is_refused_with_file_line_and_fix(folder, old, new, expected):
    edit(folder.table(), old, new)
    message = errors_of(folder)
    assert str(folder.table()) in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize("content", ["", "header"])
def test_an_empty_table_is_refused(folder, content):
    text = folder.table().read_text().splitlines()[0] + "\n" if content else ""
    folder.table().write_text(text)
    expected = "has no rows below its header" if content else "is empty"
    assert f"{folder.table()}: {expected}; fetch it again" in errors_of(folder)


def test_a_table_of_another_kind_is_refused(folder):
    text = folder.table().read_text()
    folder.table().write_text(text.replace(",", ";"))
    assert "line 1: has one column; separate the cells by commas" in errors_of(folder)
    folder.table().write_text("name,path\ntrain_2_a_1,x\n")
    assert "'Emphysema' is missing; add it" in errors_of(folder)


def test_a_missing_or_binary_table_is_refused(folder):
    folder.table("valid").unlink()
    folder.table().write_bytes(b"\x1f\x8b\xff\x00")
    message = errors_of(folder)
    assert f"{folder.table('valid')}: is missing, and needed for 1 test volume;" in message
    assert f"{folder.table()}: is compressed by gzip; decompress it" in message


def test_all_errors_are_listed_at_once_and_long_lists_are_truncated(folder):
    for patient in range(20, 30):
        folder.add_file(f"train_{patient}_a_1")
    folder.add_file("train_2_a_1", version="", suffix=".nii")
    (folder.root / "dataset/train_fixed/lung scan.nii.gz").touch()
    (folder.root / "dataset/train_fixed/valid_9_a_1.nii.gz").touch()
    edit(folder.table("valid"), ",1", ",yes")
    message = errors_of(folder)
    assert "train_20_a_1: is a volume without labels" in message
    assert "... and 5 more" in message
    assert "train_29_a_1" not in message
    assert "are the same volume; remove one" in message
    assert "'lung scan.nii.gz' is not a CT-RATE volume name" in message
    assert "valid_9_a_1.nii.gz: is not in CT-RATE's train split" in message
    assert "'yes' is neither 0 nor 1" in message


def test_the_same_volume_packed_and_unpacked_is_refused(folder):
    folder.add_file("train_2_a_1", suffix=".nii")
    assert "train_2_a_1.nii and" in errors_of(folder)


def test_labels_without_volumes_are_refused_with_a_command_that_fixes_it(folder, monkeypatch):
    monkeypatch.chdir(folder.root.parent)
    folder.root = Path("data")
    for patient in range(30, 40):
        folder.label(f"train_{patient}_a_1")
    folder.write_tables()
    volume = next(folder.root.rglob("train_2_a_1.nii.gz"))
    volume.rename(placeholder_path(volume))
    message = errors_of(folder)
    assert "10 rows have no volume (train_30_a_1" in message
    command = next(line for line in message.splitlines() if "grep" in line)
    subprocess.run(command, shell=True, check=True)
    assert len(read_ct_rate(folder.root).volumes) == 4


@pytest.mark.parametrize(
    ("prefix", "use"),
    [("train", "nothing to train on"), ("valid", "nothing to score the model on")],
)
def test_a_split_without_any_volume_is_an_error_before_training(folder, prefix, use):
    for path in folder.root.glob(f"dataset/{prefix}_fixed/*/*/*.nii.gz"):
        path.unlink()
    message = errors_of(folder)
    assert "have no volume" in message or "has no volume" in message
    assert use in message
    folder.table(prefix).unlink()
    message = errors_of(folder)
    assert use in message
    assert f"name them {prefix}_1_a_1.nii.gz" in message


def test_a_receipt_next_to_its_volume_is_ignored(folder):
    volume = next(folder.root.rglob("train_2_a_1.nii.gz"))
    placeholder_path(volume).write_text("{}")
    volumes = read_ct_rate(folder.root).volumes.set_index("name")
    assert volumes.loc["train_2_a_1", "path"] == str(volume)


def test_lists_that_exclude_everything_are_refused(folder):
    for split in ("train", "valid"):
        names = [path.name for path in folder.root.rglob(f"{split}_*.nii.gz")]
        (folder.root / f"dataset/no_chest_{split}.txt").write_text("\n".join(names))
    assert "no_chest_*.txt leave out every volume; shorten them" in errors_of(folder)


def test_excluding_a_whole_split_is_refused(folder):
    (folder.root / "dataset/no_chest_valid.txt").write_text("valid_2_b_1.nii.gz\n")
    assert "nothing to score the model on" in errors_of(folder)


def test_a_table_of_many_unknown_columns_is_refused_quickly(folder):
    """Similar names are searched among a few candidates only."""
    folder.table().write_text(",".join(f"column {i}" for i in range(9_000)) + "\n1\n")
    start = time.process_time()
    message = errors_of(folder)
    assert time.process_time() - start < 3
    assert "'VolumeName' is missing; add it" in message
    assert "... and 8995 more like it" in message
