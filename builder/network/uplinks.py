"""The ways out of a hub: a pair of devices with NAT on the host, or a program that speaks for it.

::

    pair       hub ── pybuildXXXXXX on the host ── nftables: masquerade ── the host's routes      root
    program    hub ── tap device ── pasta or slirp4netns, sockets in the host's namespace         anybody

Invariants: an `Uplink` that exists works, and ``close`` leaves nothing of it; each way ends by itself with the hub's
process: a device goes with its namespace, an owned table with its socket, a program with the process namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator

from builder.network.firewall import let_through, let_through_no_more
from builder.network.forwarding import PREFIX, Forwarding
from builder.network.links import End, Links
from builder.network.nat import (
    FORWARD,
    IIF,
    INDEPENDENT,
    OIF,
    OIFNAME,
    POSTROUTING,
    SOURCE_NAT,
    Chain,
    Match,
    OwnedTable,
    Rule,
)
from builder.network.ranges import BLOCK_PREFIX, PAIR_PREFIX, PROGRAM_PREFIX, Block
from builder.sandbox import _sys
from unionfs.namedtuple import NamedTuple

NAME, INDEX = "uplink", 2
_ATTEMPTS = 16
_FIRST_INDEX = 1 << 24
_HOST, _PEER = 1, 2
_GATEWAY, _RESOLVER, _GUEST = 2, 3, 100
_START_SECONDS = 15.0
_POLL_SECONDS = 0.002
_LAST_BYTES = 400
_PLACE = "/sys"
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CARRYING_SECONDS = 1.0
_SIOCGIFMTU = 0x8921  # netdevice(7)


class Ground(NamedTuple):
    """Where an uplink is made: the caller is in the host's network namespace, and has sockets in the hub's."""

    hub: Links
    filter: socket.socket
    control: socket.socket
    namespace: int
    host: Links
    blocks: Iterator[Block]

    def next_block(self) -> Block:
        """A block nobody uses. Raises UplinkError where every one is taken."""
        for block in self.blocks:
            return block
        raise UplinkError("no private range of addresses is free")


class Uplink(NamedTuple):
    """A way out. ``resolvers`` answer in place of the host's, where there are any; at ``host`` the host is reached."""

    way: str
    block: Block
    resolvers: tuple[str, ...]
    host: str
    mtu: int
    close: Callable[[], None]


