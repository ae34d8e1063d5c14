"""The hub of a build: a network namespace with a bridge for the steps and one way out, kept by a process of its own.

::

    step 1: eth0 ─┐                                  ┌─ pair of devices, NAT of the host   (root)
    step 2: eth0 ─┼─ steps (bridge)   hub   uplink ──┤
    step 3: eth0 ─┘   .1 of the block                └─ pasta or slirp4netns               (anybody)

    sandbox server                 hub process (first of its process namespace)
      │ clone ───────────────────────▶│ bridge, uplink
      │◀──────────── outlet {} ───────┤
      │ (its end of the socket closes: the hub takes everything down and ends)

Steps reach what is outside and nothing of each other; two may listen on the same port. A step's own end of its pair of
devices is made by the step's first process (`attach`), so that it costs nobody else time.

Invariants: all of it hangs on processes and namespaces, so that nothing is left whichever way they die, except that a
hub killed with everything else leaves the host's forwarding on until the next one comes (`forwarding`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

from builder.network.links import End, Links
from builder.network.netlink import NETFILTER, ROUTE, open_socket
from builder.network.ranges import STEPS, STEPS_PREFIX, Block, free_blocks
from builder.sandbox import _sys
from builder.sandbox.descriptors import close_all_but
from unionfs import wire
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from builder.network.ondemand import PairOnDemand

HOST_WAY = "host"
_TITLE = b"pybuild-network"
_BRIDGE, _BRIDGE_INDEX = "steps", 3
_FIRST_PORT = 1000
_DEVICE, _DEVICE_INDEX = "eth0", 100
OWN_NAMESPACE = "/proc/self/ns/net"


class Outlet(NamedTuple):
    """What became of a hub: ``way`` is bridge, pasta, slirp4netns, or host where there is none, for the ``reason``.

    ``resolvers`` take the place of the host's, where there are any; at ``host`` steps reach the host.
    """

    way: str
    first: int = 0
    mtu: int = 0
    resolvers: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    reason: str = ""

    @property
    def is_private(self) -> bool:
        """Whether steps have a network of their own."""
        return self.way != HOST_WAY

    @property
    def block(self) -> Block:
        """The addresses of the build."""
        return Block(self.first)


class Station(NamedTuple):
    """A place at the bridge: ``hub`` is a descriptor of the hub's network namespace."""

    hub: int
    number: int
    address: str
    gateway: str
    mtu: int


class Hub:
    """A hub, seen from the sandbox server; there is none before the first `outlet`."""

    def __init__(self, *, is_root: bool) -> None:
        """``is_root`` says that the host's own devices may be changed."""
        self._is_root = is_root
        self._free = deque(range(STEPS))
        self._outlet: Outlet | None = None
        self._namespace: int | None = None
        self._report: socket.socket | None = None
        self._pid = 0
        self._refusal = ""

    def outlet(self) -> Outlet:
        """What becomes of it; waits until that is known."""
        if self._outlet is None:
            try:
                self._report = self._start()
            except OSError as error:
                self._outlet = Outlet(HOST_WAY, reason=(error.strerror or str(error)).lower())
            else:
                self._outlet, self._namespace = _receive(self._report)
        return self._outlet

    def _start(self) -> socket.socket:
        """The hub's process is at work; returns the socket to it."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._pid = _sys.clone(_sys.CLONE_NEWPID)
                if self._pid == 0:
                    close_all_but((theirs.fileno(),))
                    _run(theirs, is_root=self._is_root)
        except BaseException:
            ours.close()
            raise
        return ours

    def take(self) -> Station:
        """A place for a step; to be given back.

        Raises:
            OSError: every one is taken.
        """
        outlet = self.outlet()
        if self._namespace is None:
            raise OSError(0, "there is no private network")
        if not self._free:
            raise OSError(0, f"all {STEPS} addresses of the private network are in use")
        number = self._free.popleft()
        block = outlet.block
        return Station(self._namespace, number, block.step(number), block.gateway, outlet.mtu)

    def give_back(self, station: Station) -> None:
        """The place is free; it's the last to be taken again, since a namespace lives on a little after its step."""
        self._free.append(station.number)

    @property
    def refusal(self) -> str:
        """Why a way out that was to be made at the first packet could not be; empty where that is not so."""
        if self._report is not None and not self._refusal:
            with contextlib.suppress(OSError, wire.WireError):
                if self._report.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                    received = wire.receive(self._report)
                    self._refusal = str(received.message.get("refusal", "")) if received is not None else ""
        return self._refusal

    def end(self) -> None:
        """The hub is being taken down; `close` waits."""
        if self._report is not None:
            self._report.close()

    def close(self) -> None:
        """Everything of the hub is gone."""
        self.end()
        if self._report is not None:
            os.waitpid(self._pid, 0)
            self._report = None
        if self._namespace is not None:
            os.close(self._namespace)
            self._namespace = None


