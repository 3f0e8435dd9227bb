"""How a training's processes hear at once of each other's end.

In a collective operation a process waits for all others, on a GPU for as long as half an hour, also
for one that is gone. So each of them holds a connection to process 0, over which nothing goes but
a last word. The system closes it when a process ends, however that comes about.
"""

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from torch.distributed import Store

from multi_abnormality.errors import InputError
from multi_abnormality.training.place import Place
from multi_abnormality.training.stopping import EXIT_CODE

PATIENCE = 10.0  # s that a process gets to leave a collective operation by itself
_KEY = "link"  # in the store, where process 0 says how to reach it
_POLL = 0.2  # s


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        rank: of the process.
        code: its exit code; None: it ended without a word.
        text: its error's message.
    """

    rank: int
    code: int | None = None
    text: str = ""


class Link:
    """Connections to process 0, or from it to all others.

    Args:
        rank: of this process.
        peers: connections by the rank of the process at the other end.
        give_up: ends this process at once; called by another thread where an ending that this
            process can't go on after has not made it leave within PATIENCE.
    """

    def __init__(
        self, rank: int, peers: dict[int, socket.socket], give_up: Callable[[Ending], None]
    ) -> None:
        self.rank = rank
        self.ending: Ending | None = None  # the first that this process can't go on after
        self._peers = peers
        self._give_up = give_up
        self._heard = threading.Event()
        self._left = threading.Event()
        for peer, connection in peers.items():
            threading.Thread(target=self._listen, args=(peer, connection), daemon=True).start()

    def leave(self) -> None:
        """From now on this process waits for no other one."""
        self._left.set()

    def ending_within(self, seconds: float) -> Ending | None:
        self._heard.wait(seconds)
        return self.ending

    def say(self, code: int, text: str = "") -> None:
        """This process's last word."""
        self.leave()
        word = json.dumps({"code": code, "text": text}).encode() + b"\n"
        for connection in self._peers.values():
            with suppress(OSError):  # who is gone need not hear it
                connection.sendall(word)
                connection.shutdown(socket.SHUT_WR)

    def _listen(self, peer: int, connection: socket.socket) -> None:
        word = b""
        with suppress(OSError):  # a broken connection says what a closed one says
            while part := connection.recv(4096):
                word += part
        ending = Ending(peer, **json.loads(word)) if word.endswith(b"\n") else Ending(peer)
        if peer != 0 and ending.code in (0, EXIT_CODE):
            return
        if self.ending is None:
            self.ending = ending
            self._heard.set()
        if not self._left.wait(PATIENCE):
            self._give_up(ending)


def call_in(
    place: Place, store: Store, seconds: float, check: Callable[[], None]
) -> dict[int, socket.socket]:
    """As process 0: a connection to each of the others.

    Args:
        place: of process 0.
        store: where all look for how to reach it.
        seconds: to wait.
        check: called now and then; raises where there is nothing to wait for.

    Raises:
        InputError: some did not come.
    """
    is_one_node = place.local_size == place.size
    secret, peers = secrets.token_hex(16), {}
    deadline = time.monotonic() + seconds
    with socket.create_server(("127.0.0.1" if is_one_node else "", 0)) as server:
        server.settimeout(_POLL)
        address = "127.0.0.1" if is_one_node else place.address
        store.set(_KEY, json.dumps([address, server.getsockname()[1], secret]))
        while len(peers) < place.size - 1:
            check()
            if time.monotonic() > deadline:
                raise InputError(
                    f"{len(peers) + 1} of {place.size} processes came together in {seconds:.0f} s; "
                    "see what became of the others"
                )
            with suppress(OSError):  # nobody came, or somebody who soon left
                connection, _ = server.accept()
                connection.settimeout(PATIENCE)
                said, _, rank = _read_line(connection).partition(" ")
                if secrets.compare_digest(said, secret):
                    peers[int(rank)] = _lasting(connection)
    return peers


def call_first(place: Place, store: Store, seconds: float) -> dict[int, socket.socket]:
    """As any other process: the connection to process 0.

    Raises:
        InputError: it does not answer.
    """
    deadline = time.monotonic() + seconds
    while not store.check([_KEY]):
        if time.monotonic() > deadline:
            raise InputError(f"process 0 did not call the others within {seconds:.0f} s")
        time.sleep(_POLL)
    address, port, secret = json.loads(store.get(_KEY))
    try:
        connection = socket.create_connection((address, port), timeout=seconds)
        connection.sendall(f"{secret} {place.rank}\n".encode())
    except OSError as error:
        raise InputError(
            f"process 0 does not answer at {address}:{port} ({error}); nodes must reach each other "
            "on any port"
        ) from error
    return {0: _lasting(connection)}


def _read_line(connection: socket.socket) -> str:
    with connection.makefile("rb", buffering=0) as unread:  # what comes after it is not taken
        return unread.readline(100).decode("ascii", "ignore")


def _lasting(connection: socket.socket) -> socket.socket:
    """Waits for ever, but for no machine that is gone, which closes nothing: half a minute."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # not on macOS
        for option, value in (
            (socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4),
        ):  # fmt: skip
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection
