"""What pybuild, the sandbox server and the processes of a step say to each other.

::

    pybuild                      server                       init (pid 1 of a step)        its thread, command
      │                            │ clone ─────────────────────▶│ joins its groups           │  ready before
      │                            │                             │ start ────────────────────▶│  a step is known
      │ control socket             │◀─ ready {} + fd ────────────┤ /proc, /dev, /sys staged   │
      │                            │   its network namespace, where others could use it (network.reuse)
      │ run {spec, fds} ──────────▶│ limits                      │                            │
      │   + step socket, root,     │ order {spec, files, fds} ──▶│ root, pivot_root, binds    │
      │     stdio, mounts          │                             │ launch ───────────────────▶│ ids, caps
      │◀──────────── console {} + fd ── (tty only) ──────────────┤                            │ spawn
      │                            │◀─ failed {stage} ───────────┤ (only if it fails)         │
      │ whereabouts ──────────────▶│
      │◀─── whereabouts {} + fd ───┤ address, and the hub's namespace (private network only)
      │ signal ───────────────────▶│ ── pidfd ──────────────────▶│ ── kill ──────────────────▶│ exec
      │                            │                             │ reaps until the command ends, kills and reaps
      │                            │                             │ all others, lets the root go
      │◀────────────── result {} ──┤◀─ exited {status} ──────────┤
      │   counted by the groups    │ ── (end of file) ──────────▶┘ takes the namespaces down
      │                            │ removes the groups
      │ (closes the step socket: everything of the step is killed)
      │ (closes the control socket: everything of every step is killed, the server ends)

Frames are those of ``unionfs.wire``. Invariants: a step socket carries at most one ``console`` and exactly one
``result`` unless the server dies; descriptors go in the order of `RunDescriptors`; what pybuild sends is checked where
it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from builder.sandbox.spec import SandboxSpec, SpecError, spec_from_json
from unionfs.namedtuple import NamedTuple

READY = "ready"
PREPARE = "prepare"
RUN = "run"
SIGNAL = "signal"
WHEREABOUTS = "whereabouts"
CONSOLE = "console"
RESULT = "result"
FAILED = "failed"
EXITED = "exited"

_STDIO = 3


class RunDescriptors(NamedTuple):
    """What goes with ``run``; a stdio that is None is /dev/null, or the step's terminal."""

    step: int
    root: int
    stdio: tuple[int | None, int | None, int | None]
    mounts: tuple[int, ...]

    def given(self) -> list[int]:
        """The descriptors, without the gaps."""
        return [self.step, self.root, *(fd for fd in self.stdio if fd is not None), *self.mounts]


class Order(NamedTuple):
    """What init needs beside the specification: texts by path, and attributes of the root mount."""

    spec: SandboxSpec
    files: Mapping[str, str]
    root_attributes: int


def run_message(spec: SandboxSpec, fds: RunDescriptors) -> dict[str, Any]:
    """The message for `parse_run`, to be sent with ``fds.given()``."""
    return {"op": RUN, "spec": spec.to_json(), "stdio": [fd is not None for fd in fds.stdio]}


def parse_run(message: Mapping[str, Any], fds: Sequence[int]) -> tuple[SandboxSpec, RunDescriptors]:
    """What `run_message` said.

    Raises:
        SpecError: the document is none, or the descriptors don't fit it.
    """
    descriptors = _descriptors(message.get("stdio"), fds)
    document = message.get("spec")
    if not isinstance(document, dict):
        raise SpecError("run came without a specification")
    spec = spec_from_json(cast("dict[str, Any]", document))
    for bind in spec.binds:
        if bind.fd is not None and not 0 <= bind.fd < len(descriptors.mounts):
            raise SpecError(f"bind at {bind.target!r} names descriptor {bind.fd} of {len(descriptors.mounts)}")
    return spec, descriptors


def order_message(order: Order, fds: RunDescriptors) -> dict[str, Any]:
    """The message for `parse_order`, to be sent with ``fds.given()``."""
    return {**run_message(order.spec, fds), "files": order.files, "root_attributes": order.root_attributes}


def parse_order(message: Mapping[str, Any], fds: Sequence[int]) -> tuple[Order, RunDescriptors]:
    """What `order_message` said; from the server, so only its shape is relied on."""
    spec, descriptors = parse_run(message, fds)
    order = Order(spec, message["files"], int(message["root_attributes"]))
    return order, descriptors


def exited_message(wait_status: int, notes: Sequence[str] = (), *, was_silent: bool = False) -> dict[str, Any]:
    """What the first process of a step says when its command, and all else of the step, has ended.

    ``was_silent``: in the network namespace that came with ``ready`` nothing was sent.
    """
    return {"event": EXITED, "wait_status": wait_status, "notes": list(notes), "was_silent": was_silent}


def _descriptors(stdio: Any, fds: Sequence[int]) -> RunDescriptors:
    if not isinstance(stdio, list) or len(cast("Sequence[Any]", stdio)) != _STDIO:
        raise SpecError(f"run came with stdio {stdio!r}")
    given = [bool(flag) for flag in cast("Sequence[Any]", stdio)]
    if len(fds) < 2 + sum(given):
        raise SpecError(f"run came with {len(fds)} descriptors, expected {2 + sum(given)}")
    rest = iter(fds[2:])
    first, second, third = (next(rest) if is_given else None for is_given in given)
    return RunDescriptors(fds[0], fds[1], (first, second, third), tuple(rest))
