"""Rendezvous of the ranks, and its errors."""

import json
import socket
import sys
import threading
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from multi_abnormality.runtime import rendezvous
from multi_abnormality.runtime.process_group import DistributedContext
from multi_abnormality.runtime.rank_info import RankInfo
from multi_abnormality.runtime.rendezvous import connect_ranks
from multi_abnormality.utils.errors import InputError
from rank_tasks import free_port


def first_of_two(port: int) -> RankInfo:
    return RankInfo(0, 2, 0, 2, "127.0.0.1", port, is_started=True)


def second_of_two(port: int) -> RankInfo:
    return RankInfo(1, 2, 1, 2, "127.0.0.1", port, is_started=True)


def test_rank_that_exits_during_startup_is_reported():
    ranks = DistributedContext(
        RankInfo(size=2, local_size=2), [sys.executable, "-c", "raise SystemExit(3)"]
    )
    with pytest.raises(InputError, match="rank 1 exited during startup with code 3; its output"):
        ranks.init()


def test_rendezvous_times_out_without_all_ranks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendezvous, "TIMEOUT", 0.5)
    with pytest.raises(InputError, match=r"timed out after 0 s: 1 of 2 ranks connected"):
        connect_ranks(first_of_two(free_port()), (), [])
    with pytest.raises(InputError, match=r"rank 1 cannot connect to 127\.0\.0\.1:\d+: "):
        connect_ranks(second_of_two(free_port()), (), [])


def test_rendezvous_times_out_without_rank_zeros_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendezvous, "TIMEOUT", 0.5)
    port = free_port()
    _store = TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)
    with pytest.raises(InputError, match="rank 0 did not publish its address within 0 s"):
        connect_ranks(second_of_two(port), (), [])


def test_unreachable_port_is_reported():
    port, closed = free_port(), free_port()
    store = TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)
    store.set("link", json.dumps(["127.0.0.1", closed, "secret"]))
    with pytest.raises(InputError, match=rf"127\.0\.0\.1:{closed} .*nodes must reach each other"):
        connect_ranks(second_of_two(port), (), [])


def test_connection_without_the_secret_is_rejected():
    """Such as one by a port scanner on the same network."""
    port, accepted = free_port(), {}
    first = threading.Thread(
        target=lambda: accepted.update(connect_ranks(first_of_two(port), (), [])[1]), daemon=True
    )
    first.start()
    store = TCPStore(
        "127.0.0.1", port, 2, False, timeout=timedelta(seconds=30), wait_for_workers=False
    )
    address, peer_port, _ = json.loads(store.get("link"))
    with socket.create_connection((address, peer_port)) as stranger:
        stranger.sendall(b"GET / 1\n")
        _, peers = connect_ranks(second_of_two(port), (), [])
        first.join(30)
    peers[0].sendall(b"known")
    assert accepted.keys() == {1}
    assert accepted[1].recv(5) == b"known"
    for connection in (*accepted.values(), *peers.values()):
        connection.close()
