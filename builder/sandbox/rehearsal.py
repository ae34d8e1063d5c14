"""The way of an order is gone once before a step is known, so that the step's own goes it quickly.

Processes that were forked share their memory until one of them writes, and Python writes where it only reads (counts of
references): each page is copied at its first use, which takes 2 to 3 µs. Taking an order touches some 150 pages in a
step's first process, as many in the command's, and in the server, which both were forked from.

Invariants: nothing is left of a rehearsal but memory that is a process's own; what is rehearsed is the code that a step
goes through, with a step that nobody runs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from builder.sandbox import network, protocol
from builder.sandbox.mounts import plan_own
from builder.sandbox.spec import SandboxSpec, spec_from_json
from unionfs import wire

# a network that is to be had everywhere
_SPEC = SandboxSpec(argv=("/bin/sh", "-c", "true"), env=("PATH=/usr/local/bin:/usr/bin:/bin",), network="host")
# no descriptors; they are only told apart by where they stand
_NUMBERS = (0, 0)
_FDS = protocol.RunDescriptors(*_NUMBERS, (None, None, None), ())


def rehearse_request(kind_of: Callable[[SandboxSpec], object]) -> None:
    """The server is ready to pass a step on; ``kind_of`` is what it asks about each."""
    message = _pass_on(protocol.run_message(_SPEC, _FDS))
    spec, fds = protocol.parse_run(message, _NUMBERS)
    kind_of(spec)
    protocol.order_message(_order(spec), fds)


def rehearse_order() -> None:
    """The first process of a step is ready to take it."""
    message = _pass_on(protocol.order_message(_order(_SPEC), _FDS))
    order, _fds = protocol.parse_order(message, _NUMBERS)
    plan_own(order.spec, order.files)


def rehearse_command() -> None:
    """The process that becomes the command is ready to be told which."""
    spec_from_json(_pass_on(_SPEC.to_json()))


def _order(spec: SandboxSpec) -> protocol.Order:
    return protocol.Order(spec, network.etc_files(spec, network.Surroundings(host_network=False)), 0)


def _pass_on(message: dict[str, Any]) -> dict[str, Any]:
    """What arrives of ``message``, with a descriptor, at the other end of a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, message, [ours.fileno()])
        received = wire.receive(theirs)
    if received is None:
        return message
    for fd in received.fds:
        os.close(fd)
    return received.message
