"""Faults of the stand-in."""

import json
import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

# Faults that are responses: status, reason and message as sent by Drive.
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
    # Sent by Google's front ends if the API is unreachable: HTML, not JSON.
    "bad_gateway": (502, None, "<html><title>502. That's an error.</title></html>"),
    # A refresh token that was revoked, or is older than 7 days in an app in testing.
    "revoked": (400, "invalid_grant", "Token has been expired or revoked."),
}
OTHERS = (
    "cut",  # the connection is closed before the request is read
    "cut_answer",  # the request is executed, but only half of the response is sent
    "slow",  # the response is delayed by `seconds`
)

# All calls except the login, which clients do not retry.
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


def applies_to(kind: str, call: str) -> bool:
    """Whether a fault applies to a call if `Faults.only` is empty."""
    if kind == "quota_full":
        return call in ("insert", "upload_start")
    if kind == "revoked":
        return call == "token"
    if kind in ("rate_limit", "user_rate_limit", "unauthorized"):
        return call != "token"
    return True


@dataclass(frozen=True)
class Faults:
    """Fault settings.

    Attributes:
        kinds: names of the faults, chosen at random for each faulty call.
        share: fraction of calls that fail.
        only: names of the calls that may fail; empty for each fault's default.
        first: number of faults after which there are no more; None for no limit.
        seconds: delay of a slow response.
        seed: random seed; faults also depend on the order of calls.
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
                raise ValueError(f"{', '.join(unknown)} is not one of {', '.join(known)}")

    def hits(self, kind: str, call: str) -> bool:
        return call in self.only if self.only else applies_to(kind, call)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        values: Mapping[str, Any] = json.loads(text)
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


class FaultSource:
    """Selects faults at random, and counts calls and faults. Thread-safe."""

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
        """Return the fault of this call, or None."""
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
