"""Plan of the sample: patients, their scans and reconstructions."""

from dataclasses import dataclass

from chest_phantom.label_sampling import draw_labels
from chest_phantom.random_streams import Stream

SECOND_SCAN = 0.15  # fraction of patients scanned twice
SECOND_RECONSTRUCTION = 0.15  # fraction of scans reconstructed twice
VALID_TURNS = (1, 6)  # of every 11 patients, indices of those in the valid split


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
        """Return the key of the streams that all scans of a patient use."""
        return self.seed, self.split, self.patient

    @property
    def key(self) -> tuple[object, ...]:
        return *self.patient_key, self.visit

    def volume_name(self, reconstruction: int) -> str:
        return f"{self.split}_{self.patient}_{self.visit}_{reconstruction}.nii.gz"


def plan_cohort(patients: int, seed: int) -> list[Scan]:
    """Return all scans of the sample; patients are numbered from 1 in each split."""
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
