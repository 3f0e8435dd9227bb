"""One file off the hub: gone on with where it broke off, and proved by its hash."""

import os
from io import FileIO
from pathlib import Path

import httpx2
from huggingface_hub.errors import EntryNotFoundError

from multi_abnormality.download.hub import FAILURES, Hub, RemoteFile, told
from multi_abnormality.errors import InputError

PIECE = 1 << 20


class UnfetchedError(Exception):
    """One file cannot be had, and others may: names it, and says why."""


class StoppedError(Exception):
    """The whole download is ending."""


def fetch(hub: Hub, file: RemoteFile, part: Path) -> None:
    """Bring a file's content to `part`, whole and proved. What `part` holds is not fetched again.

    Raises:
        UnfetchedError: it failed too often in a row, is not there, or has another hash than the
            hub says.
        InputError: no file can be had, or none can be written.
    """
    failures = refused = 0
    while not hub.stopping.is_set():
        before = _size(part)
        try:
            digest = _receive(hub, file, part)
        except EntryNotFoundError:
            raise UnfetchedError(f"{file.path}: is not on the hub") from None
        except FAILURES as error:
            hub.raise_if_final(error)
            if not isinstance(error, httpx2.HTTPError):
                raise InputError(
                    f"{part}: cannot be written ({error.strerror}); what arrived is kept. Mend "
                    "that, then run the same command again"
                ) from error
            failures = 0 if _size(part) > before else failures
            if failures >= hub.retries:
                raise UnfetchedError(f"{file.path}: {told(error)}") from error
            hub.pause(failures, f"{file.path}: {told(error)}")
            failures += 1
            continue
        if digest == file.oid:
            return
        part.unlink()
        refused += 1
        if refused > 1:  # once may be a broken part of an earlier call
            raise UnfetchedError(
                f"{file.path}: arrived twice with other bytes than the hub's hash says"
            )
    raise StoppedError


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write(out: FileIO, piece: bytes) -> None:
    """All of it: an unbuffered write may take a part, as on a disk that is about to be full."""
    rest = memoryview(piece)
    while rest:
        rest = rest[out.write(rest) :]


def _receive(hub: Hub, file: RemoteFile, part: Path) -> str:
    """Append what is missing; the hash of all of it."""
    part.parent.mkdir(parents=True, exist_ok=True)
    hasher = file.hasher()
    with part.open("a+b", buffering=0) as out:
        if out.tell() > file.size:
            out.truncate(0)
        start = out.seek(0)
        while piece := out.read(PIECE):
            hasher.update(piece)
            start += len(piece)
        if start < file.size:
            with hub.stream(file, start) as response:
                if start and response.status_code != httpx2.codes.PARTIAL_CONTENT:
                    out.truncate(0)
                    start, hasher = 0, file.hasher()
                for received in response.iter_raw():
                    if hub.stopping.is_set():
                        raise StoppedError
                    piece = received[: file.size - start]  # an endless answer fills no disk
                    _write(out, piece)
                    hasher.update(piece)
                    start += len(piece)
                    if start == file.size:
                        break
            if start < file.size:
                raise httpx2.ReadError(f"ended after {start} of {file.size} bytes")
        os.fsync(out.fileno())
    return hasher.hexdigest()
