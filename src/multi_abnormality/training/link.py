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
from dataclasses import asdict, dataclass

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
        self._closed = threading.Event()
        for peer, connection in peers.items():
            threading.Thread(target=self._listen, args=(peer, connection), daemon=True).start()

    def leave(self) -> None:
        """From now on this process waits for no other one."""
        self._left.set()

    def ending_within(self, seconds: float) -> Ending | None:
        self._heard.wait(seconds)
        return self.ending

    def say(self, code: int, text: str) -> None:
        """This process's last word."""
        self.leave()
        self._send(Ending(self.rank, code, text))

    def hang_up(self) -> None:
        """Have the others see this process as ended."""
        for connection in self._peers.values():
            with suppress(OSError):  # it has ended before
                connection.shutdown(socket.SHUT_RDWR)

    def outwait_first(self) -> None:
        """Return once process 0 has ended: who starts processes may end all where one ends."""
        self._closed.wait()

    def _send(self, ending: Ending) -> None:
        word = json.dumps(asdict(ending)).encode() + b"\n"
        for rank, connection in self._peers.items():
            if rank != ending.rank:
                with suppress(OSError):  # who is gone need not hear it
                    connection.sendall(word)

    def _listen(self, peer: int, connection: socket.socket) -> None:
        spoke = False
        with suppress(OSError), connection.makefile("rb") as words:  # broken is as good as closed
            for word in words:
                if word.endswith(b"\n"):
                    spoke = True
                    self._hear(Ending(**json.loads(word)))
        self._closed.set()
        if not spoke:
            self._hear(Ending(peer))

    def _hear(self, ending: Ending) -> None:
        if self.rank == 0 and ending.code in (0, EXIT_CODE):
            return
        if self.ending is None:
            self.ending = ending
            self._heard.set()
            if self.rank == 0:
                self._send(ending)  # so that the others know what broke their operation
        if not self._left.wait(PATIENCE):
            self._give_up(ending)
