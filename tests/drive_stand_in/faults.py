"""What the stand-in does wrong, and when."""

import json
import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

# Faults that are an answer: status, reason and message as Drive gives them.
ERRORS = {
    "rate_limit": (403, "rateLimitExceeded", "Rate Limit Exceeded"),
    "user_rate_limit": (403, "userRateLimitExceeded", "User Rate Limit Exceeded"),
    "too_many_requests": (429, "rateLimitExceeded", "Too many requests"),
    "server_error": (500, "internalError", "Internal Error"),
    "unavailable": (503, "backendError", "Backend Error"),
    "unauthorized": (401, "authError", "Invalid Credentials"),
    "quota_full": (
        403,
        "storageQuotaExceeded",
        "The user's Drive storage quota has been exceeded.",
    ),
    # What Google's front ends say when the API itself is out of reach: HTML, not JSON.
    "bad_gateway": (502, None, "<html><title>502. That's an error.</title></html>"),
    # A refresh token that was revoked, or is over seven days old in an app under test.
    "revoked": (400, "invalid_grant", "Token has been expired or revoked."),
}
OTHERS = (
    "cut",  # the connection ends before the request is read
    "cut_answer",  # the request is carried out, and half of the answer arrives
    "slow",  # the answer comes `seconds` late
)

# Every call but the login's, which clients do not repeat by themselves.
DRIVE_CALLS = (
    "about",
    "list",
    "get",
    "download",
    "insert",
    "upload_start",
    "upload",
    "patch",
    "trash",
    "delete",
)
CALLS = ("token", *DRIVE_CALLS)


def befalls(kind: str, call: str) -> bool:
    """Whether a fault is one of this call's, where `Faults.only` does not say."""
    if kind == "quota_full":
        return call in ("insert", "upload_start")
    if kind == "revoked":
        return call == "token"
    if kind in ("rate_limit", "user_rate_limit", "unauthorized"):
        return call != "token"
    return True


@dataclass(frozen=True)
class Faults:
    """Which faults happen: one of `kinds`, drawn for a `share` of the calls.

    `only` limits them to some of `CALLS`; with `first` they end after that
    many. The draws follow from `seed` and the order in which calls arrive.
    """

    kinds: tuple[str, ...] = ()
    share: float = 1.0
    only: tuple[str, ...] = ()
    first: int | None = None
    seconds: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for names, known in ((self.kinds, (*ERRORS, *OTHERS)), (self.only, CALLS)):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ValueError(f"{', '.join(unknown)} is none of {', '.join(known)}")

    def hits(self, kind: str, call: str) -> bool:
        return call in self.only if self.only else befalls(kind, call)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        values: Mapping[str, Any] = json.loads(text)
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


class FaultSource:
    """Draws faults, and counts calls and faults. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.set(Faults())

    def set(self, settings: Faults) -> None:
        with self._lock:
            self.settings = settings
            self._random = random.Random(settings.seed)
            self._left = settings.first

    def draw(self, call: str) -> str | None:
        """The fault that befalls this call, or None."""
        with self._lock:
            self.calls[call] += 1
            settings = self.settings
            kinds = [kind for kind in settings.kinds if settings.hits(kind, call)]
            if not kinds or self._left == 0 or self._random.random() >= settings.share:
                return None
            if self._left is not None:
                self._left -= 1
            kind = self._random.choice(kinds)
            self.faults[kind] += 1
            return kind

    def counts(self) -> dict[str, dict[str, int]]:
        with self._lock:
            return {"calls": dict(self.calls), "faults": dict(self.faults)}
