"""CT-RATE on the Hugging Face hub: what is there, how large, with which hash, and its bytes.

What a hub answers is checked here, before anything else uses it: commit ids and hashes become parts
of local paths, and so does every path. The token is sent to the hub alone.
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

from multi_abnormality.console import log
from multi_abnormality.errors import InputError

REPO = "ibrahimhamamci/CT-RATE"
PATHS_A_QUESTION = 500  # the hub's own client asks for no more at a time
PAUSES = (1, 5, 20, 60)  # s before each try after a failed one; the last for all that follow
FAILURES = (httpx2.HTTPError, OSError)  # what a call raises; HfHubHTTPError is both
# What the hub's client raises over JSON and addresses of another form than the hub's.
MALFORMED = (AttributeError, KeyError, TypeError, RecursionError, httpx2.InvalidURL)
MAX_FILE_BYTES = 1 << 50
MAX_FOLDER_ENTRIES = 100_000
ANSWER_SECONDS = 60.0  # without a byte of it
HTTPS_PORT = 443
MAX_SHOWN = 200  # characters of a wrong answer in a message

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)

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
        _use_own_client()

    def pin(self, path: str) -> None:
        """Ask which commit the revision means, by a file that every revision has.

        Raises:
            InputError: the revision lacks that file, or the answer has no commit id.
        """
        url = hf_hub_url(REPO, path, repo_type="dataset", revision=self.revision)
        try:
            # Not a listing of the set: that holds 50,000 files.
            commit = self.ask(lambda: get_hf_file_metadata(url)).commit_hash
        except EntryNotFoundError as error:
            raise InputError(
                f"--revision {self.revision}: has no {path}; ask for another"
            ) from error
        if not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
            raise _malformed(f"{commit!r} is not a commit id")
        self.commit = commit

    def describe(self, paths: Iterable[str]) -> dict[str, RemoteFile]:
        """Size and hash by path; what is not on the hub is missing.

        Raises:
            InputError: the hub cannot be asked, or answers with other paths than those, or with a
                size or hash that no file has.
        """
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
            asked = set(some)
            for entry in entries:
                if isinstance(entry, RepoFile):
                    file = _checked(entry, asked)
                    found[file.path] = file
        return found

    def list_folder(self, folder: str) -> list[str]:
        """The paths right in a folder; none where there is no such folder.

        Raises:
            InputError: the hub cannot be asked, or answers with paths that are not in the folder.
        """

        def entries() -> list[RepoFile | RepoFolder]:
            tree = self._api.list_repo_tree(REPO, folder, revision=self.commit, repo_type="dataset")
            return list(islice(tree, MAX_FOLDER_ENTRIES + 1))

        try:
            paths = [entry.path for entry in self.ask(entries)]
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
            except MALFORMED as error:
                raise _malformed(repr(error)) from error
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


def _checked(entry: RepoFile, asked: set[str]) -> RemoteFile:
    """What the hub's client made of an answer, of which it checks nothing.

    Raises:
        InputError: it is not one of the files that were asked for, or no file's description.
    """
    path, size = entry.path, entry.size
    oid = entry.lfs.sha256 if entry.lfs else entry.blob_id
    if not isinstance(path, str) or path not in asked:
        raise _malformed(f"{path!r} was not asked for")
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        raise _malformed(f"{path} has a size of {size!r} bytes")
    if not (isinstance(oid, str) and _OID.fullmatch(oid)):
        raise _malformed(f"{path} has the hash {oid!r}")
    return RemoteFile(path, size, oid)


def _malformed(fault: str) -> InputError:
    shown = fault if len(fault) <= MAX_SHOWN else f"{fault[:MAX_SHOWN]}…"
    return InputError(
        f"{constants.ENDPOINT}: its answer is not a hub's ({shown}), so nothing of it is used; "
        "check HF_ENDPOINT and the network"
    )


def _use_own_client() -> None:
    """Have the hub's library make clients, also after an error, that keep the token to the hub."""
    hooks = get_session().event_hooks["request"]
    if _keep_token_from_others in hooks:
        return

    def make() -> httpx2.Client:
        return httpx2.Client(
            event_hooks={"request": [*hooks, _keep_token_from_others]},
            follow_redirects=True,
            timeout=ANSWER_SECONDS,
        )

    set_client_factory(make)


def _keep_token_from_others(request: httpx2.Request) -> None:
    """Send the token to the hub alone: its client also sends it to where a "next page" link leads.

    A redirect of the hub's own host from http to https keeps it.
    """
    hub, to = httpx2.URL(constants.ENDPOINT), request.url
    is_upgrade = (to.scheme, to.host) == ("https", hub.host) and to.port in (None, HTTPS_PORT)
    if to.origin != hub.origin and not is_upgrade:
        request.headers.pop("Authorization", None)


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
