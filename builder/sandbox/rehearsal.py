"""The way of an order is gone once before a step is known, so that the step's own goes it quickly.

Processes that were forked share their memory until one of them writes, and Python writes where it only reads (counts of
references): each page is copied at its first use, which takes 2 to 3 µs. Taking an order touches some 150 pages in a
step's first process, and as many in the server, which it was forked from.

Invariants: nothing is left of a rehearsal but memory that is a process's own; what is rehearsed is the code that a step
goes through, with a step that nobody runs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from builder.sandbox import network, protocol
from builder.sandbox.mounts import plan_own
from builder.sandbox.spec import SandboxSpec
from unionfs import wire

# a network that is to be had everywhere
_SPEC = SandboxSpec(argv=("/bin/sh", "-c", "true"), env=("PATH=/usr/local/bin:/usr/bin:/bin",), network="host")
# no descriptors; they are only told apart by where they stand
_NUMBERS = (0, 0)
_FDS = protocol.RunDescriptors(*_NUMBERS, (None, None, None), ())
_FILES = network.etc_files(_SPEC, network.Surroundings(host_network=True))
# encoded here, in the server: who only decodes shall not touch what encodes
_REQUEST = wire.encode(protocol.run_message(_SPEC, _FDS))
_ORDER = wire.encode(protocol.order_message(protocol.Order(_SPEC, _FILES, 0), _FDS))


def rehearse_request(kind_of: Callable[[SandboxSpec], object]) -> None:
    """The server is ready to pass a step on; ``kind_of`` is what it asks about each."""
    spec, fds = protocol.parse_run(_pass_on(_REQUEST), _NUMBERS)
    kind_of(spec)
    files = network.etc_files(spec, network.Surroundings(host_network=True))
    wire.encode(protocol.order_message(protocol.Order(spec, files, 0), fds))


def rehearse_order() -> None:
    """The first process of a step is ready to take it."""
    order, _fds = protocol.parse_order(_pass_on(_ORDER), _NUMBERS)
    plan_own(order.spec, order.files)


def _pass_on(frame: bytes) -> wire.Message:
    """What arrives of ``frame``, with a descriptor, at the other end of a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send_frame(ours, frame, [ours.fileno()])
        received = wire.receive(theirs)
    if received is None:
        return {}
    for fd in received.fds:
        os.close(fd)
    return received.message
