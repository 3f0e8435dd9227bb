"""Requests and responses."""

import json
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20


@dataclass
class Request:
    """An HTTP request. Its body can be read once."""

    host: str
    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: BinaryIO
    unread: int

    def read(self) -> bytes:
        data = self.body.read(self.unread)
        if len(data) < self.unread:
            raise ConnectionError("the client stopped in the middle of its request")
        self.unread = 0
        return data

    def read_into(self, path: Path, mode: str) -> None:
        """Stream the body to a file, in open mode `mode`."""
        with path.open(mode) as file:
            while self.unread:
                chunk = self.body.read(min(CHUNK_BYTES, self.unread))
                if not chunk:
                    raise ConnectionError("the client stopped in the middle of an upload")
                file.write(chunk)
                self.unread -= len(chunk)

    def json(self) -> dict[str, Any]:
        return json.loads(self.read() or b"{}")


@dataclass
class Response:
    """An HTTP response with the body `data`, or `length` bytes of a file from `start`."""

    status: int = 200
    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: Path | None = None
    start: int = 0
    length: int = 0

    def size(self) -> int:
        return self.length if self.file else len(self.data)


def json_response(content: Any, status: int = 200) -> Response:
    return Response(
        status, json.dumps(content).encode(), {"Content-Type": "application/json; charset=UTF-8"}
    )


def error_response(status: int, reason: str | None, message: str) -> Response:
    """Return an error response in Drive's format, or as HTML if there is no reason."""
    if reason is None:
        return Response(status, message.encode(), {"Content-Type": "text/html; charset=UTF-8"})
    detail = {"domain": "global", "reason": reason, "message": message}
    return json_response(
        {"error": {"errors": [detail], "code": status, "message": message}}, status
    )
