"""Transfer of one file from the hub: resumable, and verified against its hash."""

import os
from io import FileIO
from pathlib import Path

import httpx2
from huggingface_hub.errors import EntryNotFoundError

from multi_abnormality.tools.download.hub import FAILURES, Hub, RemoteFile, short_error
from multi_abnormality.utils.errors import InputError

CHUNK_BYTES = 1 << 20


class TransferError(Exception):
    """One file could not be fetched; the message names it and the reason."""


class StoppedError(Exception):
    """The whole download is being stopped."""


def fetch(hub: Hub, file: RemoteFile, part: Path) -> None:
    """Fetch a file to `part` and verify it. Continues after the bytes that `part` already has.

    Raises:
        TransferError: too many failures in a row, or the file is missing or has the wrong hash.
        InputError: the hub refuses access, or the file can't be written.
    """
    failures = mismatches = 0
    while not hub.stopping.is_set():
        before = _size(part)
        try:
            digest = _receive(hub, file, part)
        except EntryNotFoundError:
            raise TransferError(f"{file.path}: is not on the hub") from None
        except FAILURES as error:
            hub.raise_if_final(error)
            if not isinstance(error, httpx2.HTTPError):
                raise InputError(
                    f"{part}: cannot be written ({error.strerror}); downloaded data is kept. "
                    "Fix that, then run the same command again"
                ) from error
            failures = 0 if _size(part) > before else failures
            if failures >= hub.retries:
                raise TransferError(f"{file.path}: {short_error(error)}") from error
            hub.wait_before_retry(failures, f"{file.path}: {short_error(error)}")
            failures += 1
            continue
        if digest == file.oid:
            return
        part.unlink()
        mismatches += 1
        if mismatches > 1:  # once may be due to a damaged partial file
            raise TransferError(f"{file.path}: did not match the hub's hash twice")
    raise StoppedError


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write_all(out: FileIO, chunk: bytes) -> None:
    """Write all bytes; an unbuffered write may be partial, as on an almost full disk."""
    remaining = memoryview(chunk)
    while remaining:
        remaining = remaining[out.write(remaining) :]


def _receive(hub: Hub, file: RemoteFile, part: Path) -> str:
    """Append the missing bytes, and return the hash of the whole file."""
    part.parent.mkdir(parents=True, exist_ok=True)
    hasher = file.hasher()
    with part.open("a+b", buffering=0) as out:
        if out.tell() > file.size:
            out.truncate(0)
        start = out.seek(0)
        while chunk := out.read(CHUNK_BYTES):
            hasher.update(chunk)
            start += len(chunk)
        if start < file.size:
            with hub.stream(file, start) as response:
                if start and response.status_code != httpx2.codes.PARTIAL_CONTENT:
                    out.truncate(0)
                    start, hasher = 0, file.hasher()
                for received in response.iter_raw():
                    if hub.stopping.is_set():
                        raise StoppedError
                    chunk = received[: file.size - start]  # ignore bytes beyond the file's size
                    _write_all(out, chunk)
                    hasher.update(chunk)
                    start += len(chunk)
                    if start == file.size:
                        break
            if start < file.size:
                raise httpx2.ReadError(f"connection closed after {start} of {file.size} bytes")
        os.fsync(out.fileno())
    return hasher.hexdigest()
