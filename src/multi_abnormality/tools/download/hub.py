"""Client of the Hugging Face hub for CT-RATE: file listings, sizes, hashes and contents.

Responses are validated here, since commit ids, hashes and paths become parts of local paths. The
token is sent to no other host.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import httpx2
from huggingface_hub import (
    HfApi,
    RepoFile,
    RepoFolder,
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    set_client_factory,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

REPO = "ibrahimhamamci/CT-RATE"
PATHS_PER_REQUEST = 500  # as huggingface_hub
RETRY_DELAYS = (1, 5, 20, 60)  # s; the last one repeats
FAILURES = (httpx2.HTTPError, OSError)  # HfHubHTTPError is both
# Raised by huggingface_hub for malformed JSON and addresses.
MALFORMED = (AttributeError, KeyError, TypeError, RecursionError, httpx2.InvalidURL)
MAX_FILE_BYTES = 1 << 50
MAX_FOLDER_ENTRIES = 100_000
TIMEOUT_SECONDS = 60.0
HTTPS_PORT = 443
MAX_SHOWN_CHARS = 200  # of a malformed response

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub. `oid` is the SHA-256 of a large file, and the Git hash of a small one."""

    path: str
    size: int
    oid: str

    def hasher(self) -> "hashlib._Hash":
        """Return a hasher of the file's content, whose digest must equal `oid`."""
        if len(self.oid) == hashlib.sha256().digest_size * 2:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


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
        self._api = HfApi()
        _use_custom_client()

    def pin(self, path: str) -> None:
        """Resolve the revision to a commit, by a file that every revision has.

        Raises:
            InputError: the revision lacks that file, or the response has no commit id.
        """
        url = hf_hub_url(REPO, path, repo_type="dataset", revision=self.revision)
        try:
            # A listing of the dataset would have 50,000 files.
            commit = self.call_with_retries(lambda: get_hf_file_metadata(url)).commit_hash
        except EntryNotFoundError as error:
            raise InputError(
                f"--revision {self.revision}: has no {path}; choose another"
            ) from error
        if not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
            raise _malformed(f"{commit!r} is not a commit id")
        self.commit = commit

    def describe(self, paths: Iterable[str]) -> dict[str, RemoteFile]:
        """Return the files on the hub by path, without those that are missing there.

        Raises:
            InputError: the hub can't be reached, or its response has other paths, or invalid sizes
                or hashes.
        """
        found = {}
        for batch in batched(paths, PATHS_PER_REQUEST):
            entries = self.call_with_retries(
                partial(
                    self._api.get_paths_info,
                    REPO,
                    batch,
                    revision=self.commit,
                    repo_type="dataset",
                )
            )
            requested = set(batch)
            for entry in entries:
                if isinstance(entry, RepoFile):
                    file = _validated(entry, requested)
                    found[file.path] = file
        return found

    def list_folder(self, folder: str) -> list[str]:
        """Return the paths directly in a folder; none if the folder does not exist.

        Raises:
            InputError: the hub can't be reached, or its response has paths outside the folder.
        """

        def entries() -> list[RepoFile | RepoFolder]:
            tree = self._api.list_repo_tree(REPO, folder, revision=self.commit, repo_type="dataset")
            return list(islice(tree, MAX_FOLDER_ENTRIES + 1))

        try:
            paths = [entry.path for entry in self.call_with_retries(entries)]
        except EntryNotFoundError:
            return []
        if len(paths) > MAX_FOLDER_ENTRIES:
            raise _malformed(f"{folder}/ has more than {MAX_FOLDER_ENTRIES:,} entries")
        for path in paths:
            if not isinstance(path, str):
                raise _malformed(f"{path!r} is not a path")
            parent, _, name = path.rpartition("/")
            if parent != folder or name in ("", ".", ".."):
                raise _malformed(f"{path!r} is not in {folder}/")
        return paths

    @contextmanager
    def stream(self, file: RemoteFile, start: int) -> Iterator[httpx2.Response]:
        """Stream a file from byte `start` (status 206), or all of it (status 200).

        Unlike huggingface_hub's download function, this can resume a partial file.
        """
        url = hf_hub_url(REPO, file.path, repo_type="dataset", revision=self.commit)
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream(
            "GET", url, headers=headers, timeout=timeout, follow_redirects=True
        ) as response:
            hf_raise_for_status(response)
            yield response

    def call_with_retries(self, call: Callable[[], T]) -> T:
        """Call the hub, and retry after transient errors.

        Raises:
            InputError: the call failed permanently, or too often.
            EntryNotFoundError: the path does not exist.
        """
        failures = 0
        while True:
            try:
                return call()
            except EntryNotFoundError:
                raise
            except MALFORMED as error:
                raise _malformed(repr(error)) from error
            except (*FAILURES, ValueError) as error:  # ValueError: not a hub's response
                self.raise_if_final(error)
                if failures == self.retries:
                    raise InputError(
                        f"{constants.ENDPOINT} cannot be reached ({short_error(error)}); check "
                        "the network, then run the same command again: it resumes"
                    ) from error
                self.wait_before_retry(failures, short_error(error))
            failures += 1

    def raise_if_final(self, error: Exception) -> None:
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

    def wait_before_retry(self, failures: int, reason: str) -> None:
        """Log the reason of a failure and wait, longer after more failures in a row."""
        seconds = RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)]
        log.warning("%s; retrying in %d s", reason, seconds)
        self.stopping.wait(seconds)


def _validated(entry: RepoFile, requested: set[str]) -> RemoteFile:
    """Validate a file's description; huggingface_hub does not.

    Raises:
        InputError: the file was not requested, or its size or hash is invalid.
    """
    path, size = entry.path, entry.size
    oid = entry.lfs.sha256 if entry.lfs else entry.blob_id
    if not isinstance(path, str) or path not in requested:
        raise _malformed(f"{path!r} was not requested")
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        raise _malformed(f"{path} has a size of {size!r} bytes")
    if not (isinstance(oid, str) and _OID.fullmatch(oid)):
        raise _malformed(f"{path} has the hash {oid!r}")
    return RemoteFile(path, size, oid)


def _malformed(reason: str) -> InputError:
    shown = reason if len(reason) <= MAX_SHOWN_CHARS else f"{reason[:MAX_SHOWN_CHARS]}…"
    return InputError(
        f"{constants.ENDPOINT}: invalid response ({shown}); check HF_ENDPOINT and the network"
    )


def _use_custom_client() -> None:
    """Make huggingface_hub use clients that send the token only to the hub, also after errors."""
    hooks = get_session().event_hooks["request"]
    if _drop_token_for_other_hosts in hooks:
        return

    def make() -> httpx2.Client:
        return httpx2.Client(
            event_hooks={"request": [*hooks, _drop_token_for_other_hosts]},
            follow_redirects=True,
            timeout=TIMEOUT_SECONDS,
        )

    set_client_factory(make)


def _drop_token_for_other_hosts(request: httpx2.Request) -> None:
    """Remove the token from requests to other hosts, such as those of "next page" links.

    A redirect from http to https on the hub's own host keeps it.
    """
    hub, to = httpx2.URL(constants.ENDPOINT), request.url
    is_upgrade = (to.scheme, to.host) == ("https", hub.host) and to.port in (None, HTTPS_PORT)
    if to.origin != hub.origin and not is_upgrade:
        request.headers.pop("Authorization", None)


def short_error(error: Exception) -> str:
    """Return a one-line description of an error."""
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
