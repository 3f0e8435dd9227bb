import csv
import gzip
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from chest_phantom.acquisition import archive, plan_acquisition, volume_path
from chest_phantom.cohort import plan_cohort
from chest_phantom.generate import make_sample
from chest_phantom.metadata_tables import METADATA_COLUMNS
from chest_phantom.rasterize import draw_scan
from chest_phantom.settings import DEFAULT_PATIENTS, PhantomError, Settings
from multi_abnormality.config.findings import FINDINGS

SETTINGS = Settings(patients=9, seed=7, size=64, slices=24)


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "data"
    make_sample(out, SETTINGS, workers=1)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(sample, tmp_path):
    make_sample(tmp_path / "again", SETTINGS, workers=2)
    assert digests(tmp_path / "again") == digests(sample)
    assert not (tmp_path / "again.part").exists()


def test_another_seed_gives_other_scans(sample, tmp_path):
    make_sample(tmp_path / "other", Settings(patients=2, seed=8, size=64, slices=24), workers=1)
    scans = [
        {digest for name, digest in digests(folder).items() if name.endswith(".nii.gz")}
        for folder in (tmp_path / "other", sample)
    ]
    assert not scans[0] & scans[1]


def test_an_interrupted_run_resumes(sample, tmp_path, caplog):
    out = tmp_path / "data"
    make_sample(out, SETTINGS, workers=1)
    part = out.rename(tmp_path / "data.part")
    lost = sorted(part.rglob("*.nii.gz"))[3]
    lost.rename(lost.with_name(f".{lost.name}.tmp"))  # killed before the rename
    note = _settings_note(tmp_path)
    (part / "settings.json").write_text(note)
    kept = sorted(part.rglob("*.nii.gz"))[0]
    before = kept.stat().st_mtime_ns
    with caplog.at_level("INFO"):
        make_sample(out, SETTINGS, workers=1)
    count = len(list(out.rglob("*.nii.gz")))
    assert caplog.messages[-1] == f"{out}: {count} volumes of {SETTINGS.patients} patients"
    assert (out / kept.relative_to(part)).stat().st_mtime_ns == before
    assert digests(out) == digests(sample)


def _settings_note(folder: Path) -> str:
    """Settings file of a run with SETTINGS that was stopped at its first volume."""
    out = folder / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chest_phantom.generate._draw_volume", _stop)
        with pytest.raises(KeyboardInterrupt):
            make_sample(out, SETTINGS, workers=1)
    assert not out.exists()
    return (folder / "stopped.part" / "settings.json").read_text()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_headers_lead_back_to_the_drawn_voxels(sample):
    codes = set()
    for scan in plan_cohort(SETTINGS.patients, SETTINGS.seed):
        acquisition = plan_acquisition(scan, 1)
        if acquisition.release == "v1":
            continue
        image = nib.load(sample / volume_path(scan, 1))
        codes.add("".join(nib.aff2axcodes(image.affine)))
        assert image.get_data_dtype() == np.int16
        assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
        assert image.header.get_xyzt_units()[0] == "mm"
        volume, protocol = draw_scan(scan, 1, SETTINGS.size, SETTINGS.slices)
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("SPL")
        )
        turned = image.as_reoriented(turn)
        assert np.array_equal(np.asarray(turned.dataobj), archive(volume, acquisition))
        assert np.allclose(turned.header.get_zooms(), protocol.spacing, atol=1e-4)
        middle = turned.affine @ [*((np.array(volume.shape) - 1) / 2), 1]
        z, y, x = protocol.centre
        assert np.allclose(middle[:3], [-x, -y, z], atol=1e-2)
    assert len(codes) > 2


