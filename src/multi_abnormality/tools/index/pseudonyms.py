"""Pseudonyms of patients.

A pseudonym is an HMAC-SHA256 under a secret salt: without the salt it cannot be found by trying all
patient ids, as a plain hash can.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from multi_abnormality.tools.index.identifiers import fold
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from multi_abnormality.data.io.dicom_headers import DicomHeader

MIN_SALT_CHARACTERS = 32
_DIGITS = 16  # hexadecimal, of a pseudonym: 64 bits


class Pseudonyms:
    """Pseudonyms under a salt.

    Args:
        salt: the secret.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt

    def of(self, prefix: str, *parts: str) -> str:
        """Return the pseudonym of an identifier, which may consist of several parts."""
        message = "\0".join((prefix, *parts)).encode("utf-8", "surrogatepass")
        return prefix + hmac.new(self._salt, message, hashlib.sha256).hexdigest()[:_DIGITS]

    @property
    def fingerprint(self) -> str:
        """Return a text that differs between salts, and from which none can be found."""
        return self.of("F", "salt")


def default_salt() -> Path:
    """Return the path of the salt of all tables that this user writes."""
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(folder).expanduser() / "multi-abnormality" / "patient-salt"


def load_salt(path: Path) -> bytes:
    """Read the salt from a file, which is created on first use, readable by its owner only.

    Raises:
        InputError: the file cannot be read or written, or holds no salt.
    """
    try:
        if not path.exists():
            _create(path)
            log.info(
                "%s: created. Keep it secret, and keep a copy: without it, patients get other "
                "pseudonyms", path,
            )  # fmt: skip
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: is not a file; name the file of the salt by --salt")
        with path.open("rb") as file:
            salt = file.read(1 << 16).strip()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be used as salt ({error.strerror}); correct its permissions, or name "
            "another file by --salt"
        ) from error
    if len(salt) < MIN_SALT_CHARACTERS:
        raise InputError(
            f"{path}: is no salt, it has fewer than {MIN_SALT_CHARACTERS} characters; name another "
            "file by --salt, which is created if it does not exist"
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning(
            "%s: other users can read the salt, and so find out who a pseudonym is; run "
            "`chmod 600` on it", path,
        )  # fmt: skip
    return salt


def _create(path: Path) -> None:
    """Write a new salt; of two processes that do so at once, both use the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _normalize(text: str) -> str:
    """Return an identifier as series are compared by: DICOM pads with spaces."""
    return " ".join(text.upper().split())


def patient_pseudonym(header: "DicomHeader", pseudonyms: Pseudonyms) -> tuple[str, str]:
    """Return the pseudonym of a file's patient, and one that ignores who issued the id.

    Both are "" if the file names no patient. Without an id, name and date of birth identify the
    patient.
    """
    issuer = _normalize(header.label("IssuerOfPatientID"))
    if patient_id := _normalize(header.label("PatientID")):
        return pseudonyms.of("P", patient_id, issuer), pseudonyms.of("I", patient_id)
    name = _normalize(header.label("PatientName").rstrip("^ "))
    birth = _normalize(header.label("PatientBirthDate"))
    if name and birth:
        return pseudonyms.of("P", name, birth, "name"), pseudonyms.of("I", name, birth)
    return "", ""


def similar_id(header: "DicomHeader", pseudonyms: Pseudonyms) -> str:
    """Return one pseudonym for ids that differ in case, spaces and leading zeros; "" for none."""
    patient_id = re.sub(r"^0+(?=.)", "", "".join(header.label("PatientID").upper().split()))
    return pseudonyms.of("L", patient_id) if patient_id else ""


def name_pseudonym(header: "DicomHeader", pseudonyms: Pseudonyms) -> str:
    """Return the pseudonym of family and given name, however they are spelled; "" for none."""
    name = " ".join(header.label("PatientName").partition("=")[0].split("^")[:2])
    parts = re.findall(r"[^\W_]+", fold(name))
    return pseudonyms.of("N", *parts) if parts else ""
