"""CT-RATE on the Hugging Face hub: what is there, how large, with which hash, and its bytes."""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, RepoFile, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from multi_abnormality.console import log
from multi_abnormality.errors import InputError

REPO = "ibrahimhamamci/CT-RATE"
PATHS_A_QUESTION = 500  # the hub's own client asks for no more at a time
PAUSES = (1, 5, 20, 60)  # s before each try after a failed one; the last for all that follow
FAILURES = (httpx2.HTTPError, OSError)  # what a call raises; HfHubHTTPError is both

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub. Large ones are known by SHA-256, small ones by the hash Git gives them."""

    path: str
    size: int
    oid: str

    def hasher(self) -> "hashlib._Hash":
        """Of all of the content, to be compared with `oid`."""
        if len(self.oid) == hashlib.sha256().digest_size * 2:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


class Hub:
    """One revision of the set. Safe for threads, except `pin`.

    Attributes:
        commit: that the revision meant when it was pinned; the revision itself before.
        retries: how many calls in a row may fail and be tried again.
        stopping: set it to have all threads end what they are at.
    """

    def __init__(self, revision: str, retries: int) -> None:
        self.commit = self.revision = revision
        self.retries = retries
        self.stopping = threading.Event()
        self._api = HfApi()

    def pin(self, path: str) -> None:
        """Ask which commit the revision means, by a file that every revision has."""
        url = hf_hub_url(REPO, path, repo_type="dataset", revision=self.revision)
        try:
            # Not a listing of the set: that holds 50,000 files.
            self.commit = self.ask(lambda: get_hf_file_metadata(url)).commit_hash or self.revision
        except EntryNotFoundError as error:
            raise InputError(
                f"--revision {self.revision}: has no {path}; ask for another"
            ) from error

    def describe(self, paths: Iterable[str]) -> dict[str, RemoteFile]:
        """Size and hash by path; what is not on the hub is missing."""
        found = {}
        for some in in_groups(paths, PATHS_A_QUESTION):
            entries = self.ask(
                partial(
                    self._api.get_paths_info,
                    REPO,
                    some,
                    revision=self.commit,
                    repo_type="dataset",
                )
            )
            for entry in entries:
                if isinstance(entry, RepoFile):
                    oid = entry.lfs.sha256 if entry.lfs else entry.blob_id
                    found[entry.path] = RemoteFile(entry.path, entry.size, oid)
        return found

    def list_folder(self, folder: str) -> list[str]:
        """The paths right in a folder; none where there is no such folder."""
        try:
            entries = self.ask(
                lambda: list(
                    self._api.list_repo_tree(
                        REPO, folder, revision=self.commit, repo_type="dataset"
                    )
                )
            )
        except EntryNotFoundError:
            return []
        return [entry.path for entry in entries]

    @contextmanager
    def stream(self, file: RemoteFile, start: int) -> Iterator[httpx2.Response]:
        """A file's bytes from `start` on, or all of them: the status says which (206 or 200).

        The hub's own download function starts a broken file anew; this way it can be gone on with.
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

    def ask(self, call: Callable[[], T]) -> T:
        """Call, again after a pause where that may help.

        Raises:
            InputError: it failed for good, and says what to do.
            EntryNotFoundError: there is no such path.
        """
        failures = 0
        while True:
            try:
                return call()
            except EntryNotFoundError:
                raise
            except (*FAILURES, ValueError) as error:  # ValueError: what answers is no hub
                self.raise_if_final(error)
                if failures == self.retries:
                    raise InputError(
                        f"{constants.ENDPOINT} cannot be reached ({told(error)}); look after the "
                        "network, then run the same command again: it goes on"
                    ) from error
                self.pause(failures, told(error))
            failures += 1

    def raise_if_final(self, error: Exception) -> None:
        """Raise an InputError where trying again is no use."""
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if isinstance(error, RevisionNotFoundError):
            raise InputError(
                f"--revision {self.revision}: {REPO} has no such branch, tag or commit; see "
                f"https://huggingface.co/datasets/{REPO}/commits/main"
            ) from error
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
            raise InputError(
                f"{REPO} is gated, and the hub refuses this account ({status}). Log in at "
                f"https://huggingface.co/datasets/{REPO} and accept its terms, make a token that "
                "may read gated repositories at https://huggingface.co/settings/tokens, give it "
                "to `hf auth login` or in HF_TOKEN, then run the same command again"
            ) from error
        if isinstance(error, OfflineModeIsEnabled):
            raise InputError("HF_HUB_OFFLINE is set; unset it to download") from error

    def pause(self, failures: int, reason: str) -> None:
        """Wait after so many failures in a row, and the one of the reason."""
        seconds = PAUSES[min(failures, len(PAUSES) - 1)]
        log.warning("%s; trying again in %d s", reason, seconds)
        self.stopping.wait(seconds)


def told(error: Exception) -> str:
    """An error of the hub's client in a line."""
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