class UplinkError(OSError):
    """This way out can't be had here; ``strerror`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(0, reason)


def open_uplink(ground: Ground, *, is_root: bool) -> Uplink:
    """The best way out that can be had; only root of the machine may change what the host has.

    Raises:
        UplinkError: there is none, for reasons that it lists.
    """
    # Debian 12's pasta takes it badly when a step closes one half of a connection (ADR 20)
    ways = {"bridge": by_pair, "slirp4netns": by_slirp, "pasta": by_pasta}
    reasons: list[str] = []
    for name, way in ways.items():
        if name != "bridge" or is_root:
            try:
                return way(ground)
            except OSError as error:
                reasons.append(f"{name}: {(error.strerror or str(error)).lower()}")
    raise UplinkError("; ".join(reasons))


def by_pair(ground: Ground) -> Uplink:
    """The hub's packets are the host's to route and to translate.

    Raises:
        OSError: as `make_pair`.
    """
    uplink = make_pair(ground)
    try:
        lead_out(ground, uplink)
    except BaseException:
        uplink.close()
        raise
    return uplink


def lead_out(ground: Ground, uplink: Uplink, *, priority: int = 0) -> None:
    """What leaves the hub goes by ``uplink``, of `make_pair`, where no route of a lower ``priority`` is there."""
    ground.hub.add_route(INDEX, host_address(uplink.block), priority=priority)


def make_pair(ground: Ground) -> Uplink:
    """A pair of devices that would lead outside: it has no route in the hub.

    A packet that came through before its addresses are translated would make all of its connection go untranslated.

    Raises:
        OSError: the kernel has no such devices or no NAT, or this process may not make them.
    """
    with contextlib.ExitStack() as device, contextlib.ExitStack() as around:
        mtu = host_mtu(ground.host)
        block, index = _add_pair(ground, mtu)
        device.callback(ground.host.remove, index)
        forwarding = Forwarding(ground.host)
        around.callback(forwarding.close)
        guarded = tuple(map(socket.if_nametoindex, forwarding.changed))
        ground.host.forward(index)
        if let_through(_device_name(block)):
            around.callback(let_through_no_more, _device_name(block))
        name = f"{PREFIX}-{block.number:06x}"
        around.callback(OwnedTable(name, *host_chains(index, guarded)).close)
        _await_carrying(ground.hub, INDEX)
        _await_carrying(ground.host, index)
        undo = contextlib.ExitStack()
        undo.callback(around.pop_all().close)
        # the device goes first: nobody comes through it without the table, and the kernel takes a sixth less time
        undo.callback(device.pop_all().close)
        return Uplink("bridge", block, (), host_address(block), mtu, undo.close)


def host_address(block: Block) -> str:
    """The address that the host has in a block that a pair of devices leads to."""
    return block.address(_HOST)


def _device_name(block: Block) -> str:
    return f"{PREFIX}{block.number:06x}"


def _add_pair(ground: Ground, mtu: int) -> tuple[Block, int]:
    """The devices are there and their block is nobody else's; the number of the host's end."""
    for _ in range(_ATTEMPTS):
        block = ground.next_block()
        index = _FIRST_INDEX + block.number
        try:
            near = End(_device_name(block), index, mtu=mtu)
            ground.host.add_pair(near, End(NAME, INDEX, mtu=mtu), ground.namespace)
        except FileExistsError:
            continue
        try:
            ground.hub.raise_up(INDEX)
            ground.hub.add_address(INDEX, block.address(_PEER), PAIR_PREFIX)
            ground.host.add_address(index, block.address(_HOST), PAIR_PREFIX)
            ground.host.add_route(index, block.address(_PEER), block.network, BLOCK_PREFIX)
        except FileExistsError:
            ground.host.remove(index)
        except BaseException:
            ground.host.remove(index)
            raise
        else:
            return block, index
    raise UplinkError("private ranges of addresses are taken faster than looked for")


def host_chains(index: int, guarded: tuple[int, ...]) -> tuple[Chain, Chain]:
    """What the host does with packets of the device ``index``; nobody from outside gets through it.

    Devices ``guarded`` pass nothing on but what comes from steps or answers them, as before.
    """
    closed = tuple(
        Rule((Match(IIF, device), Match(OIFNAME, PREFIX.encode(), equal=False)), "drop") for device in guarded
    )
    return (
        Chain("nat", "nat", POSTROUTING, SOURCE_NAT, (Rule((Match(IIF, index),), "masquerade"),)),
        Chain("forward", "filter", FORWARD, 0, (Rule((Match(OIF, index), INDEPENDENT), "drop"), *closed)),
    )


def by_pasta(ground: Ground) -> Uplink:
    """Connections of steps are connections of pasta(1), which translates between packets and sockets."""
    block = ground.next_block()
    resolver = block.address(_RESOLVER)
    # fmt: off
    argv = (
        "pasta", "--foreground", "--config-net", "--ns-ifname", NAME, "--no-map-gw", "--dns-forward", resolver,
        "--address", block.address(_GUEST), "--netmask", str(PROGRAM_PREFIX), "--gateway", block.address(_GATEWAY),
        "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none", "--ipv4-only",
        "--netns", _path_of(ground.namespace),
    )
    # fmt: on
    return _by_program(ground, argv, block)


def by_slirp(ground: Ground) -> Uplink:
    """Connections of steps are connections of slirp4netns(1)."""
    block = ground.next_block()
    # fmt: off
    argv = (
        "slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback",
        f"--cidr={block.network}/{PROGRAM_PREFIX}", "--netns-type=path", _path_of(ground.namespace), NAME,
    )
    # fmt: on
    return _by_program(ground, argv, block)


def _path_of(namespace: int) -> str:
    """Where the namespace of the descriptor can be opened, in a mount namespace of this process and its children.

    pasta gives up the capabilities that opening it below /proc of another process takes. /sys is needed by nobody here.
    """
    place = f"{_PLACE}/hub"
    if not os.path.exists(place):
        _sys.unshare(_sys.CLONE_NEWNS)
        _sys.attach_closing(_sys.new_mount("tmpfs", (("mode", "755"),), 0), _PLACE)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
        _sys.attach_closing(_sys.open_tree(f"/proc/self/fd/{namespace}".encode(), recursive=False), place)
    return place


def _by_program(ground: Ground, argv: tuple[str, ...], block: Block) -> Uplink:
    with contextlib.ExitStack() as undo:
        undo.callback(_end, _start(ground, argv))
        index = ground.hub.default_device() or 0
        chain = Chain("nat", "nat", POSTROUTING, SOURCE_NAT, (Rule((Match(OIF, index),), "masquerade"),))
        undo.callback(OwnedTable(PREFIX, chain, made=ground.filter).close)
        ground.hub.forward(index)
        mtu = _device_mtu(ground.control, NAME)
        return Uplink(argv[0], block, (block.address(_RESOLVER),), _outer_address(), mtu, undo.pop_all().close)


def _start(ground: Ground, argv: tuple[str, ...]) -> int:
    """The id of the program, which has given the hub its device, address and route."""
    said = os.memfd_create("said")
    try:
        actions = [(os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)]
        try:
            # a pasta that finds SIGPIPE ignored takes that for an error
            pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions, setsigdef=_DEFAULT_SIGNALS)
        except FileNotFoundError:
            raise UplinkError("not installed") from None
        deadline = time.monotonic() + _START_SECONDS
        while ground.hub.default_device() is None:
            ended, _status = os.waitpid(pid, os.WNOHANG)
            if ended:
                raise UplinkError(_last_line(said) or "ended at its start")
            if time.monotonic() > deadline:
                _end(pid)
                raise UplinkError(f"not ready after {_START_SECONDS:.0f} seconds")
            time.sleep(_POLL_SECONDS)
        return pid
    finally:
        os.close(said)


def _last_line(said: int) -> str:
    size = os.fstat(said).st_size
    lines = os.pread(said, _LAST_BYTES, max(0, size - _LAST_BYTES)).decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _outer_address() -> str:
    """The address the host has towards the internet; the loopback one where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # sends nothing: connect(2) of a datagram socket chooses a route and with it an address
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def host_mtu(host: Links) -> int:
    """The most the host's way to the internet carries at once, 0 where it has none.

    Larger ones from outside might not come through to us, and nobody would say so.
    """
    device = host.default_device()
    if device is None:
        return 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return _device_mtu(control, socket.if_indextoname(device))


def _await_carrying(links: Links, index: int) -> None:
    deadline = time.monotonic() + _CARRYING_SECONDS
    while not links.carries(index) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _device_mtu(control: socket.socket, name: str) -> int:
    answer = fcntl.ioctl(control.fileno(), _SIOCGIFMTU, struct.pack("16si12x", name.encode(), 0))
    return int(struct.unpack_from("i", answer, 16)[0])
