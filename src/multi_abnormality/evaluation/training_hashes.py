"""Hashes of a model's training patients and scans, by which `evaluate` recognizes them.

The patients are those of the training and of the validation volumes. Patient ids may be short, and
anyone who has the model can hash all short ones: scrypt makes that slow, not impossible. A scan's
hash is of the voxels that the model reads, which cannot be enumerated.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from multi_abnormality.data.catalog.identifier_spelling import canonical
from multi_abnormality.utils.errors import InputError

SIZE = 6  # bytes: of 20,000 patients, one in 10^10 others has the hash of any
CHARACTERS = 8  # of a hash in base64
MAX_HASHES = 400_000  # in a model's metadata
# Cost of a patient's hash: 5 ms and 2 MB (RFC 7914).
_SCRYPT = {"n": 2**11, "r": 8, "p": 1}


@dataclass(frozen=True)
class TrainingHashes:
    """Sorted hashes of patients and of scans, each of CHARACTERS characters, and their salt."""

    salt: str
    patients: str
    scans: str

    @classmethod
    def of(cls, salt: str, patients: Iterable[str], voxels: Iterable[str]) -> "TrainingHashes":
        """Hash the patients and scans of a model.

        Args:
            salt: text that no other training set has.
            patients: ids.
            voxels: SHA-256 of the voxels of each scan, as the model reads them.

        Raises:
            InputError: they are too many for a model's metadata.
        """
        empty = cls(salt, "", "")
        spelled = sorted(set(map(canonical, patients)))
        hashed = [set(empty._hash_patients(spelled)), {empty._hash_scan(one) for one in voxels}]
        if (count := sum(map(len, hashed))) > MAX_HASHES:
            raise InputError(
                f"export.training_hashes: {count:,} hashes of training patients and scans, more "
                f"than {MAX_HASHES:,}, are too many for a model; set it to false"
            )
        return cls(salt, *("".join(sorted(one)) for one in hashed))

    @classmethod
    def parse(cls, content: Any) -> "TrainingHashes":
        """Read the content of a model's metadata.

        Raises:
            ValueError: it is not what `content` returns.
        """
        keys = ("salt", "patients", "scans")
        if not isinstance(content, dict) or not all(
            isinstance(content.get(key), str) and content[key].isascii() for key in keys
        ):
            raise ValueError("training: must have the texts salt, patients and scans")
        if any(len(content[key]) % CHARACTERS for key in keys[1:]):
            raise ValueError(f"training: must have {CHARACTERS} characters for each hash")
        return cls(*(content[key] for key in keys))

    def content(self) -> dict[str, str]:
        """Return the hashes for a model's metadata."""
        return {"salt": self.salt, "patients": self.patients, "scans": self.scans}

    def count(self) -> dict[str, int]:
        """Return the numbers of patients and of scans."""
        counted = {"patients": self.patients, "scans": self.scans}
        return {name: len(text) // CHARACTERS for name, text in counted.items()}

    def find_patients(self, patients: Iterable[str]) -> list[str]:
        """Return those of the ids that a training patient has, in any spelling."""
        ids = list(dict.fromkeys(patients))
        hashes, known = self._hash_patients([*map(canonical, ids)]), _split(self.patients)
        return [one for one, code in zip(ids, hashes, strict=True) if code in known]

    def find_scans(self, voxels: Sequence[str]) -> list[int]:
        """Return the indices of the scans, by the SHA-256 of their voxels, that were trained on."""
        known = _split(self.scans)
        return [index for index, one in enumerate(voxels) if self._hash_scan(one) in known]

    def _hash_patients(self, spelled: Sequence[str]) -> list[str]:
        salt = self.salt.encode()

        def derive(patient: str) -> str:
            code = hashlib.scrypt(patient.encode(), salt=salt, dklen=SIZE, **_SCRYPT)
            return base64.b64encode(code).decode()

        with ThreadPoolExecutor() as pool:
            return list(pool.map(derive, spelled))

    def _hash_scan(self, voxels_sha256: str) -> str:
        code = hashlib.sha256(f"{self.salt} {voxels_sha256}".encode()).digest()
        return base64.b64encode(code[:SIZE]).decode()


def _split(text: str) -> set[str]:
    return {text[start : start + CHARACTERS] for start in range(0, len(text), CHARACTERS)}
