"""A machine with a network of its own, and something outside: namespaces, servers there, and what lies about.

::

    outside ── 203.0.113.1/24 ── 203.0.113.2/24 ── machine (the test, and all it starts)
                                 198.51.100.1/24 ── inner  (a network behind the machine)
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from builder.sandbox import _sys
from harness.abilities import is_root_of_the_machine, refuse

OUTSIDE, MACHINE = "203.0.113.1", "203.0.113.2"
INNER = "198.51.100.2"
ANSWER = "192.0.2.77"
PORT = 8000
_MTU = 1380


class Machine(NamedTuple):
    """Descriptors of the namespaces; the caller's thread is in ``own``."""

    own: int
    outside: int
    inner: int

    def links(self) -> list[str]:
        """The names of the devices."""
        return sorted(re.findall(r"^\d+: ([^@:]+)", _output("ip", "-o", "link"), re.MULTILINE))

    def tables(self) -> list[str]:
        """The tables of nftables."""
        return _output("nft", "list", "tables").splitlines()

    def rules(self) -> str:
        """All that nftables and iptables do."""
        return _output("nft", "-n", "list", "ruleset")

    def routes(self) -> str:
        """The way to each network."""
        return _output("ip", "route")

    def forwarding(self, device: str) -> str:
        """Whether the device passes on what comes in, as the kernel shows it."""
        return read_setting(f"conf/{device}/forwarding")


def run(*argv: str) -> None:
    """The command has ended well, in the caller's network namespace."""
    subprocess.run(argv, check=True, capture_output=True)


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def read_setting(name: str) -> str:
    """A value below net.ipv4 of the caller's network namespace."""
    with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
        return file.read().strip()


def write_setting(name: str, value: str) -> None:
    """As `read_setting`, changed."""
    with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as file:
        file.write(value)


def _new_namespace(stack: ExitStack) -> int:
    """The calling thread is in a new namespace, whose loopback device is up."""
    _sys.unshare(_sys.CLONE_NEWNET)
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, namespace)
    run("ip", "link", "set", "lo", "up")
    return namespace


@contextmanager
def inside(namespace: int) -> Generator[None]:
    """The calling thread, and what it starts, is there, and afterwards where it was."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _sys.setns(namespace, _sys.CLONE_NEWNET)
        yield
    finally:
        _sys.setns(before, _sys.CLONE_NEWNET)
        os.close(before)


@contextmanager
def machine() -> Generator[Machine]:
    """The calling thread is on such a machine, which passes nothing on between its two networks."""
    if not is_root_of_the_machine():
        # setns(2): the machine's own network belongs to no user namespace but the first
        refuse("enters a network of its own, from which only root of the machine comes back")
    with ExitStack() as stack:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, home)
        stack.callback(_sys.setns, home, _sys.CLONE_NEWNET)
        outside = _new_namespace(stack)
        inner = _new_namespace(stack)
        own = _new_namespace(stack)
        write_setting("ip_forward", "0")
        for device, address, theirs, there in (
            ("up0", MACHINE, OUTSIDE, outside),
            ("in0", "198.51.100.1", INNER, inner),
        ):
            run("ip", "link", "add", device, "mtu", str(_MTU), "type", "veth", "peer", "name", "peer0")
            run("ip", "link", "set", "peer0", "netns", f"/proc/{os.getpid()}/fd/{there}")
            run("ip", "address", "add", f"{address}/24", "dev", device)
            run("ip", "link", "set", device, "up")
            with inside(there):
                run("ip", "address", "add", f"{theirs}/24", "dev", "peer0")
                run("ip", "link", "set", "peer0", "up")
                run("ip", "route", "add", "default", "via", address)
        run("ip", "route", "add", "default", "via", OUTSIDE)
        yield Machine(own, outside, inner)


@contextmanager
def greeting(namespace: int, address: str = "0.0.0.0", port: int = PORT) -> Generator[None]:
    """Who connects there is told the address it is seen at."""
    with inside(namespace):
        server = socket.create_server((address, port))
    with server, _served(server, _greet):
        yield


def _greet(server: socket.socket) -> None:
    peer, (address, _port) = server.accept()
    with peer:
        peer.sendall(f"you are {address}\n".encode())


@contextmanager
def resolving(namespace: int, address: str) -> Generator[None]:
    """A name server there knows one address for every name."""
    with inside(namespace):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, 53))
    with server, _served(server, _resolve):
        yield


def _resolve(server: socket.socket) -> None:
    query, client = server.recvfrom(512)
    end = query.index(b"\0", 12) + 5
    is_ipv4 = query[end - 4 : end - 2] == b"\0\1"
    record = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 60, 4) + socket.inet_aton(ANSWER) if is_ipv4 else b""
    head = query[:2] + b"\x81\x80\0\1" + struct.pack(">H", is_ipv4) + bytes(4)
    server.sendto(head + query[12:end] + record, client)


@contextmanager
def _served(server: socket.socket, answer: Callable[[socket.socket], None]) -> Generator[None]:
    """``answer`` is called for whatever comes to ``server``, in a thread, until the block is left."""
    ended = threading.Event()
    server.settimeout(0.05)

    def serve() -> None:
        while not ended.is_set():
            try:
                answer(server)
            except TimeoutError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
