"""Listening sockets of a process and its children, from /proc."""

import ipaddress
from contextlib import suppress
from pathlib import Path

import psutil

_LISTEN = "0A"  # state of a TCP socket in /proc/net/tcp; a bound UDP socket has 07
_BOUND = "07"
KINDS = {"tcp": _LISTEN, "tcp6": _LISTEN, "udp": _BOUND, "udp6": _BOUND}


def listeners(pid: int) -> set[tuple[str, str, int]]:
    """Return protocol, address and port of the sockets of a process and its children."""
    found = set()
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(OSError):
                found |= _of(process.pid)
    return found


def beyond_loopback(found: set[tuple[str, str, int]]) -> set[tuple[str, str, int]]:
    return {socket for socket in found if not ipaddress.ip_address(socket[1]).is_loopback}


def _of(pid: int) -> set[tuple[str, str, int]]:
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(entry.readlink()))
    found = set()
    for kind, state in KINDS.items():
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == state and f"socket:[{cells[9]}]" in sockets:
                address, port = cells[1].split(":")
                found.add((kind, _address(address), int(port, 16)))
    return found


def _address(text: str) -> str:
    """Parse an address of hexadecimal 32-bit words in native byte order."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
