"""Directories in CT-RATE's layout, made of links to a few scans."""

from collections.abc import Mapping
from pathlib import Path

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.catalog.volume_id import VolumeName


def ct_rate_names(volumes: int) -> list[str]:
    """Return volume names in CT-RATE's proportions: 2.36 volumes per patient, most in train."""
    names, patients = [], {"train": 0, "valid": 0}
    while len(names) < volumes:
        split = "valid" if sum(patients.values()) % 16 == 15 else "train"
        patients[split] += 1
        for number in range(1, 4 if patients[split] % 25 < 9 else 3):
            names.append(f"{split}_{patients[split]}_a_{number}")
    return names[:volumes]


def write_ct_rate(root: Path, scans: Mapping[str, Path]) -> Path:
    """Link the volumes `scans` by name and write label tables; existing volumes are kept.

    Every third patient has each finding.
    """
    for name, scan in scans.items():
        volume = VolumeName.parse(name)
        directory = root / "dataset" / f"{volume.prefix}_fixed" / volume.patient_id / volume.scan_id
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{name}.nii.gz"
        if not path.exists():
            path.hardlink_to(scan)
    tables = root / "dataset/multi_abnormality_labels"
    tables.mkdir(exist_ok=True)
    for split in ("train", "valid"):
        rows = [_row(name) for name in scans if name.startswith(split)]
        lines = [",".join(["VolumeName", *FINDINGS]), *rows]
        (tables / f"{split}_predicted_labels.csv").write_text("\n".join(lines) + "\n")
    return root


def _row(name: str) -> str:
    patient = VolumeName.parse(name).patient
    cells = [str(int((patient + finding) % 3 == 0)) for finding in range(len(FINDINGS))]
    return ",".join([f"{name}.nii.gz", *cells])