def test_volumes_of_the_first_release_are_raw_under_a_blank_header(sample):
    scans = [
        scan
        for scan in plan_cohort(SETTINGS.patients, SETTINGS.seed)
        if plan_acquisition(scan, 1).release == "v1"
    ]
    rows = {row["VolumeName"]: row for row in table(sample / "dataset/metadata/train_metadata.csv")}
    assert scans
    for scan in scans:
        image = nib.load(sample / volume_path(scan, 1))
        assert (image.header["sform_code"], image.header["qform_code"]) == (0, 0)
        assert image.header.get_zooms() == (1, 1, 1)
        raw = np.asarray(image.dataobj).astype(int)
        hu = raw + int(rows[scan.volume_name(1)]["RescaleIntercept"])
        drawn, _ = draw_scan(scan, 1, SETTINGS.size, SETTINGS.slices)
        inside = hu > -8192
        assert np.array_equal(hu[inside], drawn.transpose(2, 1, 0)[inside])


def test_the_default_sample_has_every_fault_of_the_real_set():
    volumes = [
        (scan.split, plan_acquisition(scan, number))
        for scan in plan_cohort(DEFAULT_PATIENTS, 0)
        for number in range(1, scan.reconstructions + 1)
    ]
    for split in ("train", "valid"):
        acquisitions = [acquisition for where, acquisition in volumes if where == split]
        assert {acquisition.release for acquisition in acquisitions} == {"v1", "v2"}
        assert len({acquisition.scanner.manufacturer for acquisition in acquisitions}) == 3
        assert any(acquisition.feet_first for acquisition in acquisitions)
        assert any(acquisition.spacing_lost for acquisition in acquisitions)
        assert any(not acquisition.chest for acquisition in acquisitions)
        assert any(
            acquisition.scanner.pads and acquisition.release == "v2" for acquisition in acquisitions
        )


def test_files_carry_no_clock_and_no_name(sample):
    for path in sample.rglob("*.nii.gz"):
        head = path.read_bytes()[:8]
        assert head[3] == 0  # no name, no comment
        assert head[4:8] == b"\0\0\0\0"
        assert len(gzip.decompress(path.read_bytes())) > 352


def test_the_tables_match_the_files(sample):
    for split, metadata_name in (("train", "train"), ("valid", "validation")):
        files = {path.name for path in sample.glob(f"dataset/{split}*/*/*/*.nii.gz")}
        folder = sample / "dataset"
        labels = table(folder / f"multi_abnormality_labels/{split}_predicted_labels.csv")
        assert tuple(labels[0]) == ("VolumeName", *FINDINGS)
        assert [row["VolumeName"] for row in labels] == sorted(
            files, key=lambda name: [int(part) if part.isdigit() else part for part in
                                     name.removesuffix(".nii.gz").split("_")]
        )  # fmt: skip
        assert {row[finding] for row in labels for finding in FINDINGS} <= {"0", "1"}
        metadata = table(folder / f"metadata/{metadata_name}_metadata.csv")
        assert tuple(metadata[0]) == METADATA_COLUMNS
        assert {row["VolumeName"] for row in metadata} == files
        for row in metadata:
            path = next(sample.rglob(row["VolumeName"]))
            assert row["PatientPosition"] == ("FFS" if "_7_" in row["VolumeName"] else "HFS")
            if "_fixed" not in str(path):
                continue
            zooms = sorted(nib.load(path).header.get_zooms())
            pixel = float(row["XYSpacing"].strip("[]").split(",")[0])
            assert np.allclose(zooms, [pixel, pixel, float(row["ZSpacing"])], atol=1e-4)


def test_the_metadata_header_is_the_official_one():
    official = Path(__file__).parents[2] / "../shared/ct-rate/validation_metadata.csv"
    if not official.exists():
        pytest.skip("the official tables are not here")
    with official.open() as lines:
        assert tuple(lines.readline().strip().split(",")) == METADATA_COLUMNS


def test_other_data_is_never_touched(tmp_path):
    mine = tmp_path / "data" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(PhantomError, match=r"data: exists already"):
        make_sample(tmp_path / "data", SETTINGS, workers=1)
    assert mine.read_text() == "mine"
    (tmp_path / "new.part").mkdir()
    with pytest.raises(PhantomError, match=r"new\.part: holds an unfinished sample"):
        make_sample(tmp_path / "new", SETTINGS, workers=1)
