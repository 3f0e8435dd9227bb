"""Files of a model repository on the Hugging Face hub, pinned to a commit and checked by hash."""

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import hf_raise_for_status
from huggingface_hub.utils import logging as hub_logging

from multi_abnormality.utils.errors import InputError

TIMEOUT = 5  # s without data, unless the user sets another; huggingface_hub's own is longer
_COMMIT = re.compile("[0-9a-f]{40}")


class HubRepository:
    """A model repository.

    Args:
        repo: owner and name.
        revision: commit, tag or branch; after the first `fetch` it is the commit.
    """

    def __init__(self, repo: str, revision: str) -> None:
        self.repo = repo
        self.revision = revision

    def __str__(self) -> str:
        return f"hf-hub:{self.repo}@{self.revision}"

    def fetch(self, names: Sequence[str]) -> Path | None:
        """Return the first of these files that the repository has, from the cache or the hub.

        Raises:
            InputError: the hub cannot be reached or refuses access, or serves other bytes than it
                lists.
        """
        for name in names:
            if cached := self._cached(name):
                return cached
            if found := self._download(name):
                return found
        return None

    def cached(self, names: Sequence[str]) -> Path | None:
        """Return the first of these files that is on this machine."""
        return next((path for name in names if (path := self._cached(name, is_final=False))), None)

    def _cached(self, name: str, is_final: bool = True) -> Path | None:
        """Return a file on this machine; if `is_final`, only of a commit, which cannot move."""
        if is_final and not _COMMIT.fullmatch(self.revision) and not constants.HF_HUB_OFFLINE:
            return None
        found = try_to_load_from_cache(self.repo, name, revision=self.revision)
        if not isinstance(found, str):
            return None
        path = Path(found)
        self.revision = path.parent.name  # the commit, by the cache's layout
        return path

    def _download(self, name: str) -> Path | None:
        url = hf_hub_url(self.repo, name, revision=self.revision, endpoint=constants.ENDPOINT)
        try:
            metadata = get_hf_file_metadata(url, timeout=_timeout("HF_HUB_ETAG_TIMEOUT"))
            if not _COMMIT.fullmatch(metadata.commit_hash or ""):
                raise InputError(
                    f"model.backbone: {constants.ENDPOINT} states no commit of {self}; check "
                    "HF_ENDPOINT"
                )
            self.revision = str(metadata.commit_hash)
            with _bounded_retries():
                path = Path(
                    hf_hub_download(
                        self.repo, name, revision=self.revision, endpoint=constants.ENDPOINT,
                        etag_timeout=_timeout("HF_HUB_ETAG_TIMEOUT"),
                    )
                )  # fmt: skip
        except RevisionNotFoundError as error:
            raise InputError(
                f"model.backbone: {self.repo} has no revision {self.revision!r}; see "
                f"{constants.ENDPOINT}/{self.repo}/commits/main"
            ) from error
        except RemoteEntryNotFoundError:
            return None
        except (httpx2.HTTPError, OfflineModeIsEnabled, OSError) as error:
            raise InputError(f"model.backbone: {self._explain(error)}") from error
        _check_hash(path, str(metadata.etag), str(self))
        return path

    def _explain(self, error: Exception) -> str:
        if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # of the second request for metadata
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
            problem = (
                f"{self} is gated, private or missing ({status}). Log in at "
                f"{constants.ENDPOINT}/{self.repo}, accept its terms, and set HF_TOKEN or run "
                "`hf auth login`"
            )
        elif isinstance(error, OfflineModeIsEnabled):
            problem = f"{self} is not on this machine, and HF_HUB_OFFLINE is set; unset it"
        else:
            reason = f"status {status}" if status else _first_line(error)
            retry = "; try again"
            if isinstance(error, httpx2.TimeoutException):
                retry += ", with HF_HUB_ETAG_TIMEOUT set to more seconds"
            problem = f"{self} cannot be downloaded from {constants.ENDPOINT} ({reason}){retry}"
        return (
            f"{problem}. Or run `hf download {self.repo} --revision {self.revision} --local-dir "
            "weights` on a machine with access, copy the folder here, and set model.pretrained to "
            "its path"
        )


def _timeout(variable: str) -> int:
    """Return the seconds that the user's environment sets, or TIMEOUT."""
    seconds: int = getattr(constants, variable) if variable in os.environ else TIMEOUT
    return seconds


@contextmanager
def _bounded_retries() -> Iterator[None]:
    """Have huggingface_hub download over HTTP, without log lines or long retries.

    It sends a request again for a minute. Here one fails once it has brought no data for the
    timeout, and at once if the hub answers with an error.
    """
    timeout = _timeout("HF_HUB_DOWNLOAD_TIMEOUT")
    started: dict[str, float] = {}

    def check_progress(request: httpx2.Request) -> None:
        start = f"{request.method} {request.url} {request.headers.get('Range')}"
        now = time.monotonic()
        waited = now - started.setdefault(start, now)
        if waited >= timeout:
            raise TimeoutError(
                f"no data in {waited:.0f} s; set HF_HUB_DOWNLOAD_TIMEOUT to wait longer"
            )

    def raise_status(response: httpx2.Response) -> None:
        if response.is_error:
            hf_raise_for_status(response)

    client, verbosity = get_session(), hub_logging.get_verbosity()
    hooks = client.event_hooks
    settings = constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DOWNLOAD_TIMEOUT = timeout
    constants.HF_HUB_DISABLE_XET = True  # it has a protocol and retries of its own
    client.event_hooks = {
        "request": [*hooks["request"], check_progress],
        "response": [*hooks["response"], raise_status],
    }
    hub_logging.set_verbosity(hub_logging.CRITICAL)
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        client.event_hooks = hooks
        constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_DISABLE_XET = settings


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(path: Path, etag: str, source: str) -> None:
    """Check a file against the hash that the hub lists: SHA-256 if large, Git's SHA-1 if small."""
    if re.fullmatch("[0-9a-f]{64}", etag):
        found = file_sha256(path)
    elif _COMMIT.fullmatch(etag):
        content = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        return
    if found != etag:
        blob = path.resolve()
        for damaged in {path, blob}:
            damaged.unlink(missing_ok=True)
        raise InputError(
            f"model.backbone: {constants.ENDPOINT} served other bytes for {path.name} of {source} "
            f"(hash {found}) than it lists ({etag}); the file was deleted. Try again, or check "
            "HF_ENDPOINT and the network"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
