"""Client of the Hugging Face hub for CT-RATE: sizes and hashes of files, resumable downloads.

Responses are validated here, since commit ids, hashes and paths become parts of local paths.
"""

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import (
    build_hf_headers,
    disable_progress_bars,
    get_session,
    hf_raise_for_status,
)
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

REPO = "ibrahimhamamci/CT-RATE"
PATHS_PER_REQUEST = 500  # as huggingface_hub
RETRY_DELAYS = (1, 5, 20, 60)  # s; the last one repeats
CHUNK_BYTES = 1 << 20  # written at once; a kill loses less than that
MAX_FILE_BYTES = 1 << 50
MAX_SHOWN_CHARS = 200  # of a malformed response

T = TypeVar("T")


class TransferError(Exception):
    """A request to the hub, or the download of one file, failed; the message has the reason."""


class StoppedError(Exception):
    """The whole download is being stopped."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub. `oid` is the SHA-256 of a large file, and the Git hash of a small one."""

    path: str
    size: int
    oid: str

    def matches(self, local: Path) -> bool:
        """Whether a local file has the content of this one."""
        with local.open("rb") as content:
            return hashlib.file_digest(content, self._hasher).hexdigest() == self.oid

    def _hasher(self) -> "hashlib._Hash":
        if len(self.oid) == hashlib.sha256().digest_size * 2:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


class _LfsInfo(BaseModel):
    oid: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _PathInfo(BaseModel):
    """The hub's description of a file or folder."""

    model_config = ConfigDict(strict=True)

    type: Literal["file", "directory"]
    path: str
    oid: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)] = 0
    lfs: _LfsInfo | None = None


_PATHS_INFO = TypeAdapter(list[_PathInfo])


class Hub:
    """One revision of the dataset. Thread-safe, except `pin`.

    Attributes:
        commit: commit of the revision; the revision itself before `pin`.
        retries: number of consecutive retries.
        stopping: set to stop all threads.
    """

    def __init__(self, revision: str, retries: int) -> None:
        self.commit = self.revision = revision
        self.retries = retries
        self.stopping = threading.Event()
        disable_progress_bars()
        logging.getLogger("huggingface_hub").handlers.clear()  # this project's log has it already

    def url(self, path: str) -> str:
        return hf_hub_url(REPO, path, repo_type="dataset", revision=self.commit)

    def pin(self, path: str) -> None:
        """Resolve the revision to a commit, by a file that every revision has."""
        try:
            metadata = self._request(lambda: get_hf_file_metadata(self.url(path)))
        except EntryNotFoundError as error:
            raise InputError(
                f"--revision {self.revision}: has no {path}; choose another"
            ) from error
        if not re.fullmatch("[0-9a-f]{40}", metadata.commit_hash or ""):
            raise _malformed(f"{metadata.commit_hash!r} is not a commit id")
        self.commit = str(metadata.commit_hash)

    def describe(self, paths: Iterable[str]) -> dict[str, RemoteFile]:
        """Return the files on the hub by path, without those that are missing there.

        Raises:
            InputError: the hub can't be reached, or its response has other paths, or invalid sizes
                or hashes.
        """
        found = {}
        for batch in batched(paths, PATHS_PER_REQUEST):
            for entry in self._request(partial(self._paths_info, batch)):
                if entry.path not in batch:
                    raise _malformed(f"{entry.path!r} was not requested")
                if entry.type == "file":
                    oid = entry.lfs.oid if entry.lfs else entry.oid
                    found[entry.path] = RemoteFile(entry.path, entry.size, oid)
        return found

    def _paths_info(self, paths: list[str]) -> list[_PathInfo]:
        url = f"{constants.ENDPOINT}/api/datasets/{REPO}/paths-info/{self.commit}"
        response = get_session().post(url, data={"paths": paths}, headers=build_hf_headers())
        hf_raise_for_status(response)
        return _PATHS_INFO.validate_json(response.content)

    def _request(self, call: Callable[[], T]) -> T:
        try:
            return self.retry(call, f"{constants.ENDPOINT} cannot be reached")
        except TransferError as error:
            raise InputError(
                f"{error}; check the network, then run the same command again: it resumes"
            ) from error

    def retry(
        self, call: Callable[[], T], problem: str, received: Callable[[], int] = lambda: 0
    ) -> T:
        """Call the hub, and again after errors that may be transient.

        Args:
            call: makes the request.
            problem: begin of the message for a failure.
            received: returns the number of bytes received so far; progress resets the retries.

        Raises:
            InputError: a retry can't help.
            TransferError: too many failures in a row.
            EntryNotFoundError: the path does not exist.
            StoppedError: the download is being stopped.
        """
        failures = 0
        while not self.stopping.is_set():
            before = received()
            try:
                return call()
            except EntryNotFoundError:
                raise
            except (ValueError, httpx2.InvalidURL) as error:  # also of pydantic
                raise _malformed(str(error)) from error
            except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
                self._raise_if_final(error)
                failures = 0 if received() > before else failures
                message = f"{problem}: {_short(error)}"
                if failures >= self.retries:
                    raise TransferError(message) from error
                seconds = RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)]
                log.warning("%s; retrying in %d s", message, seconds)
                self.stopping.wait(seconds)
                failures += 1
        raise StoppedError

    def _raise_if_final(self, error: Exception) -> None:
        """Raise an InputError if a retry can't help."""
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if isinstance(error, RevisionNotFoundError):
            raise InputError(
                f"--revision {self.revision}: {REPO} has no such branch, tag or commit; see "
                f"https://huggingface.co/datasets/{REPO}/commits/main"
            ) from error
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
            raise InputError(
                f"{REPO} is gated, and the hub refuses this account ({status}). Log in at "
                f"https://huggingface.co/datasets/{REPO} and accept its terms, create a token "
                "with read access to gated repositories at https://huggingface.co/settings/tokens, "
                "pass it to `hf auth login` or set HF_TOKEN, then run the same command again"
            ) from error
        if isinstance(error, OfflineModeIsEnabled):
            raise InputError("HF_HUB_OFFLINE is set; unset it to download") from error


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _malformed(reason: str) -> InputError:
    shown = reason if len(reason) <= MAX_SHOWN_CHARS else f"{reason[:MAX_SHOWN_CHARS]}…"
    return InputError(
        f"{constants.ENDPOINT}: invalid response ({shown}); check HF_ENDPOINT and the network"
    )


def _short(error: Exception) -> str:
    """Return a one-line description of an error."""
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    return str(error).strip().partition("\n")[0] or type(error).__name__


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
