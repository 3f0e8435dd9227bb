"""Who is in the sample: patients, their scans and reconstructions, known before any is drawn."""

from dataclasses import dataclass

from multi_abnormality.sample.labels import draw_labels
from multi_abnormality.sample.streams import Stream

SECOND_SCAN = 0.15  # share of patients scanned twice
SECOND_RECONSTRUCTION = 0.15  # share of scans reconstructed twice
VALID_TURNS = (1, 6)  # of every 11 patients, these go to the valid split


@dataclass(frozen=True)
class Scan:
    """One visit of a patient. `labels` are 0 or 1 in the official order of the findings."""

    seed: int
    split: str  # train | valid
    patient: int
    visit: str  # a | b
    labels: tuple[int, ...]
    reconstructions: int

    @property
    def patient_key(self) -> tuple[object, ...]:
        """Names the streams of what stays the same in all of a patient's scans."""
        return self.seed, self.split, self.patient

    @property
    def key(self) -> tuple[object, ...]:
        return *self.patient_key, self.visit

    def volume_name(self, reconstruction: int) -> str:
        return f"{self.split}_{self.patient}_{self.visit}_{reconstruction}.nii.gz"


def plan_cohort(patients: int, seed: int) -> list[Scan]:
    """Every scan of the sample, train and valid patients numbered from 1 each."""
    scans: list[Scan] = []
    count = {"train": 0, "valid": 0}
    for turn in range(patients):
        split = "valid" if turn % 11 in VALID_TURNS else "train"
        count[split] += 1
        scans += _plan_patient(seed, split, count[split])
    return scans


def _plan_patient(seed: int, split: str, patient: int) -> list[Scan]:
    visits = "ab" if Stream(seed, split, patient, "visits").chance(SECOND_SCAN) else "a"
    labels = draw_labels([Stream(seed, split, patient, visit, "labels") for visit in visits])
    scans = []
    for visit, findings in zip(visits, labels, strict=True):
        twice = Stream(seed, split, patient, visit, "recon").chance(SECOND_RECONSTRUCTION)
        scans.append(Scan(seed, split, patient, visit, findings, 2 if twice else 1))
    return scans
