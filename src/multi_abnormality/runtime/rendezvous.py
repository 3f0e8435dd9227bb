"""Rendezvous: launch local ranks and connect all ranks to rank 0."""

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

from multi_abnormality.runtime.rank_info import GUIDE, RankInfo
from multi_abnormality.utils.errors import InputError

TIMEOUT = 300.0  # s for all ranks of one node to connect
MULTI_NODE_TIMEOUT = 600.0  # s; nodes start at different times

_KEY = "link"  # key in the store under which rank 0 publishes its address
_POLL_INTERVAL = 0.2  # s
_HANDSHAKE_TIMEOUT = 10.0  # s
_LOOPBACK = "127.0.0.1"


def connect_ranks(
    info: RankInfo, command: Sequence[str], children: list[subprocess.Popen[bytes]]
) -> tuple[TCPStore, dict[int, socket.socket]]:
    """Wait for all ranks to connect, after launching the local ones if no launcher does.

    On one node all sockets listen on loopback only: any process that reaches the store can join the
    group and have its members unpickle what it sends.

    Args:
        info: rank of this process.
        command: command that starts another rank on this machine.
        children: list to which spawned processes are appended.

    Returns:
        The store for torch's process group, and connections for a PeerMonitor.

    Raises:
        InputError: ranks do not connect, or are on other nodes.
    """
    if not (info.is_started or info.is_one_node):
        raise InputError(
            "machine.nodes: for several nodes, start training on each of them by torchrun or "
            f"srun; {GUIDE}"
        )
    seconds = TIMEOUT if info.is_one_node else MULTI_NODE_TIMEOUT
    # torchrun's agent serves the store at this address.
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = info.rank == 0 and not is_agents
    address = _LOOPBACK if info.is_one_node and not is_agents else info.address
    try:
        port, listener = _listen(info.port) if serves and info.is_one_node else (info.port, None)
        store = TCPStore(
            address, port, info.size, serves, timeout=timedelta(seconds=seconds),
            wait_for_workers=False, master_listen_fd=listener,
        )  # fmt: skip
        if not info.is_started:
            _spawn_local_ranks(info, store.port, command, children)
        if info.rank == 0:
            return store, _accept_peers(info, store, seconds, children)
        return store, _connect_to_rank_zero(info, store, seconds)
    except (DistError, OSError) as error:
        raise InputError(
            f"rank {info.rank} cannot connect to {address}:{info.port}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _listen(port: int) -> tuple[int, int]:
    """Listen on loopback, since torch's store would listen on all addresses.

    Args:
        port: port to use; 0 for any free one.

    Returns:
        The port and the socket's file descriptor.
    """
    server = socket.create_server((_LOOPBACK, port))
    return server.getsockname()[1], server.detach()


def _spawn_local_ranks(
    info: RankInfo, port: int, command: Sequence[str], children: list[subprocess.Popen[bytes]]
) -> None:
    common = {"WORLD_SIZE": info.size, "MASTER_ADDR": _LOOPBACK, "MASTER_PORT": port}
    for rank in range(1, info.size):
        variables = common | {"RANK": rank, "LOCAL_RANK": rank}
        environment = os.environ | {name: str(value) for name, value in variables.items()}
        children.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))


def _check(children: list[subprocess.Popen[bytes]]) -> None:
    for rank, child in enumerate(children, start=1):
        if child.poll() is not None:
            raise InputError(
                f"rank {rank} exited during startup with code {child.returncode}; its output is "
                "above"
            )


def _accept_peers(
    info: RankInfo, store: Store, seconds: float, children: list[subprocess.Popen[bytes]]
) -> dict[int, socket.socket]:
    """Accept a connection from each other rank, on rank 0."""
    secret = secrets.token_hex(16)
    peers: dict[int, socket.socket] = {}
    deadline = time.monotonic() + seconds
    with socket.create_server((_LOOPBACK if info.is_one_node else "", 0)) as server:
        server.settimeout(_POLL_INTERVAL)
        address = _LOOPBACK if info.is_one_node else info.address
        store.set(_KEY, json.dumps([address, server.getsockname()[1], secret]))
        while len(peers) < info.size - 1:
            _check(children)
            if time.monotonic() > deadline:
                raise InputError(
                    f"rendezvous timed out after {seconds:.0f} s: {len(peers) + 1} of {info.size} "
                    "ranks connected; check the logs of the others"
                )
            with suppress(OSError):  # no connection, or one that was closed early
                connection, _ = server.accept()
                connection.settimeout(_HANDSHAKE_TIMEOUT)
                received, _, rank = _read_line(connection).partition(" ")
                if secrets.compare_digest(received, secret):
                    peers[int(rank)] = _enable_keepalive(connection)
    return peers


def _connect_to_rank_zero(info: RankInfo, store: Store, seconds: float) -> dict[int, socket.socket]:
    """Connect to rank 0, on any other rank."""
    deadline = time.monotonic() + seconds
    while not store.check([_KEY]):
        if time.monotonic() > deadline:
            raise InputError(f"rank 0 did not publish its address within {seconds:.0f} s")
        time.sleep(_POLL_INTERVAL)
    address, port, secret = json.loads(store.get(_KEY))
    try:
        connection = socket.create_connection((address, port), timeout=seconds)
        connection.sendall(f"{secret} {info.rank}\n".encode())
    except OSError as error:
        raise InputError(
            f"rank 0 does not answer at {address}:{port} ({error}); nodes must reach each other on "
            "any port"
        ) from error
    return {0: _enable_keepalive(connection)}


def _read_line(connection: socket.socket) -> str:
    with connection.makefile("rb", buffering=0) as unread:  # later bytes stay in the socket
        return unread.readline(100).decode("ascii", "ignore")


def _enable_keepalive(connection: socket.socket) -> socket.socket:
    """Block indefinitely on reads, but detect a dead host within about 30 s by TCP keepalive."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # not on macOS
        for option, value in (
            (socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4),
        ):  # fmt: skip
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection
