"""Reading DICOM series, and the reasons why invalid ones are refused."""

import contextlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

import compressed_frames as frames
from dicom_files import (
    chest,
    ct_slice,
    set_values,
    transcode,
    write_enhanced,
    write_other,
    write_series,
)
from multi_abnormality.data.io import dicom_decoder
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.scan_sources import resolve_scan
from multi_abnormality.utils.errors import UnusableScan

REAL_CT = Path(__file__).resolve().parents[4] / "shared/real-ct"
needs_real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real scans beside the project")

HU = chest()
EXPECTED = HU  # rows go to the back, columns to the left, slices to the head: as they are stored
IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSLESS, JPEG_LS, JPEG_2000 = (f"1.2.840.10008.1.2.4.{number}" for number in (70, 80, 90))
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
HTJ2K = [f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)]


def check(path: Path, notes: tuple[str, ...] = ()) -> None:
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.hu, EXPECTED)
    assert volume.hu.dtype == np.int16
    np.testing.assert_allclose(volume.spacing, (4, 3, 2), rtol=1e-9)
    assert volume.notes == notes


def fault_of(path: Path, named: Path | None = None) -> str:
    with pytest.raises(UnusableScan) as caught:
        read_volume(path)
    assert str(named or path) in str(caught.value)
    return str(caught.value)


def left_out_of(path: Path) -> tuple[str, ...]:
    series = resolve_scan(path).series
    assert series is not None
    return series.left_out


def test_reads_a_series(tmp_path: Path) -> None:
    check(write_series(tmp_path / "a", HU))


def test_names_and_instance_numbers_do_not_order_slices(tmp_path: Path) -> None:
    def edit(data: Dataset, _: int) -> None:
        data.InstanceNumber = 5

    check(write_series(tmp_path, HU, edit, name=lambda index: f"{99 - index}"))


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_reads_uncompressed_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.file_meta.TransferSyntaxUID = syntax
        set_values(data, HU[index] + 1024, ">i2" if syntax == BIG_ENDIAN else "<i2")

    check(write_series(tmp_path, HU, edit))


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_LS, JPEG_2000, RLE])
@pytest.mark.parametrize("signed", [False, True])
def test_reads_compressed_transfer_syntaxes(tmp_path: Path, syntax: str, signed: bool) -> None:
    def edit(data: Dataset, index: int) -> None:
        if signed:
            data.RescaleIntercept = "0"
            set_values(data, HU[index])
        else:
            data.PixelRepresentation = 0

    write_series(tmp_path, HU, edit)
    for path in tmp_path.iterdir():
        transcode(path, syntax)

    check(tmp_path)


def with_frame(folder: Path, frame: bytes, syntax: str, signed: bool = True) -> Path:
    """A series of which one slice is compressed, as chest(size=16)[3] is in compressed_frames."""

    def edit(data: Dataset, index: int) -> None:
        if signed:
            data.RescaleIntercept = "0"
            set_values(data, chest(size=16)[index])
        data.PixelRepresentation = int(signed)
        if index == 3:
            data.file_meta.TransferSyntaxUID = syntax
            data.PixelData = encapsulate([frame])
            data["PixelData"].VR = "OB"

    return write_series(folder, chest(size=16), edit)


@pytest.mark.parametrize("syntax", HTJ2K)
@pytest.mark.parametrize("signed", [False, True])
def test_reads_high_throughput_jpeg_2000(tmp_path: Path, syntax: str, signed: bool) -> None:
    frame = frames.HTJ2K_SIGNED if signed else frames.HTJ2K_UNSIGNED
    volume = read_volume(with_frame(tmp_path, frame, syntax, signed))
    np.testing.assert_array_equal(volume.hu, chest(size=16))


@pytest.mark.parametrize(
    ("frame", "syntax", "error"),
    [(frames.HTJ2K_LOSSY, HTJ2K[2], 44), (frames.JPEG_12_BITS, JPEG_EXTENDED, 1)],
)
def test_reads_lossy_frames(tmp_path: Path, frame: bytes, syntax: str, error: int) -> None:
    """Including 12 bits, where air is at the lower end of the range."""
    volume = read_volume(with_frame(tmp_path, frame, syntax, signed=False))
    assert 0 < np.abs(volume.hu[3].astype(int) - chest(size=16)[3]).max() <= error


