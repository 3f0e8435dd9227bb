import hashlib
import io
import json
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zstandard

from folders import contents
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import PreprocessSpec
from multi_abnormality.data.catalog.catalog import GROUPS, Catalog
from multi_abnormality.data.catalog.ct_rate import ct_rate_layout
from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.data.io.read import Volume
from multi_abnormality.data.storage.dataset_writer import DatasetWriter, write_part
from multi_abnormality.data.storage.processed_dataset import (
    ProcessedDataset,
    read_labels,
    read_manifest,
)
from multi_abnormality.data.storage.shards import (
    Provenance,
    ShardEntry,
    decode,
    encode,
    pack,
    read_shard,
    shard_path,
)
from multi_abnormality.utils.errors import InputError

SHAPE = (5, 8, 8)
NAMES = ("train_2_a_1", "train_2_a_2", "train_10_a_1", "train_11_a_1", "valid_2_a_1")


@pytest.fixture
def recipe() -> PreprocessSpec:
    codes = ((-1024, 0), (1024, 255))
    return PreprocessSpec(spacing=(2.0, 1.0, 1.0), shape=SHAPE, hu_to_uint8=codes)


def voxels(name: str) -> np.ndarray:
    seed = int.from_bytes(name.encode(), "little")
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


def catalogue_of(names, excluded=()) -> Catalog:
    parsed = sorted(VolumeName.parse(name) for name in names)
    rows = [
        [str(name), name.split, name.patient_id, name.scan_id, *np.arange(18) % 2, *"ABCDE"]
        for name in parsed
    ]
    columns = ["name", "split", "patient_id", "scan_id", *FINDINGS, *GROUPS]
    volumes = pd.DataFrame(rows, columns=columns)
    return Catalog(volumes, FINDINGS, tuple(excluded), ct_rate_layout(Path("data")))


def store(root: Path, recipe: PreprocessSpec, names=NAMES, excluded=()) -> None:
    writer = DatasetWriter(root, recipe)
    shards = {}
    for name in names:
        if name not in writer.origins:
            volume = volume_of(name)
            writer.add(name, write_part(root, name, f"hash of {name}", volume, voxels(name)))
        shards.setdefault(shard_path(name), []).append(name)
    for members in shards.values():
        writer.assemble(members)
    writer.finish(catalogue_of(names, excluded), {"train_3_a_1": "not HU"})


def volume_of(name: str) -> Volume:
    sizes = (2.5, 0.7, 0.7), (8, 8, 5), (0.7, 0.7, 2.5)
    return Volume(voxels(name), *sizes, "LPS", "v2", ("padding",), affine=np.eye(4))


@pytest.fixture
def processed(tmp_path, recipe) -> Path:
    store(tmp_path / "processed", recipe)
    return tmp_path / "processed"


@pytest.mark.parametrize("shape", [(5, 8, 8), (1, 3, 2), (112, 30, 20)])
def test_compression_is_reversible(shape):
    codes = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    restored = decode(encode(codes), shape)
    np.testing.assert_array_equal(restored, codes)
    restored[0, 0, 0] ^= 1  # an array of its own: torch warns about others


def test_a_shard_holds_ten_patients():
    shards = {name: shard_path(name) for name in NAMES}
    assert shards["train_10_a_1"] == "train/train_00001-00010.zip"
    assert shards["train_11_a_1"] == "train/train_00011-00020.zip"
    assert shards["valid_2_a_1"] == "valid/valid_00001-00010.zip"


def test_a_shard_of_other_names_follows_from_the_name_alone():
    assert shard_path("Aufnahme 7") == "scans/12.zip"
    assert shard_path("a/b/c") == f"scans/{hashlib.sha256(b'a/b/c').hexdigest()[:2]}.zip"


