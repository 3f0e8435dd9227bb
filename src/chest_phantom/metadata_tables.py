"""Label and metadata tables with CT-RATE's headers."""

import csv
import io
from collections.abc import Iterable

from chest_phantom.acquisition import Acquisition
from chest_phantom.anatomy import Subject
from chest_phantom.cohort import Scan
from chest_phantom.finding_names import FINDINGS
from chest_phantom.scanner import Protocol

METADATA_COLUMNS: tuple[str, ...] = (
    *("VolumeName", "Manufacturer", "SeriesDescription", "ManufacturerModelName", "PatientSex"),
    *("PatientAge", "ReconstructionDiameter", "DistanceSourceToDetector"),
    *("DistanceSourceToPatient", "GantryDetectorTilt", "TableHeight", "RotationDirection"),
    *("ExposureTime", "XRayTubeCurrent", "Exposure", "FilterType", "GeneratorPower", "FocalSpots"),
    *("ConvolutionKernel", "PatientPosition", "RevolutionTime", "SingleCollimationWidth"),
    *("TotalCollimationWidth", "TableSpeed", "TableFeedPerRotation", "SpiralPitchFactor"),
    *("DataCollectionCenterPatient", "ReconstructionTargetCenterPatient"),
    *("ExposureModulationType", "CTDIvol", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SliceLocation", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns"),
    *("XYSpacing", "RescaleIntercept", "RescaleSlope", "RescaleType", "NumberofSlices"),
    *("ZSpacing", "StudyDate"),
)


def label_rows(scans: Iterable[Scan]) -> list[list[object]]:
    """Return one row per volume; all reconstructions of a scan have its labels."""
    return [
        [scan.volume_name(number), *scan.labels]
        for scan in scans
        for number in range(1, scan.reconstructions + 1)
    ]


def metadata_row(
    name: str, subject: Subject, protocol: Protocol, acquisition: Acquisition
) -> list[object]:
    """Return the metadata of a volume; columns that do not apply to a phantom are empty.

    RescaleIntercept is that of the volume's DICOM series, as in CT-RATE, although the voxels of a
    fixed (v2) volume are in HU already.
    """
    depth, height, width = protocol.corner
    known = {
        "VolumeName": name,
        "Manufacturer": acquisition.scanner.manufacturer,
        "ManufacturerModelName": acquisition.scanner.model,
        "PatientSex": subject.patient.sex,
        "PatientAge": f"{subject.patient.age:03d}Y",
        "ReconstructionDiameter": round(protocol.pixel * protocol.size, 1),
        "ConvolutionKernel": acquisition.scanner.kernels[protocol.kernel],
        "PatientPosition": "FFS" if acquisition.feet_first else "HFS",
        "ImagePositionPatient": f"[{width:.3f}, {height:.3f}, {depth:.3f}]",
        "ImageOrientationPatient": "[1, 0, 0, 0, 1, 0]",
        "SliceLocation": f"{depth:.3f}",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": protocol.size,
        "Columns": protocol.size,
        "XYSpacing": f"[{protocol.pixel}, {protocol.pixel}]",
        "RescaleIntercept": acquisition.scanner.intercept,
        "RescaleSlope": 1,
        "NumberofSlices": protocol.slices,
        "ZSpacing": "nan" if acquisition.spacing_lost else protocol.thickness,
    }
    return [known.get(column, "") for column in METADATA_COLUMNS]


def csv_bytes(header: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def label_table(scans: Iterable[Scan]) -> bytes:
    return csv_bytes(("VolumeName", *FINDINGS), label_rows(scans))
