"""How a training's processes come together, and what is told where they do not."""

import json
import socket
import sys
import threading
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from multi_abnormality.errors import InputError
from multi_abnormality.training import meeting
from multi_abnormality.training.meeting import meet
from multi_abnormality.training.place import Place
from multi_abnormality.training.ranks import Ranks
from rank_tasks import free_port


def first_of_two(port: int) -> Place:
    return Place(0, 2, 0, 2, "127.0.0.1", port, is_started=True)


def second_of_two(port: int) -> Place:
    return Place(1, 2, 1, 2, "127.0.0.1", port, is_started=True)


def test_a_process_that_ends_at_once_is_told_of():
    ranks = Ranks(Place(size=2, local_size=2), [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(InputError, match=r"process 1, .* ended at once with code 3; what"):
        ranks.assemble()


def test_who_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meeting, "PATIENCE", 0.5)
    with pytest.raises(InputError, match="1 of 2 processes came together in 0 s"):
        meet(first_of_two(free_port()), (), [])
    with pytest.raises(InputError, match=r"process 1 cannot meet the others at 127\.0\.0\.1:\d+: "):
        meet(second_of_two(free_port()), (), [])


def test_who_does_not_call_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meeting, "PATIENCE", 0.5)
    port = free_port()
    _store = TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)
    with pytest.raises(InputError, match="process 0 did not call the others within 0 s"):
        meet(second_of_two(port), (), [])


def test_a_port_that_a_firewall_closes_is_told_of():
    port, closed = free_port(), free_port()
    store = TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)
    store.set("link", json.dumps(["127.0.0.1", closed, "secret"]))
    with pytest.raises(InputError, match=rf"127\.0\.0\.1:{closed} .*nodes must reach each other"):
        meet(second_of_two(port), (), [])


def test_who_does_not_know_the_word_is_no_part_of_it():
    """As a scanner of ports on the same network."""
    port, met = free_port(), {}
    first = threading.Thread(
        target=lambda: met.update(meet(first_of_two(port), (), [])[1]), daemon=True
    )
    first.start()
    store = TCPStore(
        "127.0.0.1", port, 2, False, timeout=timedelta(seconds=30), wait_for_workers=False
    )
    address, called_at, _ = json.loads(store.get("link"))
    with socket.create_connection((address, called_at)) as stranger:
        stranger.sendall(b"GET / 1\n")
        _, peers = meet(second_of_two(port), (), [])
        first.join(30)
    peers[0].sendall(b"known")
    assert met.keys() == {1}
    assert met[1].recv(5) == b"known"
    for connection in (*met.values(), *peers.values()):
        connection.close()