def test_stored_volumes_are_read_back(processed, recipe):
    stored = ProcessedDataset(processed)
    assert stored.names == list(NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(stored.read(name), voxels(name))
    assert stored.recipe == recipe.model_dump(mode="json")
    assert stored.labels_of(["valid_2_a_1", "train_2_a_1"]).tolist() == [[0, 1] * 9] * 2
    row = stored.manifest.set_index("name").loc["train_10_a_1"]
    assert row["source_shape"] == "8 8 5"
    assert row["source_spacing"] == "0.7 0.7 2.5"
    assert row["source_sha256"] == "hash of train_10_a_1"
    assert row["voxels_sha256"] == hashlib.sha256(voxels("train_10_a_1").tobytes()).hexdigest()
    assert row["ConvolutionKernel"] == "C"
    volumes = stored.volumes("test")
    assert volumes["name"].tolist() == ["valid_2_a_1"]
    assert {"patient_id", *FINDINGS} <= set(volumes.columns)


def test_the_folder_holds_no_more_than_it_should(processed):
    assert list(contents(processed)) == [
        "labels.csv",
        "manifest.csv",
        "recipe.json",
        "train/train_00001-00010.zip",
        "train/train_00011-00020.zip",
        "valid/valid_00001-00010.zip",
    ]


def test_the_bytes_depend_on_the_volumes_alone(tmp_path, recipe, processed):
    store(tmp_path / "backwards", recipe, NAMES[::-1])
    assert contents(tmp_path / "backwards") == contents(processed)
    store(tmp_path / "grown", recipe, ["train_10_a_1", "train_55_a_1"])
    store(tmp_path / "grown", recipe)
    assert contents(tmp_path / "grown") == contents(processed)


def test_a_shard_has_the_same_bytes_under_every_python():
    origin = Provenance("source", "8 8 5", "0.7 0.7 2.5", "LPS", "v2", "", "padding", "voxels")
    shard = pack(
        {name: ShardEntry(origin, name.encode()) for name in ("train_10_a_1", "train_2_a_1")}
    )
    assert hashlib.sha256(shard).hexdigest() == (
        "98c6bf315f861165268e75dc96c1c7db9049f9dc30520f64f80d1567a02578ce"
    )


def test_volumes_left_out_are_in_the_manifest_and_nowhere_else(tmp_path, recipe):
    store(tmp_path, recipe, excluded=["train_4_a_1"])
    manifest = (tmp_path / "manifest.csv").read_text()
    assert "train_3_a_1,rejected,not HU" in manifest
    assert "train_4_a_1,excluded,no chest" in manifest
    assert ProcessedDataset(tmp_path).names == list(NAMES)


def test_another_recipe_empties_the_folder(processed, recipe):
    other = recipe.model_copy(update={"spacing": (3.0, 1.0, 1.0)})
    assert DatasetWriter(processed, recipe).origins.keys() == set(NAMES)
    assert DatasetWriter(processed, other).origins == {}
    assert list(contents(processed)) == ["recipe.json"]


def test_other_preprocessing_code_empties_the_folder(processed, recipe):
    about = processed / "recipe.json"
    about.write_text(about.read_text().replace('"code": "', '"code": "0'))
    assert DatasetWriter(processed, recipe).origins == {}


def test_content_hash_follows_voxels_and_labels_but_not_the_source(tmp_path, processed, recipe):
    before = ProcessedDataset(processed).content_hash("train")
    manifest, labels = processed / "manifest.csv", processed / "labels.csv"
    manifest.write_text(manifest.read_text().replace("hash of train_2_a_1", "another"))
    assert ProcessedDataset(processed).content_hash("train") == before
    labels.write_text(labels.read_text().replace("train_2_a_1,0", "train_2_a_1,1"))
    changed = ProcessedDataset(processed).content_hash("train")
    assert changed != before
    store(tmp_path / "fewer", recipe, NAMES[1:])
    assert ProcessedDataset(tmp_path / "fewer").content_hash("train") not in (before, changed)


def test_it_can_be_pickled_to_worker_processes(processed):
    copy = pickle.loads(pickle.dumps(ProcessedDataset(processed)))
    np.testing.assert_array_equal(copy.read("train_2_a_2"), voxels("train_2_a_2"))


@pytest.mark.parametrize(
    "missing", ["manifest.csv", "labels.csv", "recipe.json", "train/train_00011-00020.zip", None]
)
def test_a_missing_or_unfinished_set_hints_at_how_to_get_it(processed, missing):
    root = processed / missing if missing else processed / "nowhere"
    if missing:
        root.unlink()
    with pytest.raises(InputError, match=r"(?s)missing.*dvc pull.*dvc repro preprocess"):
        ProcessedDataset(processed if missing else root)


@pytest.mark.parametrize("content", ["", "{", "{}", "x,y\n1,2\n", "[1]", '{"format": 3}'])
@pytest.mark.parametrize("name", ["manifest.csv", "labels.csv", "recipe.json"])
def test_damaged_tables_are_refused(processed, name, content):
    (processed / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}.*; delete it, then run `dvc pull preprocess`"):
        ProcessedDataset(processed)


@pytest.mark.parametrize(
    "shape", ["[5, 8]", "[5, 8, 0]", "[100000, 100000, 100000]", '"a"', "[NaN]"]
)
def test_a_recipe_of_no_possible_shape_is_refused(processed, shape):
    recipe = json.loads((processed / "recipe.json").read_text())
    recipe["preprocess"]["shape"] = json.loads(shape)
    (processed / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(InputError, match=r"recipe.json: is damaged .*; delete it, then run `dvc"):
        ProcessedDataset(processed)


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("labels.csv", "_1,0,1", "_1,0,2", "line 2, column 'Arterial wall calcification': '2' is"),
        ("labels.csv", "_1,0,1", "_1,nan,1", "line 2, column 'Medical material': 'nan' is nei"),
        ("labels.csv", "_1,0,1", "_1,no,1", "line 2, column 'Medical material': 'no' is neither"),
        ("labels.csv", "_1,0,1", "_1,1", "line 2: has 18 cells and the header 19"),
        ("labels.csv", "_1,0,1", "_1,0,1,1", "line 2: has 20 cells and the header 19"),
        ("labels.csv", "_1,0,1", '_1,"0,1', "line 2: a quote opens and is never closed"),
        ("labels.csv", "2_a_2", "2_a_1", "line 3: train_2_a_1 is in line 2 already"),
        ("labels.csv", "Emphysema", "Atelectasis", "line 1: is damaged: has a column more than"),
        ("manifest.csv", "2_a_2", "2_a_1", "line 3: train_2_a_1 is in line 2 already"),
        ("manifest.csv", ",status", ",state", "line 1: is damaged: has no column status"),
        (
            "manifest.csv",
            "voxels_sha256",
            "hash",
            "line 1: is damaged: has no column voxels",
        ),
        ("manifest.csv", "stored", "kept", "line 2, column 'status': 'kept' is not stored or"),
        ("manifest.csv", "train_2_a_1", "other", "line 2, column 'name': 'other' is not a CT-RATE"),
    ],
)
def test_wrong_cells_and_rows_are_named(processed, name, old, new, expected):
    """Otherwise a model would be trained on NaN or 2, or on another volume's labels."""
    table = processed / name
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        ProcessedDataset(processed)
    assert f"{table}, {expected}" in str(caught.value)
    assert "delete it, then run `dvc pull preprocess` or `dvc repro preprocess`" in str(
        caught.value
    )


