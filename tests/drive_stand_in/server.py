"""Server of the stand-in: a proxy that terminates TLS for Google's host names."""

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from drive_stand_in import accounts
from drive_stand_in.api import HOSTS, DriveApi
from drive_stand_in.authority import server_context
from drive_stand_in.contents import Contents
from drive_stand_in.faults import ERRORS, Faults, FaultSource
from drive_stand_in.messages import CHUNK_BYTES, Request, Response, error_response, json_response

CONTROL = "/stand-in"
IDLE_SECONDS = 240  # like Google's own idle timeout
# A client that retries an upload without rewinding its file sends no body.
BODY_SECONDS = 30


class DriveStandIn:
    """Context manager that serves from threads of this process.

    Args:
        folder: directory for file contents and certificates.
        page_size: maximum number of items per page of a list; Drive may send fewer than requested.
    """

    def __init__(self, folder: Path, page_size: int = 1000) -> None:
        self.folder = folder
        self.contents = Contents(folder / "contents")
        self.api = DriveApi(self.contents, page_size)
        self.source = FaultSource()
        self.stopping = threading.Event()
        self.tls, self._trusted = server_context(folder, HOSTS)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stand_in = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def set_faults(self, faults: Faults) -> None:
        self.source.set(faults)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the counts of calls and faults."""
        return self.source.counts()

    def environment(self) -> dict[str, str]:
        """Return variables that direct httplib2, requests and other OpenSSL clients here."""
        proxy = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), self.url)
        trust = dict.fromkeys(
            ("HTTPLIB2_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), str(self._trusted)
        )
        return proxy | trust | dict.fromkeys(("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"), "")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    stand_in: DriveStandIn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore disconnected clients; report other errors."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: _Server
    host = ""  # requested host, once there is a tunnel

    def do_CONNECT(self) -> None:
        host, _, port = self.path.rpartition(":")
        if host not in HOSTS or port != "443":
            self._send(Response(403))
            return
        self.send_response(200)
        self.end_headers()
        self.host = host
        self.connection = self.server.stand_in.tls.wrap_socket(self.connection, server_side=True)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def serve(self) -> None:
        self.connection.settimeout(BODY_SECONDS)
        self._serve(self._request())
        self.connection.settimeout(IDLE_SECONDS)

    def _serve(self, request: Request) -> None:
        if not self.host:
            self._send(self._control(request))
            return
        stand_in = self.server.stand_in
        call, item_id = stand_in.api.route(request)
        fault = stand_in.source.draw(call)
        if fault == "cut":
            self.close_connection = True
            return
        if fault == "slow":
            stand_in.stopping.wait(stand_in.source.settings.seconds)
        if fault == "revoked":
            request.read()
            _, reason, message = ERRORS[fault]
            response = accounts.refusal(str(reason), message)
        elif fault in ERRORS:
            request.read()
            response = error_response(*ERRORS[fault])
        else:
            response = stand_in.api.answer(call, item_id, request)
        self._send(response, fraction=0.5 if fault == "cut_answer" else 1.0)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def _request(self) -> Request:
        url = urlsplit(self.path)
        request = Request(
            self.host,
            self.command,
            url.path,
            dict(parse_qsl(url.query)),
            self.headers,
            self.rfile,
            int(self.headers["Content-Length"] or 0),
        )
        override = self.headers["X-HTTP-Method-Override"]
        if override:  # used by Google's client for a GET with a long query
            request.method = override
            request.query = dict(parse_qsl(request.read().decode()))
        return request

    def _control(self, request: Request) -> Response:
        stand_in = self.server.stand_in
        if request.path != CONTROL:
            return Response(404)
        if request.method == "POST":
            try:
                stand_in.set_faults(Faults.from_json(request.read()))
            except (TypeError, ValueError) as error:
                return json_response({"error": str(error)}, 400)
        return json_response(stand_in.counts())

    def _send(self, response: Response, fraction: float = 1.0) -> None:
        """Send a response, or a fraction of its body and then close the connection."""
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(response.size()))
        self.end_headers()
        left = int(response.size() * fraction)
        if response.file:
            self._send_file(response.file, response.start, left)
        else:
            self.wfile.write(response.data[:left])
        self.wfile.flush()
        self.close_connection |= fraction < 1

    def _send_file(self, path: Path, start: int, left: int) -> None:
        with path.open("rb") as file:
            file.seek(start)
            while left:
                chunk = file.read(min(CHUNK_BYTES, left))
                self.wfile.write(chunk)
                left -= len(chunk)

    def log_message(self, *_: object) -> None:
        """Log nothing; use `counts()`."""
