"""How a training's processes come together."""

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from torch.distributed import DistError, Store, TCPStore

from multi_abnormality.errors import InputError
from multi_abnormality.training.place import GUIDE, Place

PATIENCE = 300.0  # s in which all processes of a node must have come
PATIENCE_WITH_NODES = 600.0  # which start at different times

_KEY = "link"  # in the store, where process 0 says how to reach it
_POLL = 0.2  # s
_GREETING = 10.0  # s in which who has come must have said who it is
_LOOPBACK = "127.0.0.1"


def meet(
    place: Place, command: Sequence[str], children: list[subprocess.Popen[bytes]]
) -> tuple[TCPStore, dict[int, socket.socket]]:
    """Wait for all processes of a training, having started those that nobody else starts.

    On one node everything listens on loopback alone: whoever reaches the store of a group of
    processes can join it, and have its members unpickle what it sends.

    Args:
        place: of this one.
        command: starts another one on this machine.
        children: takes in those that were started.

    Returns:
        What torch needs to have them work together, and connections for a Link.

    Raises:
        InputError: some do not come, or are on other nodes.
    """
    if not (place.is_started or place.is_one_node):
        raise InputError(
            "machine.nodes: on several nodes training is started on each of them, by torchrun or "
            f"srun; {GUIDE}"
        )
    seconds = PATIENCE if place.is_one_node else PATIENCE_WITH_NODES
    # torchrun's agent serves the store at this address.
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = place.rank == 0 and not is_agents
    address = _LOOPBACK if place.is_one_node and not is_agents else place.address
    try:
        port, listener = _listen(place.port) if serves and place.is_one_node else (place.port, None)
        store = TCPStore(
            address, port, place.size, serves, timeout=timedelta(seconds=seconds),
            wait_for_workers=False, master_listen_fd=listener,
        )  # fmt: skip
        if not place.is_started:
            _start_others(place, store.port, command, children)
        if place.rank == 0:
            return store, _call_in(place, store, seconds, children)
        return store, _call_first(place, store, seconds)
    except (DistError, OSError) as error:
        raise InputError(
            f"process {place.rank} cannot meet the others at {address}:{place.port}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _listen(port: int) -> tuple[int, int]:
    """A port of loopback, and the socket that listens there: torch's own listens everywhere.

    Args:
        port: the one to take; 0: any.
    """
    server = socket.create_server((_LOOPBACK, port))
    return server.getsockname()[1], server.detach()


def _start_others(
    place: Place, port: int, command: Sequence[str], children: list[subprocess.Popen[bytes]]
) -> None:
    told = {"WORLD_SIZE": place.size, "MASTER_ADDR": _LOOPBACK, "MASTER_PORT": port}
    for rank in range(1, place.size):
        of_it = told | {"RANK": rank, "LOCAL_RANK": rank}
        environment = os.environ | {name: str(value) for name, value in of_it.items()}
        children.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))


def _check(children: list[subprocess.Popen[bytes]]) -> None:
    for rank, child in enumerate(children, start=1):
        if child.poll() is not None:
            raise InputError(
                f"process {rank}, which was started for training, ended at once with code "
                f"{child.returncode}; what it said is above"
            )


def _call_in(
    place: Place, store: Store, seconds: float, children: list[subprocess.Popen[bytes]]
) -> dict[int, socket.socket]:
    """As process 0: a connection to each of the others."""
    secret = secrets.token_hex(16)
    peers: dict[int, socket.socket] = {}
    deadline = time.monotonic() + seconds
    with socket.create_server((_LOOPBACK if place.is_one_node else "", 0)) as server:
        server.settimeout(_POLL)
        address = _LOOPBACK if place.is_one_node else place.address
        store.set(_KEY, json.dumps([address, server.getsockname()[1], secret]))
        while len(peers) < place.size - 1:
            _check(children)
            if time.monotonic() > deadline:
                raise InputError(
                    f"{len(peers) + 1} of {place.size} processes came together in {seconds:.0f} s; "
                    "see what became of the others"
                )
            with suppress(OSError):  # nobody came, or somebody who soon left
                connection, _ = server.accept()
                connection.settimeout(_GREETING)
                said, _, rank = _read_line(connection).partition(" ")
                if secrets.compare_digest(said, secret):
                    peers[int(rank)] = _lasting(connection)
    return peers


def _call_first(place: Place, store: Store, seconds: float) -> dict[int, socket.socket]:
    """As any other process: the connection to process 0."""
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