@pytest.mark.parametrize("read", [read_labels, read_manifest])
def test_tables_of_a_revision_are_read_like_files(processed, read):
    name = "labels.csv" if read is read_labels else "manifest.csv"
    content = (processed / name).read_bytes()
    pd.testing.assert_frame_equal(read(io.BytesIO(content)), read(processed / name))
    with pytest.raises(InputError, match=f"^v1: {name}: is empty"):
        read(io.BytesIO(b""), f"v1: {name}")


def test_tables_that_do_not_fit_are_refused(processed):
    labels = processed / "labels.csv"
    labels.write_text("\n".join(labels.read_text().splitlines()[:-1]))
    with pytest.raises(
        InputError, match=r"labels.csv: does not fit manifest.csv, which has valid_2_a_1 where it"
    ):
        ProcessedDataset(processed)


def peak_memory(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("has_size", [True, False])
@pytest.mark.parametrize("size", [200_000_000, 321, 319, 0])
def test_what_unpacks_to_another_size_is_refused_before_memory_is_taken(size, has_size):
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=has_size)
    content = compressor.compress(bytes(size))

    def refuse() -> None:
        with pytest.raises((ValueError, zstandard.ZstdError)):
            decode(content, SHAPE)

    assert peak_memory(refuse) < 1_000_000


def test_a_frame_of_unknown_size_is_read():
    content = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(320))
    np.testing.assert_array_equal(decode(content, SHAPE), np.zeros(SHAPE))
    with pytest.raises(zstandard.ZstdError):
        decode(content * 2, SHAPE)


def test_a_member_that_claims_more_than_the_file_takes_no_memory(processed):
    """The sizes in a ZIP's directory may be damaged too."""
    shard = processed / "train/train_00011-00020.zip"
    content = bytearray(shard.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 20 : directory + 24] = (2_000_000_000).to_bytes(4, "little")
    shard.write_bytes(bytes(content))
    stored = ProcessedDataset(processed)

    def refuse() -> None:
        with pytest.raises(InputError, match="ends beyond the end of the file"):
            stored.read("train_11_a_1")

    assert peak_memory(refuse) < 1_000_000


