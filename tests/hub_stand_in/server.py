"""Server of the stand-in: the hub's API as far as downloads use it, and its file store."""

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from hub_stand_in.faults import Fault, FaultSource

REPO = "datasets/ibrahimhamamci/CT-RATE"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_standin"
LARGE = (".nii.gz", ".csv", ".safetensors")  # stored in LFS
CHUNK_BYTES = 1 << 16
SLOW_SECONDS = 0.05


@dataclass
class Call:
    """A request, and the number of bytes of the response body sent so far."""

    method: str
    path: str
    range: str
    status: int
    sent: int = 0
    authorization: str = ""


class HubStandIn:
    """Context manager that serves a folder; its files may change meanwhile.

    Attributes:
        folder: directory with the repository's files.
        repo: path of the repository in addresses.
        access: "open" or "unaccepted" (the account has not accepted the terms: status 403).
        claimed_sizes: wrong file sizes to report, by path.
        commit: commit id sent with each file; None for none.
        later_heads: statuses of HEAD requests for a path after the first; 200 has no ETag.
        alter: replaces the content of API responses; bytes are sent as they are.
        store: address that large files are redirected to.
        calls: log of the requests.
    """

    def __init__(self, folder: Path, repo: str = REPO) -> None:
        self.folder = folder
        self.repo = repo
        self.access = "open"
        self.claimed_sizes: dict[str, int] = {}
        self.commit: str | None = COMMIT
        self.later_heads: dict[str, int] = {}
        self.alter: Callable[[Any], Any] = lambda content: content
        self.calls: list[Call] = []
        self.faults = FaultSource()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stand_in = self
        self.port = self._server.server_port
        # Another host than the API's, like the hub's store, which must not get the token.
        self.store = f"http://localhost:{self.port}/store/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def set_faults(self, *faults: Fault) -> None:
        self.faults.set(*faults)

    def sent(self, match: str) -> int:
        """Return the bytes sent in response to requests whose path matches."""
        return sum(call.sent for call in self.calls if re.search(match, call.path))

    def environment(self, home: Path) -> dict[str, str]:
        """Return variables that direct huggingface_hub here, with a token and `home`."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def describe(self, path: str) -> dict[str, Any] | None:
        """Return the API's description of a file or folder."""
        local = self.folder / path
        if local.is_dir():
            return {"type": "directory", "path": path, "oid": hashlib.sha1(b"").hexdigest()}
        if not local.is_file():
            return None
        content = local.read_bytes()
        size = self.claimed_sizes.get(path, len(content))
        entry = {"type": "file", "path": path, "size": size}
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        if path.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": 134}
        return entry | {"oid": blob}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    stand_in: HubStandIn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore disconnected clients; report other errors."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def serve(self) -> None:
        self.hub = self.server.stand_in
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if path.startswith("/store/"):
            self._store(path.removeprefix("/store/"))
            return
        match = re.fullmatch(rf"(/api)?/{self.hub.repo}/(resolve|paths-info)/([^/]+)/?(.*)", path)
        if not match:
            self._answer(404, {"X-Error-Code": "RepoNotFound"})
            return
        _, call, revision, rest = match.groups()
        if revision not in ("main", COMMIT):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif call == "paths-info":
            paths = parse_qs(body.decode())["paths"]
            self._json([entry for path in paths if (entry := self.hub.describe(path))])
        else:
            self._resolve(rest)

    do_GET = do_HEAD = do_POST = serve

    def _resolve(self, path: str) -> None:
        entry = self.hub.describe(path)
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"X-Error-Code": "GatedRepo"})
        elif self.hub.access == "unaccepted":
            self._answer(403, {"X-Error-Code": "GatedRepo"})
        elif self.command == "HEAD" and path in self.hub.later_heads and self._is_repeated():
            self._answer(self.hub.later_heads[path], self._commit())
        elif entry is None:
            self._answer(404, {"X-Error-Code": "EntryNotFound"})
        elif "lfs" in entry:
            large = self._commit() | {
                "X-Linked-Size": str(entry["size"]),
                "X-Linked-ETag": f'"{entry["lfs"]["oid"]}"',
                "ETag": f'"{entry["oid"]}"',
                "Location": f"{self.hub.store}{path}",
            }
            self._answer(302, large)
        else:
            self._send_file(path, self._commit() | {"ETag": f'"{entry["oid"]}"'})

    def _is_repeated(self) -> bool:
        earlier = [call.path for call in self.hub.calls if call.method == "HEAD"]
        return unquote(self.path) in earlier

    def _commit(self) -> dict[str, str]:
        return {} if self.hub.commit is None else {"X-Repo-Commit": self.hub.commit}

    def _store(self, path: str) -> None:
        if self.headers["Authorization"]:  # as S3 does for a signed address
            self._answer(400, {})
        else:
            self._send_file(path, {"Accept-Ranges": "bytes"})

    def _send_file(self, path: str, headers: dict[str, str]) -> None:
        fault = self.hub.faults.draw(path) if self.command == "GET" else None
        if fault and fault.kind == "unavailable":
            self._answer(503, {})
            return
        if fault and fault.kind == "busy":
            self._answer(429, {"Retry-After": "300"})
            return
        if fault and fault.kind == "silent":
            time.sleep(fault.after)
            self.close_connection = True
            return
        content = (self.hub.folder / path).read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(match[1]) if match else 0
        if start and start >= len(content):
            self._answer(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        if match:
            content_range = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers = headers | {"Content-Range": content_range}
        content = content[start:]
        if fault and fault.kind == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault and fault.kind == "longer":
            content += bytes(fault.after)
        self._answer(206 if match else 200, headers, content, fault)

    def _json(self, content: Any) -> None:
        content = self.hub.alter(content)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self._answer(200, {"Content-Type": "application/json"}, body)

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes = b"", fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            body = b""
        call = Call(
            self.command, unquote(self.path), self.headers["Range"] or "", status,
            authorization=self.headers["Authorization"] or "",
        )  # fmt: skip
        self.hub.calls.append(call)
        self._send(body, fault, call)

    def _send(self, body: bytes, fault: Fault | None, call: Call) -> None:
        if fault and fault.kind == "cut":
            body = body[: fault.after]
            self.close_connection = True
        slow = fault and fault.kind == "slow"
        chunk = fault.after if slow else CHUNK_BYTES
        for start in range(0, len(body), chunk):
            call.sent += self.wfile.write(body[start : start + chunk])
            if slow:
                time.sleep(SLOW_SECONDS)

    def log_message(self, *_: object) -> None:
        """Log nothing; see `calls`."""
