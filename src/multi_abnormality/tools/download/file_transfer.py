"""Transfer of one file from the hub: resumable, and verified against its hash."""

import os
from io import FileIO
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from multi_abnormality.tools.download.hub import Hub, RemoteFile, StoppedError, TransferError
from multi_abnormality.utils.errors import InputError

CHUNK_BYTES = 1 << 20  # written at once; a kill loses less than that


def fetch(hub: Hub, file: RemoteFile, part: Path) -> None:
    """Fetch a file to `part` and verify it. Continues after the bytes that `part` already has.

    Raises:
        TransferError: too many failures in a row, or the file is missing or has other content.
        InputError: the hub refuses access, or the file can't be written.
    """
    for _ in range(2):  # again if a partial file was damaged
        try:
            hub.retry(lambda: _receive(hub, file, part), file.path, lambda: part_size(part))
        except EntryNotFoundError:
            raise TransferError(f"{file.path}: is not on the hub") from None
        except OSError as error:
            raise InputError(
                f"{part}: cannot be written ({error.strerror or error}); downloaded data is kept. "
                "Fix that, then run the same command again"
            ) from error
        if file.matches(part):
            return
        part.unlink()
    raise TransferError(f"{file.path}: did not match the hub's hash twice")


def part_size(part: Path) -> int:
    """Return the number of bytes of a partial file, 0 if it does not exist."""
    return part.stat().st_size if part.exists() else 0


def _receive(hub: Hub, file: RemoteFile, part: Path) -> None:
    """Append the missing bytes to a partial file."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with _PartialFile(hub, file, part) as out:
        start = out.tell()
        if start < file.size:
            constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES  # http_get's own is 10 MB
            headers = build_hf_headers() | {"Accept-Encoding": "identity"}
            http_get(hub.url(file.path), out, resume_size=start, headers=headers)
        os.fsync(out.fileno())


class _PartialFile(FileIO):
    """Partial file, opened to append, that is never larger than the whole file."""

    def __init__(self, hub: Hub, file: RemoteFile, part: Path) -> None:
        super().__init__(part, "a+")
        self._hub, self._file = hub, file

    def write(self, chunk: Any) -> int:
        if self._hub.stopping.is_set():
            raise StoppedError
        if self.tell() + len(chunk) > self._file.size:
            raise TransferError(f"{self._file.path}: is longer than the hub states")
        remaining = memoryview(chunk)
        while remaining:  # a write may be partial, as on an almost full disk
            remaining = remaining[super().write(remaining) :]
        return len(chunk)
