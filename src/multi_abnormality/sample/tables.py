"""CT-RATE's tables: labels and metadata, under their official headers."""

import csv
import io
from collections.abc import Iterable

from multi_abnormality.findings import FINDINGS
from multi_abnormality.sample.anatomy import Subject
from multi_abnormality.sample.cohort import Scan
from multi_abnormality.sample.delivery import Delivery
from multi_abnormality.sample.scanner import Protocol

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
    """A row a volume; a scan's reconstructions share its labels."""
    return [
        [scan.volume_name(number), *scan.labels]
        for scan in scans
        for number in range(1, scan.reconstructions + 1)
    ]


def metadata_row(
    name: str, subject: Subject, protocol: Protocol, delivery: Delivery
) -> list[object]:
    """What is known of a phantom; the columns of which a phantom has nothing stay empty.

    RescaleIntercept is that of the DICOM series behind a volume, as in CT-RATE: the voxels of a
    fixed (v2) volume are in HU already and need it no more.
    """
    depth, height, width = protocol.corner
    known = {
        "VolumeName": name,
        "Manufacturer": delivery.scanner.manufacturer,
        "ManufacturerModelName": delivery.scanner.model,
        "PatientSex": subject.patient.sex,
        "PatientAge": f"{subject.patient.age:03d}Y",
        "ReconstructionDiameter": round(protocol.pixel * protocol.size, 1),
        "ConvolutionKernel": delivery.scanner.kernels[protocol.kernel],
        "PatientPosition": "FFS" if delivery.feet_first else "HFS",
        "ImagePositionPatient": f"[{width:.3f}, {height:.3f}, {depth:.3f}]",
        "ImageOrientationPatient": "[1, 0, 0, 0, 1, 0]",
        "SliceLocation": f"{depth:.3f}",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": protocol.size,
        "Columns": protocol.size,
        "XYSpacing": f"[{protocol.pixel}, {protocol.pixel}]",
        "RescaleIntercept": delivery.scanner.intercept,
        "RescaleSlope": 1,
        "NumberofSlices": protocol.slices,
        "ZSpacing": "nan" if delivery.spacing_lost else protocol.thickness,
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