def attach(station: Station) -> None:
    """The caller's network namespace, which holds nothing but lo, has ``station`` as its only way out.

    The device has an address that follows from that of the network: who keeps a table of neighbours is right about the
    next step as well.
    """
    own = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    mac = b"\x02p" + socket.inet_aton(station.address)
    near = End(f"step{station.number}", _FIRST_PORT + station.number, mtu=station.mtu)
    _sys.setns(station.hub, _sys.CLONE_NEWNET)
    try:
        made = open_socket(ROUTE)
    finally:
        _sys.setns(own, _sys.CLONE_NEWNET)
    with Links(made) as hub:
        hub.add_pair(near, End(_DEVICE, _DEVICE_INDEX, mac, station.mtu), own, master=_BRIDGE_INDEX)
    os.close(own)
    with Links() as links:
        links.raise_up(_DEVICE_INDEX)
        links.add_address(_DEVICE_INDEX, station.address, STEPS_PREFIX)
        links.add_route(_DEVICE_INDEX, station.gateway)


def _receive(report: socket.socket) -> tuple[Outlet, int | None]:
    """What became of a hub, and its network namespace where it has one."""
    try:
        received = wire.receive(report)
    except (OSError, wire.WireError):
        received = None
    if received is None:
        return Outlet(HOST_WAY, reason="its process ended at the start"), None
    document: dict[str, Any] = {**received.message, "resolvers": tuple(received.message["resolvers"])}
    outlet = Outlet(**document)
    return outlet, received.fds[0] if received.fds else None


def _run(report: socket.socket, *, is_root: bool) -> NoReturn:
    """The life of the hub's process. It stays in the host's network namespace: a plain user can't come back there."""
    try:
        _sys.set_title(_TITLE)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _serve(report, is_root=is_root)
    except BaseException as error:  # noqa: BLE001  (the end of a process: the server gets to know in any case)
        reason = error.strerror if isinstance(error, OSError) else None
        wire.send(report, Outlet(HOST_WAY, reason=(reason or repr(error)).lower())._asdict())
    finally:
        os._exit(0)


def _serve(report: socket.socket, *, is_root: bool) -> None:
    # the server, which everything else here is imported for, doesn't need these
    from builder.network.ondemand import PairOnDemand, Trap, can_wait
    from builder.network.uplinks import Ground, open_uplink

    made = _enter_nothing(is_root=is_root)
    start = int.from_bytes(os.urandom(4), "big")
    with Links(made.route) as hub, Links() as host:
        hub.add_bridge(_BRIDGE, _BRIDGE_INDEX)
        blocks = free_blocks(list(host.networks()), start)
        ground = Ground(hub, made.netfilter, made.control, made.namespace, host, blocks)
        waiting = PairOnDemand(ground, Trap(*made.trap)) if made.trap and can_wait(ground) else None
        uplink = open_uplink(ground, is_root=is_root) if waiting is None else waiting.uplink
        try:
            hub.add_address(_BRIDGE_INDEX, uplink.block.gateway, STEPS_PREFIX)
            hub.forward(_BRIDGE_INDEX)
            outlet = Outlet(uplink.way, uplink.block.first, uplink.mtu, uplink.resolvers, uplink.host)
            wire.send(report, outlet._asdict(), [made.namespace])
            _attend(report, waiting)
        finally:
            uplink.close()


def _attend(report: socket.socket, waiting: PairOnDemand | None) -> None:
    """Packets that wait for a way out get one, until the server's end of ``report`` closes."""
    poll = select.poll()
    poll.register(report, select.POLLIN)
    if waiting is not None:
        poll.register(waiting, select.POLLIN)
    while True:
        ready = [fd for fd, _events in poll.poll()]
        if report.fileno() in ready and not report.recv(1):
            return
        refusal = waiting.serve() if waiting is not None and waiting.fileno() in ready else ""
        if waiting is not None and refusal:
            # said before steps notice, so that it is known when they end
            wire.send(report, {"refusal": refusal})
            poll.unregister(waiting)
            waiting.give_up()


class _Made(NamedTuple):
    """A network namespace, and what belongs to it: sockets to rtnetlink, to netfilter, and any; perhaps a trap."""

    namespace: int
    route: socket.socket
    netfilter: socket.socket
    control: socket.socket
    trap: list[int]


def _enter_nothing(*, is_root: bool) -> _Made:
    """A new network namespace, which this process stays outside of; a trap is tried where ``is_root``."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = _sys.clone(_sys.CLONE_NEWNET)
        if pid == 0:
            try:
                namespace = os.open(OWN_NAMESPACE, os.O_RDONLY)
                made = (open_socket(ROUTE), open_socket(NETFILTER), socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                wire.send(theirs, {}, [namespace, *(one.fileno() for one in made), *_try_trap(is_root=is_root)])
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        theirs.close()
        received = wire.receive(ours)
    if received is None:
        raise OSError(0, "no network namespace can be made")
    namespace, route, netfilter, control, *trap = received.fds
    sockets = [socket.socket(fileno=fd) for fd in (route, netfilter, control)]
    return _Made(namespace, sockets[0], sockets[1], sockets[2], trap)


def _try_trap(*, is_root: bool) -> tuple[int, ...]:
    """One in this network namespace, if it can be had."""
    from builder.network.ondemand import lay_trap

    if is_root:
        with contextlib.suppress(OSError):
            return lay_trap()
    return ()
