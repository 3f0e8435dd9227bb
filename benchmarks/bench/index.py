"""CPU time and memory of `multi-abnormality index`, compared with parsing the headers alone."""

import io
import shutil
import sys
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from bench.rows import Row, Settings, compared, in_turns
from speed.processes import Cost, whole_process

SERIES = 2000
SLICES = range(20, 101)  # numbers of slices, in turns
SPACING = 5  # mm
PRIVATE_TAGS = 40  # a scanner writes some tens
_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
# Placeholders of a slice's own values, which have the same length.
_STUDY, _SERIES, _SLICE = "1.2.99.7000000", "1.2.99.8000000", "1.2.99.9000000.9000"
_PATIENT, _NUMBER, _POSITION = "PATIENT-700000", "9000", "8000.0"


def run(settings: Settings) -> list[Row]:
    counts = settings.size(SERIES // 10, 8), settings.size(SERIES, 16)
    few, many = (settings.folder / f"{count} series" for count in counts)
    files = [write_export(folder, count) for folder, count in zip((few, many), counts, strict=True)]
    found = in_turns(
        settings.rounds,
        {
            "floor": lambda: whole_process([sys.executable, "-m", "bench.index", str(many)]),
            "few": lambda: index(few),
            "many": lambda: index(many),
        },
    )
    cpu = {name: [cost.cpu for cost in costs] for name, costs in found.items()}
    wall = [cost.seconds for cost in found["many"]]
    peak = {name: [1000 * cost.peak for cost in costs] for name, costs in found.items()}
    name = f"index {counts[1]} series, {files[1]} files"
    return [
        compared(f"{name}: CPU", "s", cpu["many"], "pydicom alone", cpu["floor"], "at most 2"),
        Row(name, sorted(wall)[len(wall) // 2], "s", target="at most 60 s on two idle cores"),
        compared(
            "largest process", "MB", peak["many"], f"{counts[0]} series", peak["few"], "at most 2"
        ),
    ]


def index(folder: Path) -> Cost:
    """Index an export without what earlier runs have read."""
    work = folder.with_name("tables")
    shutil.rmtree(work, ignore_errors=True)
    (work / ".dvc").mkdir(parents=True)  # where the cache of a project is
    command = [sys.executable, "-m", "multi_abnormality", "index", str(folder)]
    options = ["--out", "labels.csv", "--salt", "salt", "--findings", "Emphysema"]
    return whole_process([*command, *options], folder=work)


def write_export(root: Path, series: int) -> int:
    """Write small CT series, four to a study and two studies to a patient; return their files.

    pydicom writes one slice, of which the others are copies with other values.
    """
    template, count = _template(), 0
    for number in range(series):
        study = number // 4
        patient = study // 2
        folder = root / f"{patient:05d}" / f"{study % 2}" / f"{number % 4}"
        folder.mkdir(parents=True)
        for index in range(SLICES[number * 37 % len(SLICES)]):
            values = {
                _SLICE: f"1.2.99.9{number:06d}.{1000 + index}",
                _SERIES: f"1.2.99.8{number:06d}",
                _STUDY: f"1.2.99.7{study:06d}",
                _PATIENT: f"PATIENT-{patient:06d}",
                _NUMBER: f"{1 + index:04d}",
                _POSITION: f"{1000 + SPACING * index:.1f}",
            }
            content = template
            for placeholder, value in values.items():
                content = content.replace(placeholder.encode(), value.encode())
            (folder / f"IM{index:05d}").write_bytes(content)
            count += 1
    return count


def _template() -> bytes:
    data, meta = Dataset(), FileMetaDataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID = _CT_IMAGE
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = _SLICE
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.ImageType, data.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = _STUDY, _SERIES, "1.3"
    data.PatientID, data.PatientName, data.PatientBirthDate = _PATIENT, "Doe^Jane", "19640812"
    data.StudyDate, data.Manufacturer, data.ConvolutionKernel = "20240131", "SIEMENS", "Br40"
    data.InstanceNumber, data.SeriesNumber, data.SliceThickness = _NUMBER, 2, SPACING
    data.Rows = data.Columns = 16
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept, data.PixelSpacing = "1", "-1024", [20, 20]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = ["0", "0", _POSITION]
    data.add_new(0x00190010, "LO", "VENDOR")
    for element in range(PRIVATE_TAGS):
        data.add_new(0x00191000 + element, "LO", "private value")
    data.PixelData = bytes(512)
    data["PixelData"].VR = "OW"
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def main() -> None:
    """Parse the headers of all files below a folder by pydicom, and nothing else."""
    for path in Path(sys.argv[1]).rglob("*"):
        if path.is_file():
            pydicom.dcmread(path, stop_before_pixels=True)


if __name__ == "__main__":
    main()
