"""Failure detection: each rank learns immediately when another exits.

A collective operation waits for all ranks, on a GPU for up to half an hour, even if one of them has
exited. So each rank keeps a connection to rank 0, which carries only exit statuses. The operating
system closes it when a process ends for any reason.
"""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

from multi_abnormality.runtime.graceful_stop import EXIT_CODE

GRACE_PERIOD = 10.0  # s for a rank to leave a collective operation by itself


@dataclass(frozen=True)
class ExitStatus:
    """Exit status of a rank.

    Attributes:
        rank: rank of the process.
        code: exit code; None if the process exited without reporting one.
        text: error message.
    """

    rank: int
    code: int | None = None
    text: str = ""


class PeerMonitor:
    """Connections to rank 0, or from it to all other ranks.

    Args:
        rank: rank of this process.
        peers: connections by the rank of the peer.
        give_up: terminates this process; called from another thread if a peer's exit has not made
            this process leave within GRACE_PERIOD.
    """

    def __init__(
        self, rank: int, peers: dict[int, socket.socket], give_up: Callable[[ExitStatus], None]
    ) -> None:
        self.rank = rank
        self.exit_status: ExitStatus | None = None  # the first exit that ends this rank as well
        self._peers = peers
        self._give_up = give_up
        self._exit_received = threading.Event()
        self._detached = threading.Event()
        self._closed = threading.Event()
        for peer, connection in peers.items():
            threading.Thread(target=self._listen, args=(peer, connection), daemon=True).start()

    def detach(self) -> None:
        """Stop waiting for other ranks; their exits no longer end this one."""
        self._detached.set()

    def wait_for_exit_status(self, seconds: float) -> ExitStatus | None:
        self._exit_received.wait(seconds)
        return self.exit_status

    def report_exit(self, code: int, text: str) -> None:
        """Report to the other ranks how this one exited."""
        self.detach()
        self._send(ExitStatus(self.rank, code, text))

    def close_connection(self) -> None:
        """Close the connections, which the other ranks take as this one's exit."""
        for connection in self._peers.values():
            with suppress(OSError):  # the peer has exited before
                connection.shutdown(socket.SHUT_RDWR)

    def wait_for_rank_zero(self) -> None:
        """Wait for rank 0 to exit first; some launchers kill every rank as soon as one exits."""
        self._closed.wait()

    def _send(self, status: ExitStatus) -> None:
        line = json.dumps(asdict(status)).encode() + b"\n"
        for rank, connection in self._peers.items():
            if rank != status.rank:
                with suppress(OSError):  # the peer has exited
                    connection.sendall(line)

    def _listen(self, peer: int, connection: socket.socket) -> None:
        reported = False
        with suppress(OSError), connection.makefile("rb") as lines:  # an error counts as closed
            for line in lines:
                if line.endswith(b"\n"):
                    reported = True
                    self._on_exit(ExitStatus(**json.loads(line)))
        self._closed.set()
        if not reported:
            self._on_exit(ExitStatus(peer))

    def _on_exit(self, status: ExitStatus) -> None:
        if self.rank == 0 and status.code in (0, EXIT_CODE):
            return
        if self.exit_status is None:
            self.exit_status = status
            self._exit_received.set()
            if self.rank == 0:
                self._send(status)  # so that the others know what broke their operation
        if not self._detached.wait(GRACE_PERIOD):
            self._give_up(status)