def test_a_compressed_member_is_never_unpacked(tmp_path):
    shard = tmp_path / "train_00001-00010.zip"
    with zipfile.ZipFile(shard, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_1_a_1.zst", bytes(50_000_000))
    assert peak_memory(lambda: read_shard(shard)) < 1_000_000
    assert read_shard(shard) == ({}, False)


def damage(shard: Path, how: str) -> None:
    content = bytearray(shard.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "flipped":
        content[content.index(b"train_2_a_2.zst") + 60] ^= 1
    elif how == "replaced":
        content = b"version https://git-lfs.github.com/spec/v1\n"
    shard.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["truncated", "flipped", "replaced"])
def test_a_damaged_shard_is_named_and_can_be_made_again(processed, recipe, how):
    whole = contents(processed)
    shard = processed / "train/train_00001-00010.zip"
    damage(shard, how)
    with pytest.raises(InputError) as caught:
        ProcessedDataset(processed).read("train_2_a_2")
    for part in (str(shard), "train_2_a_2", "delete it", "dvc pull", "dvc repro"):
        assert part in str(caught.value)
    store(processed, recipe)
    assert contents(processed) == whole


@pytest.mark.slow
def test_every_flipped_bit_is_an_input_error_or_harmless(processed):
    """A shard's own checksums cover the voxels; the rest must not end in a traceback."""
    shard = processed / "train/train_00011-00020.zip"
    whole = shard.read_bytes()
    stored = ProcessedDataset(processed)
    for offset in range(len(whole)):
        for bit in (1, 128):
            shard.write_bytes(whole[:offset] + bytes([whole[offset] ^ bit]) + whole[offset + 1 :])
            try:
                np.testing.assert_array_equal(stored.read("train_11_a_1"), voxels("train_11_a_1"))
            except InputError:
                continue


def test_a_removed_volume_and_its_empty_shard_are_deleted(tmp_path, processed, recipe):
    left = [name for name in NAMES if name not in ("train_2_a_1", "train_11_a_1", "valid_2_a_1")]
    store(processed, recipe, left)
    store(tmp_path / "fresh", recipe, left)
    assert contents(processed) == contents(tmp_path / "fresh")
    assert not (processed / "valid").exists()


def test_a_part_that_was_cut_short_is_done_again(tmp_path, processed, recipe):
    root = tmp_path / "killed"
    writer = DatasetWriter(root, recipe)
    volume = volume_of("train_2_a_1")
    for name in ("train_2_a_1", "train_2_a_2"):
        write_part(root, name, f"hash of {name}", volume, voxels(name))
    part = root / ".parts" / "train_2_a_1.zip"
    part.write_bytes(part.read_bytes()[:-30])
    (root / ".parts" / ".train_10_a_1.zip.tmp").write_bytes(b"half")
    (root / "train").mkdir()
    (root / "train" / ".train_00001-00010.zip.tmp").write_bytes(b"half")
    del writer
    assert DatasetWriter(root, recipe).origins.keys() == {"train_2_a_2"}
    store(root, recipe)
    assert contents(root) == contents(processed)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from multi_abnormality.data.storage.shards import read_shard
from multi_abnormality.data.storage.dataset_writer import write_part
from multi_abnormality.data.io.read import Volume

hu = np.zeros((4, 8, 8), np.int16)
volume = Volume(hu, (2, 1, 1), (8, 8, 4), (1, 1, 2), "LPS", affine=np.eye(4))
codes = np.random.default_rng(0).integers(0, 256, (400, 64, 64), dtype=np.uint8)
for _ in range(30):
    write_part(Path(sys.argv[1]), "train_1_a_1", "hash", volume, codes)
    assert read_shard(Path(sys.argv[1]) / ".parts/train_1_a_1.zip")[1]
"""


def test_two_processes_may_write_the_same_volume(tmp_path):
    """A worker presumed lost may still run while another repeats its task."""
    command = [sys.executable, "-c", WRITER, tmp_path]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], messages
    assert [path.name for path in (tmp_path / ".parts").iterdir()] == ["train_1_a_1.zip"]


def test_ct_rates_labels_are_never_missing(processed: Path):
    table = processed / "labels.csv"
    table.write_text(table.read_text().replace("_1,0,1", "_1,,1", 1))
    with pytest.raises(InputError, match="damaged: column 'Medical material' has empty cells"):
        ProcessedDataset(processed)
