"""Resumable uploads: a session receives its bytes in one or more requests."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from drive_stand_in.contents import Contents
from drive_stand_in.messages import Request, Response, error_response, json_response

MIME_TYPE = "application/octet-stream"


@dataclass
class _Session:
    title: str
    parent: str
    size: int
    part: Path


class Uploads:
    """Open upload sessions. A file exists only after its last byte was received."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._sessions: dict[str, _Session] = {}
        self._numbers = itertools.count()

    def start(self, request: Request, title: str, parent: str) -> Response:
        upload_id = f"upload-{next(self._numbers)}"
        part = self._contents.folder / f"{upload_id}.part"
        part.touch()
        size = int(request.headers["X-Upload-Content-Length"])
        self._sessions[upload_id] = _Session(title, parent, size, part)
        location = f"https://{request.host}{request.path}?uploadType=resumable"
        return Response(200, headers={"Location": f"{location}&upload_id={upload_id}"})

    def receive(self, request: Request) -> Response:
        upload_id = request.query.get("upload_id", "")
        session = self._sessions.get(upload_id)
        if not session:
            return error_response(404, "notFound", "Upload session not found.")
        received = session.part.stat().st_size
        content_range = re.fullmatch(r"bytes (\d+)-\d+/\d+", request.headers["Content-Range"] or "")
        if content_range and int(content_range.group(1)) != received:
            return error_response(400, "badRequest", f"Upload continues at byte {received}.")
        request.read_into(session.part, "ab")
        received = session.part.stat().st_size
        if received < session.size:
            return Response(308, headers={"Range": f"bytes=0-{received - 1}"} if received else {})
        del self._sessions[upload_id]
        item = self._contents.add(session.title, session.parent, MIME_TYPE, session.part)
        return json_response(item.resource())
