"""How a training's processes hear at once of each other's end.

In a collective operation a process waits for all others, on a GPU for as long as half an hour, also
for one that is gone. So each of them holds a connection to process 0, over which nothing goes but
a last word. The system closes it when a process ends, however that comes about.
"""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from multi_abnormality.training.stopping import EXIT_CODE

PATIENCE = 10.0  # s that a process gets to leave a collective operation by itself


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