@pytest.mark.parametrize(
    ("frame", "syntax"), [(frames.HTJ2K_UNSIGNED, HTJ2K[0]), (frames.JPEG_12_BITS, JPEG_EXTENDED)]
)
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_refuses_half_a_frame(tmp_path: Path, frame: bytes, syntax: str, end: bytes) -> None:
    half = frame[: len(frame) // 4 * 2] + end
    message = fault_of(with_frame(tmp_path, half, syntax, signed=False), tmp_path / "003.dcm")
    assert "decode" in message or "truncated" in message


def test_refuses_lossy_jpeg_of_16_bits(tmp_path: Path) -> None:
    """GDCM writes such files; values that compression moves below 0 become 4095."""

    def edit(data: Dataset, _: int) -> None:
        data.PixelRepresentation, data.BitsStored, data.HighBit = 0, 12, 11

    write_series(tmp_path, HU, edit)
    for path in tmp_path.iterdir():
        transcode(path, JPEG_EXTENDED)
    assert "lossy JPEG data have 16 bits a value" in fault_of(tmp_path, tmp_path / "000.dcm")


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_LS, JPEG_2000, RLE])
@pytest.mark.parametrize("fault", ["half", "half with an end marker"])
def test_refuses_a_damaged_compressed_frame(tmp_path: Path, syntax: str, fault: str) -> None:
    write_series(tmp_path, HU)
    for path in tmp_path.iterdir():
        transcode(path, syntax)
    path = tmp_path / "007.dcm"
    data = dcmread(path)
    frame = next(generate_frames(data.PixelData, number_of_frames=1)).rstrip(b"\0")
    end = b"\xff\xd9" if fault == "half with an end marker" else b""
    data.PixelData = encapsulate([frame[: len(frame) // 4 * 2] + end])
    data.save_as(path)

    assert "decode" in fault_of(tmp_path, path) or "truncated" in fault_of(tmp_path, path)


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_2000])
def test_refuses_a_compressed_frame_of_another_size(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path, HU)
    for path in tmp_path.iterdir():
        transcode(path, syntax)
        data = dcmread(path)
        data.Rows = 200
        data.save_as(path)

    assert "have 32 rows" in fault_of(tmp_path, tmp_path / "000.dcm")


def test_refuses_a_truncated_slice(tmp_path: Path) -> None:
    write_series(tmp_path, HU)
    path = tmp_path / "011.dcm"
    path.write_bytes(path.read_bytes()[:-100])

    assert "truncated" in fault_of(tmp_path, path)


@pytest.mark.parametrize("size", [200, 600, 900])
def test_refuses_a_slice_that_ends_in_its_header(tmp_path: Path, size: int) -> None:
    write_series(tmp_path, HU)
    path = tmp_path / "011.dcm"
    path.write_bytes(path.read_bytes()[:size])

    assert "truncated" in fault_of(tmp_path, path)


def test_refuses_an_unknown_transfer_syntax_by_name(tmp_path: Path) -> None:
    def edit(data: Dataset, _: int) -> None:
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
        data.PixelData = encapsulate([b"\0" * 64])
        data["PixelData"].VR = "OB"

    assert "MPEG2" in fault_of(write_series(tmp_path, HU, edit), tmp_path / "000.dcm")


@pytest.mark.parametrize(
    ("stored", "high", "signed"), [(12, 11, 0), (12, 11, 1), (16, 15, 0), (12, 15, 0), (32, 31, 1)]
)
def test_reads_only_the_bits_of_the_value(
    tmp_path: Path, stored: int, high: int, signed: int
) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.BitsStored, data.HighBit, data.PixelRepresentation = stored, high, signed
        values = HU[index].astype(np.int64) + (0 if signed else 1024)
        data.RescaleIntercept = "0" if signed else "-1024"
        if stored == 32:
            data.BitsAllocated = 32
            set_values(data, values, "<i4")
            return
        bits = (values & ((1 << stored) - 1)) << (high + 1 - stored)
        if high < 15:
            bits |= 0xA000 * (index % 2)  # overlay planes in the bits above
        set_values(data, bits, "<u2")

    check(write_series(tmp_path, HU, edit))


def test_reads_8_bit_values(tmp_path: Path) -> None:
    coarse = HU // 16

    def edit(data: Dataset, index: int) -> None:
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        data.RescaleSlope = "16"
        set_values(data, coarse[index] + 64, "<u1")

    volume = read_volume(write_series(tmp_path, HU, edit))

    np.testing.assert_array_equal(volume.hu, coarse * 16)


@pytest.mark.parametrize("which", ["all", "one"])
def test_monochrome1_does_not_change_stored_values(tmp_path: Path, which: str) -> None:
    def edit(data: Dataset, index: int) -> None:
        if which == "all" or index == 3:
            data.PhotometricInterpretation = "MONOCHROME1"

    check(write_series(tmp_path, HU, edit))


def test_refuses_a_picture_in_colour(tmp_path: Path) -> None:
    def edit(data: Dataset, _: int) -> None:
        data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"

    assert "colour" in fault_of(write_series(tmp_path, HU, edit), tmp_path / "000.dcm")


@pytest.mark.parametrize(
    ("tag", "value", "signed", "stored"),
    [
        ("SS", -2000, 1, -2000),
        ("US", 63536, 1, -2000),  # the VR contradicts the sign
        ("US", 63536, 0, 63536),
        ("US", 4000, 0, 4000),
        ("US", 63536, 0, 63540),  # in the range
    ],
)
def test_padding_becomes_air(
    tmp_path: Path, tag: str, value: int, signed: int, stored: int
) -> None:
    def edit(data: Dataset, index: int) -> None:
        values = HU[index].astype(np.int64) + 1024
        values[:4] = stored
        data.PixelRepresentation = signed
        set_values(data, values & 0xFFFF, "<u2")
        data.add_new(0x00280120, tag, value)
        if stored != value and signed == 0:
            data.add_new(0x00280121, tag, 63600)

    volume = read_volume(write_series(tmp_path, HU, edit))

    expected = HU.copy()
    expected[:, :4] = -1024
    np.testing.assert_array_equal(volume.hu, expected)
    assert "padding" in volume.notes


def test_applies_a_modality_table(tmp_path: Path) -> None:
    def edit(data: Dataset, _: int) -> None:
        del data.RescaleSlope, data.RescaleIntercept
        item = Dataset()
        item.add_new(0x00283002, "US", [4096, 0, 16])
        item.ModalityLUTType = "HU"
        item.add_new(0x00283006, "OW", (np.arange(4096) - 1024).astype("<i2").tobytes())
        data.ModalityLUTSequence = Sequence([item])

    check(write_series(tmp_path, HU, edit))


@pytest.mark.parametrize("keyword", ["RescaleIntercept", "RescaleSlope"])
@pytest.mark.parametrize("slices", [(5,), tuple(range(12))])
def test_refuses_slices_without_a_rescale(
    tmp_path: Path, keyword: str, slices: tuple[int, ...]
) -> None:
    def edit(data: Dataset, index: int) -> None:
        if index in slices:
            delattr(data, keyword)

    path = write_series(tmp_path, HU, edit) / f"{slices[0]:03d}.dcm"

    assert f"no {keyword} (0028,105" in fault_of(tmp_path, path)


def test_refuses_rescales_that_disagree(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.RescaleIntercept = "-1000" if index == 4 else "-1024"

    message = fault_of(write_series(tmp_path, HU, edit), tmp_path / "004.dcm")

    assert "000.dcm" in message
    assert "-1000" in message


def test_values_without_any_rescale_must_be_hu(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        del data.RescaleSlope, data.RescaleIntercept
        if is_hu:
            set_values(data, HU[index])

    is_hu = True
    check(write_series(tmp_path / "hu", HU, edit))
    is_hu = False
    assert "HU" in fault_of(write_series(tmp_path / "raw", HU, edit))


@pytest.mark.parametrize(
    "keyword", ["PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"]
)
@pytest.mark.parametrize("fault", ["no", "an empty", "nan", "abc", "one number"])
def test_refuses_missing_geometry_by_its_tag(tmp_path: Path, keyword: str, fault: str) -> None:
    def edit(data: Dataset, _: int) -> None:
        if fault == "no":
            del data[keyword]
        elif fault == "an empty":
            data[keyword].value = None
        else:
            count = len(data[keyword].value)
            text = {"nan": ["nan"] * count, "abc": ["abc"] * count, "one number": ["1"]}[fault]
            data[keyword] = RawDataElement(
                data[keyword].tag, "DS", 0, "\\".join(text).encode(), 0, False, True
            )

    message = fault_of(write_series(tmp_path, HU, edit), tmp_path / "000.dcm")

    assert f"{keyword} (00" in message
    assert "damaged" not in message


@pytest.mark.parametrize("spacing", [[0, 0], [-1, 1], [0, 1]])
def test_refuses_an_impossible_spacing(tmp_path: Path, spacing: list[int]) -> None:
    def edit(data: Dataset, _: int) -> None:
        data.PixelSpacing = spacing

    assert "PixelSpacing (0028,0030)" in fault_of(write_series(tmp_path, HU, edit))


@pytest.mark.parametrize("orientation", [[1, 0.015, 0, 0, 1, 0], [0.99, 0, 0, 0, 1.01, 0]])
def test_takes_an_orientation_that_is_rounded(tmp_path: Path, orientation: list[float]) -> None:
    def edit(data: Dataset, _: int) -> None:
        data.ImageOrientationPatient = orientation

    check(write_series(tmp_path, HU, edit))


@pytest.mark.parametrize("orientation", [[1, 0.05, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0], [0] * 6])
def test_refuses_an_invalid_orientation(tmp_path: Path, orientation: list[float]) -> None:
    def edit(data: Dataset, _: int) -> None:
        data.ImageOrientationPatient = orientation

    message = fault_of(write_series(tmp_path, HU, edit), tmp_path / "000.dcm")
    assert "ImageOrientationPatient (0020,0037)" in message


@pytest.mark.parametrize(
    ("step", "decimals"), [(4.0, 4), (0.625, 1), (1.25, 1), (2.5, 0), (0.33, 1)]
)
def test_takes_positions_that_are_rounded(tmp_path: Path, step: float, decimals: int) -> None:
    hu = chest(40)

    def edit(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [0, 0, f"{step * index:.{decimals}f}"]

    volume = read_volume(write_series(tmp_path, hu, edit))

    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing[0] == pytest.approx(step, rel=0.01)


@pytest.mark.parametrize("decimals", [0, 1, 4])
def test_refuses_missing_slices(tmp_path: Path, decimals: int) -> None:
    def edit(data: Dataset, index: int) -> None:
        z = 2.0 * (index + (index > 5))
        data.ImagePositionPatient = [0, 0, f"{z:.{decimals}f}"]

    message = fault_of(write_series(tmp_path, HU, edit))

    assert "005.dcm and 006.dcm" in message
    assert "4.00 mm apart" in message


@pytest.mark.parametrize(("axis", "offset"), [(2, 1.0), (0, 2.0)])
def test_refuses_a_misplaced_slice(tmp_path: Path, axis: int, offset: float) -> None:
    def edit(data: Dataset, index: int) -> None:
        position = [0, 0, 4.0 * index]
        position[axis] += offset * (index == 6)
        data.ImagePositionPatient = position

    assert "006.dcm lies" in fault_of(write_series(tmp_path, HU, edit))


def test_slices_of_a_tilted_gantry_are_as_far_apart_as_their_planes(tmp_path: Path) -> None:
    angle = np.radians(15)

    def edit(data: Dataset, _: int) -> None:
        data.ImageOrientationPatient = [1, 0, 0, 0, f"{np.cos(angle):.6f}", f"{np.sin(angle):.6f}"]

    volume = read_volume(write_series(tmp_path, HU, edit))

    np.testing.assert_array_equal(volume.hu, HU)
    np.testing.assert_allclose(volume.spacing, (4 * np.cos(angle), 3, 2), rtol=1e-4)
    assert volume.notes == ("gantry tilt 15 degrees",)


def test_sagittal_slices_give_the_same_volume(tmp_path: Path) -> None:
    hu = chest(32, 32)

    def edit(data: Dataset, index: int) -> None:
        data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        data.ImagePositionPatient = [2.0 * index, 0, 4.0 * 31]
        data.PixelSpacing = [4, 3]
        set_values(data, hu[::-1, :, index].astype(np.int32) + 1024)

    volume = read_volume(write_series(tmp_path, hu, edit))

    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_allclose(volume.spacing, (4, 3, 2))


@pytest.mark.parametrize("first", [True, False])
def test_leaves_out_a_slice_of_another_orientation(tmp_path: Path, first: bool) -> None:
    write_series(tmp_path, HU)
    data = ct_slice(HU[0], 40)
    data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    name = "0 reference.dcm" if first else "zz.dcm"
    data.save_as(tmp_path / name, enforce_file_format=True)

    check(tmp_path)
    assert left_out_of(tmp_path) == (f"{name}: slice of another size, spacing or orientation",)


def test_leaves_out_a_localizer_in_the_series(tmp_path: Path) -> None:
    write_series(tmp_path, HU)
    data = ct_slice(HU[0][:20], 40)
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    data.save_as(tmp_path / "scout", enforce_file_format=True)

    check(tmp_path)
    assert left_out_of(tmp_path) == ("scout: localizer",)


def test_refuses_two_geometries(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.PixelSpacing = [3, 2] if index < 6 else [3, 2.5]

    assert "2 geometries" in fault_of(write_series(tmp_path, HU, edit))


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "PatientBirthDate"])
def test_refuses_two_patients(tmp_path: Path, keyword: str) -> None:
    def edit(data: Dataset, index: int) -> None:
        value = "2000010" if keyword == "PatientBirthDate" else "B"
        setattr(data, keyword, value + str(1 + (index > 7)))

    message = fault_of(write_series(tmp_path, HU, edit), tmp_path / "008.dcm")
    assert "two patients" in message
    assert keyword in message


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_refuses_two_acquisitions(tmp_path: Path, offset: float) -> None:
    write_series(tmp_path, HU, lambda data, _: setattr(data, "AcquisitionNumber", 1))

    def edit(data: Dataset, index: int) -> None:
        data.AcquisitionNumber = 2
        data.SOPInstanceUID += ".2"
        data.ImagePositionPatient = [0, 0, 4.0 * index + offset]

    write_series(tmp_path, HU[::-1], edit, name="b{:03d}.dcm".format)

    message = fault_of(tmp_path, tmp_path / "b000.dcm" if offset == 0 else None)
    assert "acquisitions" in message
    assert "AcquisitionNumber" in message


def test_takes_an_acquisition_number_a_rotation(tmp_path: Path) -> None:
    check(write_series(tmp_path, HU, lambda data, i: setattr(data, "AcquisitionNumber", i // 3)))


def test_leaves_out_files_without_images(tmp_path: Path) -> None:
    write_series(tmp_path, HU)
    write_other(tmp_path / "SR.dcm", "1.2.840.10008.5.1.4.1.1.88.67", "SR")
    write_other(tmp_path / "plan", "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "1.2.3")
    write_other(tmp_path / "dicomdir", "1.2.840.10008.1.3.10", "")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "zeros").write_bytes(bytes(500))
    (tmp_path / "notes.txt").write_text("no DICOM at all")
    (tmp_path / "7 copy.dcm").write_bytes((tmp_path / "007.dcm").read_bytes())
    (tmp_path / ".hidden.dcm").write_bytes(b"x")
    screen = ct_slice(HU[0], 50)
    screen.SOPClassUID = screen.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    del screen.ImagePositionPatient
    screen.save_as(tmp_path / "dose", enforce_file_format=True)
    os.mkfifo(tmp_path / "pipe")

    check(tmp_path)
    assert sorted(left_out_of(tmp_path)) == [
        "7 copy.dcm: copy of 007.dcm",
        "SR.dcm: X-Ray Radiation Dose SR, no image",
        "dicomdir: Media Storage Directory, no image",
        "dose: Secondary Capture Image, without a position",
        "empty.dcm: empty file",
        "notes.txt: no DICOM file",
        "pipe: not a regular file",
        "plan: RT Structure Set, no image",
        "zeros: no DICOM file",
    ]


@pytest.mark.parametrize("sop_class", ["1.3.46.670589.5.0.1", "1.2.3.4.5", ""])
def test_reads_unknown_sop_classes(tmp_path: Path, sop_class: str) -> None:
    def edit(data: Dataset, _: int) -> None:
        data.SOPClassUID = sop_class
        data.file_meta.MediaStorageSOPClassUID = sop_class or "1.2.3"

    check(write_series(tmp_path, HU, edit))


@pytest.mark.parametrize("distance", ["0", "-4", "17"])
def test_needs_no_spacing_between_slices(tmp_path: Path, distance: str) -> None:
    check(
        write_series(tmp_path, HU, lambda data, _: setattr(data, "SpacingBetweenSlices", distance))
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "MR"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"NumberOfFrames": "4"}, "multi-frame"),
        ({"RescaleType": "MGML"}, "MGML"),
        ({"BitsStored": 17}, "BitsStored 17"),
        ({"Rows": 60000, "Columns": 60000}, "limit"),
        ({"Rows": 31}, "bytes of voxels"),
    ],
)
def test_refuses_other_objects_than_ct_volumes(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    def edit(data: Dataset, _: int) -> None:
        for keyword, value in changes.items():
            setattr(data, keyword, value)

    assert reason in fault_of(write_series(tmp_path, HU, edit))


def test_refuses_two_slices(tmp_path: Path) -> None:
    assert "only 2 slices" in fault_of(write_series(tmp_path, HU[:2]))


def test_reads_an_enhanced_multi_frame_file(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "scan.dcm", HU)

    check(tmp_path)
    check(tmp_path / "scan.dcm")


def test_frames_of_an_enhanced_file_are_ordered_by_position(tmp_path: Path) -> None:
    def edit(data: Dataset, _: int) -> None:
        data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[::-1]
        set_values(data, HU[::-1].astype(np.int32) + 1024)

    write_enhanced(tmp_path / "scan", HU, edit)
    check(tmp_path)


def test_reads_a_compressed_enhanced_file(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "scan.dcm", HU)
    transcode(tmp_path / "scan.dcm", JPEG_LOSSLESS)

    check(tmp_path)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no position", "no ImagePositionPatient (0020,0032)"),
        ("no spacing", "no PixelSpacing (0028,0030)"),
        ("groups", "11 items"),
        ("frames", "truncated"),
    ],
)
def test_refuses_an_enhanced_file_that_lacks(tmp_path: Path, fault: str, reason: str) -> None:
    def edit(data: Dataset, _: int) -> None:
        frames = data.PerFrameFunctionalGroupsSequence
        if fault == "no position":
            del frames[3].PlanePositionSequence
        elif fault == "no spacing":
            del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        elif fault == "groups":
            data.PerFrameFunctionalGroupsSequence = frames[:11]
        else:
            data.PixelData = data.PixelData[: len(data.PixelData) // 2]

    write_enhanced(tmp_path / "scan.dcm", HU, edit)
    assert reason in fault_of(tmp_path, tmp_path / "scan.dcm")


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_a_zipped_series(tmp_path: Path, packed: int) -> None:
    check(zip_of(write_series(tmp_path / "a", HU), tmp_path / "a.zip", packed))


def test_reads_a_zipped_enhanced_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_enhanced(tmp_path / "a/scan.dcm", HU)

    check(zip_of(tmp_path / "a", tmp_path / "a.zip"))


def test_refuses_a_zip_that_is_damaged_nested_or_encrypted(tmp_path: Path) -> None:
    sound = zip_of(write_series(tmp_path / "a", HU), tmp_path / "a.zip", zipfile.ZIP_STORED)
    content = bytearray(sound.read_bytes())
    content[2500] ^= 4  # a voxel of the first slice
    (tmp_path / "flipped.zip").write_bytes(content)
    assert "damaged" in fault_of(tmp_path / "flipped.zip")
    (tmp_path / "cut.zip").write_bytes(content[:-200])
    assert "damaged .zip" in fault_of(tmp_path / "cut.zip")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/inner.zip").write_bytes(content)
    assert ".zip in a .zip" in fault_of(zip_of(tmp_path / "b", tmp_path / "b.zip"))
    content = bytearray(sound.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    assert "encrypted" in fault_of(tmp_path / "locked.zip")


def zip_of(folder: Path, path: Path, packed: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packed) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"export/{file.name}")
    return path


def test_a_crashing_decoder_affects_only_its_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "a", HU)
    for path in (tmp_path / "a").iterdir():
        transcode(path, JPEG_LOSSLESS)
    crash = tmp_path / "crash.py"
    crash.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(dicom_decoder, "__file__", str(crash))

    assert "exit code -11" in fault_of(tmp_path / "a")


@needs_real_ct
def test_reads_a_real_series() -> None:
    volume = read_volume(REAL_CT / "dicom_abdomen_TotalSegmentator_J2K")

    reference = sitk_volume(REAL_CT / "dicom_abdomen_TotalSegmentator_J2K")
    np.testing.assert_array_equal(volume.hu, reference.clip(-1024))
    np.testing.assert_allclose(volume.spacing, (2, 0.9765625, 0.9765625))


def sitk_volume(folder: Path) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    files = [str(path) for path in sorted(folder.iterdir())]
    files.sort(key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    reader.SetFileNames(files)
    return sitk.GetArrayFromImage(reader.Execute())


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_refused_or_read_without_a_traceback(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    write_series(tmp_path, HU)
    if seed % 2:
        for path in tmp_path.iterdir():
            transcode(path, [JPEG_LOSSLESS, JPEG_2000][seed // 2])
    for path in sorted(tmp_path.iterdir()):
        original = path.read_bytes()
        content = bytearray(original)
        for _ in range(3):
            content[generator.integers(128, min(1200, len(content)))] = generator.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(UnusableScan):
            volume = read_volume(tmp_path)
            assert volume.hu.size <= HU.size
        path.write_bytes(original)


def test_two_acquisitions_that_number_their_images_alike_are_refused(tmp_path: Path) -> None:
    folder = write_series(
        tmp_path, chest(24), lambda data, k: setattr(data, "InstanceNumber", k // 2 + 1)
    )
    with pytest.raises(UnusableScan, match=r"slices of different acquisitions"):
        read_volume(folder)


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_acquisition_number_is_not_a_second_acquisition(
    tmp_path: Path, value: str | None
) -> None:
    def edit(data: Dataset, index: int) -> None:
        if index not in (3, 7):
            data.AcquisitionNumber = 1
        elif value is not None:
            data.AcquisitionNumber = value

    np.testing.assert_array_equal(read_volume(write_series(tmp_path, chest(), edit)).hu, chest())


@pytest.mark.parametrize("unit", ["hu", "HOUNSFIELD", "US"])
def test_names_of_the_unit_of_hu_are_accepted(tmp_path: Path, unit: str) -> None:
    folder = write_series(tmp_path, chest(), lambda data, _: setattr(data, "RescaleType", unit))
    np.testing.assert_array_equal(read_volume(folder).hu, chest())


def test_a_name_in_two_character_sets_is_one_patient(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.SpecificCharacterSet = "ISO_IR 100" if index % 2 else "ISO_IR 192"
        data.PatientName = "Müller^Jörg"

    np.testing.assert_array_equal(read_volume(write_series(tmp_path, chest(), edit)).hu, chest())


def test_refuses_two_frames_of_reference(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.FrameOfReferenceUID = f"1.2.9.{1 + (index > 7)}"

    message = fault_of(write_series(tmp_path, HU, edit), tmp_path / "008.dcm")
    assert "FrameOfReferenceUID (0020,0052) is not that of 000.dcm" in message
    assert "two acquisitions" in message


@pytest.mark.parametrize("value", ["1.2.9", ""])
def test_takes_one_frame_of_reference_or_none(tmp_path: Path, value: str) -> None:
    check(
        write_series(
            tmp_path, HU, lambda data, i: setattr(data, "FrameOfReferenceUID", value if i else "")
        )
    )


@pytest.mark.parametrize(("first", "second"), [(1.0, 5.0), (5.0, 1.0), (1.0, 1.25), (1.0, 2.0)])
@pytest.mark.parametrize("count", [4, 6, 8])
def test_refuses_two_slice_distances_with_both(
    tmp_path: Path, first: float, second: float, count: int
) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [
            0, 0, first * min(index, count) + second * max(0, index - count)
        ]  # fmt: skip
        data.SliceThickness = first if index <= count else second

    message = fault_of(write_series(tmp_path, HU, edit))
    assert "two slice distances under one series" in message
    assert f"{first:.2f} mm" in message
    assert f"{second:.2f} mm" in message
    low, high = sorted([first, second])
    assert f"SliceThickness (0018,0050) {low:g} and {high:g} mm" in message


def test_refuses_two_thicknesses_between_each_other(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.SliceThickness = 5 if index % 2 else 1

    message = fault_of(write_series(tmp_path, HU, edit))
    assert "000.dcm and 001.dcm (SliceThickness (0018,0050) 1 and 5 mm)" in message
    assert "two reconstructions" in message


@pytest.mark.parametrize("thick", [(0, 11), range(6), ()])
def test_takes_evenly_spaced_slices_of_any_thickness(tmp_path: Path, thick: tuple) -> None:
    check(
        write_series(
            tmp_path, HU, lambda data, i: setattr(data, "SliceThickness", 5 if i in thick else 4)
        )
    )
