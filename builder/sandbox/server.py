"""The sandbox server: one process of one thread that forks the steps of a build.

Started before pybuild has threads, run as ``python -m builder.sandbox.server FD``; FD is a stream socket that speaks
``builder.sandbox.protocol``. It has a session of its own, so that a terminal's Ctrl-C reaches pybuild alone, and a
mount namespace of its own, so that what steps mount propagates nowhere.

Invariants: the loop never waits for one peer; a child of the kind last asked for stands ready when nothing else is to
be done (`spare`); when the control socket ends, every step is killed and cleaned up before the server ends.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable

from builder.sandbox import _sys, caps, descendants, devices, idmap, protocol
from builder.sandbox.cgroup import CgroupError
from builder.sandbox.command import SETUP_FAILED
from builder.sandbox.isolation import (
    AUTO,
    NO_NAMESPACES,
    Abilities,
    Isolation,
    IsolationError,
    explain_refusal,
    lacks_capabilities,
    lacks_device_control,
    plan_isolation,
    wants_user_namespace,
)
from builder.sandbox.limitfiles import FORKING_PIDS, INIT_PIDS
from builder.sandbox.machine import Kind, Machine
from builder.sandbox.rehearsal import rehearse_request
from builder.sandbox.runtime import Child, make_group
from builder.sandbox.slice import Slice
from builder.sandbox.spare import Spare
from builder.sandbox.spec import SandboxResult, SpecError, parse_network
from unionfs import wire
from unionfs.privileges import effective_capabilities, is_in_container, is_machine_root, mapped_ids, may_mount

_RETRY_MS = 5
# a step that has just started has the processors to itself: what it is to do may be done before that
_PREPARE_AFTER_MS = 8
_CONTROL_FD = 3
_TITLE = b"pybuild-sandbox"
_PROCESSES = _sys.CLONE_NEWNS | _sys.CLONE_NEWPID | _sys.CLONE_NEWIPC | _sys.CLONE_NEWUTS


class Server:
    """The steps of one build."""

    def __init__(self, control: socket.socket, machine: Machine) -> None:
        self._control = control
        self._machine = machine
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._children: dict[Child, socket.socket | None] = {}
        self._lingering: list[Child] = []
        self._spare = Spare(machine.usual_kind("none", frozenset()))
        self._ended = False
        self._watch(control.fileno(), self._on_control)

    def serve(self) -> None:
        """Returns when pybuild has closed the control socket and the last step is gone."""
        while not self._ended or self._children:
            ready = self._poll.poll(self._patience_ms())
            for fd, _events in ready:
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
            if not ready and self._lacks_spare:
                self._prepare()
            self._lingering = [child for child in self._lingering if not child.close_group()]
        self._machine.close()

    def _patience_ms(self) -> int | None:
        if self._lacks_spare:
            return _PREPARE_AFTER_MS if any(self._children.values()) else 0
        return _RETRY_MS if self._lingering else None

    @property
    def _lacks_spare(self) -> bool:
        """Whether a child is to be made ready, once there is time."""
        return not self._ended and self._spare.is_missing

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _on_control(self) -> None:
        received = _receive(self._control)
        if received is None:
            self._end()
            return
        try:
            if received.message.get("op") == protocol.PREPARE:
                network, controllers = received.message.get("network"), received.message.get("controllers", ())
                self._spare.expect(received.message.get("steps"))
                self._spare.want(self._machine.usual_kind(parse_network(network), frozenset(map(str, controllers))))
            elif received.message.get("op") == protocol.RUN and received.fds:
                self._run(received)
        finally:
            for fd in received.fds:
                os.close(fd)

    def _end(self) -> None:
        self._ended = True
        self._unwatch(self._control.fileno())
        for child in self._children:
            child.kill()
        self._machine.hub.end()

    def _prepare(self) -> None:
        try:
            self._spare.put(self._make_child(self._spare.kind))
        except (OSError, CgroupError):
            # nobody waits for it; the step that needs one tries again, and is told
            self._spare.failed()

    def _make_child(self, kind: Kind) -> Child:
        child = Child(self._machine, kind, make_group(self._machine, kind))
        self._children[child] = None
        self._watch(child.pidfd, lambda: self._on_end(child))
        self._watch(child.report.fileno(), lambda: self._on_report(child))
        return child

    def _run(self, received: wire.Received) -> None:
        client = socket.socket(fileno=os.dup(received.fds[0]))
        child: Child | None = None
        try:
            spec, fds = protocol.parse_run(received.message, received.fds)
            kind = self._machine.kind_of(spec)
            child = self._spare.take(kind) or self._make_child(kind)
            child.order(spec, fds)
        except (SpecError, CgroupError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            _tell(client, SandboxResult(status=SETUP_FAILED, error=reason or str(error)))
            client.close()
            if child is not None:
                child.kill()
            return
        self._children[child] = client
        self._watch(client.fileno(), lambda: self._on_client(child, client))

    def _on_report(self, child: Child) -> None:
        try:
            more = child.read_report()
        except (OSError, wire.WireError):
            more = False
        if child.is_ready and self._children[child] is None and not child.has_exited:
            # it shares memory with this process since it was forked
            rehearse_request(self._machine.kind_of)
        if not more:
            self._unwatch(child.report.fileno())
        client = self._children.get(child)
        result = None if client is None else child.early_result()
        if client is not None and result is not None:
            self._conclude(child, client, result)
        if child.has_exited:
            child.dismiss()

    def _on_client(self, child: Child, client: socket.socket) -> None:
        received = _receive(client)
        if received is None:
            self._unwatch(client.fileno())
            child.kill()
            return
        for fd in received.fds:
            os.close(fd)
        if received.message.get("op") == protocol.WHEREABOUTS:
            station = child.station
            message = {"event": protocol.WHEREABOUTS, "address": station.address if station else ""}
            with contextlib.suppress(OSError):
                wire.send(client, message, [station.hub] if station else [])
        number = received.message.get("signal")
        if received.message.get("op") == protocol.SIGNAL and isinstance(number, int):
            child.signal(number)

    def _on_end(self, child: Child) -> None:
        self._unwatch(child.pidfd)
        self._unwatch(child.report.fileno())
        client = self._children[child]
        self._spare.remove(child)
        child.finish()
        if not child.kind.own_processes:
            # what its first process could not end, having been killed itself
            descendants.end_strays({other.pid for other in self._children if other is not child})
        self._lingering.append(child)
        if client is not None:
            self._conclude(child, client, child.result())
        del self._children[child]

    def _conclude(self, child: Child, client: socket.socket, result: SandboxResult) -> None:
        """The client knows the end of its step; nothing is expected from it any more."""
        self._children[child] = None
        self._unwatch(client.fileno())
        _tell(client, result)
        client.close()


def _receive(sock: socket.socket) -> wire.Received | None:
    try:
        return wire.receive(sock)
    except (OSError, wire.WireError):
        return None


def _tell(client: socket.socket, result: SandboxResult) -> None:
    with contextlib.suppress(OSError):
        wire.send(client, {"event": protocol.RESULT, **result.to_json()})


def _settle(wanted: str) -> Isolation:
    """This process hears no terminal and no stray signal, and its mounts propagate nothing outwards.

    Without CAP_SYS_ADMIN it is in a user namespace of its own, where it has that. Returns how it isolates steps.
    """
    with contextlib.suppress(PermissionError):
        os.setsid()
    for number in signal.valid_signals():
        # what pybuild's starter ignored, steps would ignore too
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # a step sees this in its process table, and the command line of an interpreter tells of the host
    _sys.set_title(_TITLE)
    abilities = _find_abilities() if _enters_namespaces(wanted) else Abilities(is_machine_root(), False, False, False)
    isolation = plan_isolation(wanted, abilities, one_id=mapped_ids() == 1)
    if not isolation.own_processes:
        _sys.prctl(_sys.PR_SET_CHILD_SUBREAPER, 1)
    return isolation


def _enters_namespaces(wanted: str) -> bool:
    """Whether this process has a mount namespace now; it can do without where False is returned.

    Raises:
        OSError: it has none, and may not do what it takes to do without.
        IsolationError: the same, where it was to do without.
    """
    missing = caps.names_of(caps.NEEDED_WITHOUT_NAMESPACES & ~effective_capabilities())
    if wanted == NO_NAMESPACES:
        if missing:
            raise lacks_capabilities(missing)
        return False
    try:
        if may_mount() and not (is_machine_root() and wants_user_namespace(wanted)):
            _sys.unshare(_sys.CLONE_NEWNS)
        else:
            idmap.enter()
        _sys.mount_propagation(b"/", _sys.MS_REC | _sys.MS_SLAVE)
    except OSError:
        if missing:
            raise
        return False
    return True


def _find_abilities() -> Abilities:
    """What works here, tried: a process that is root of the machine tries no more than it will do at its first step."""
    machine_root = is_machine_root()
    for namespaces, proc in ((_PROCESSES, True), (_PROCESSES, False)):
        if _succeeds(namespaces, proc=proc):
            return Abilities(machine_root, new_processes=True, new_proc=proc)
    return Abilities(machine_root, new_processes=False, new_proc=False)


def _succeeds(namespaces: int, *, proc: bool) -> bool:
    """Whether a process in new ``namespaces`` can be made, and mount a /proc of its own."""
    try:
        pid = _sys.clone(namespaces)
    except OSError:
        return False
    if pid == 0:
        status = 1
        try:
            if proc:
                _sys.new_mount("proc", (), 0)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def _take_control(fd: int) -> socket.socket:
    """The control socket; of all other descriptors only stderr is left, whatever pybuild's starter had open."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(fd, _CONTROL_FD, inheritable=False)
    os.closerange(_CONTROL_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    return socket.socket(fileno=_CONTROL_FD)


def main(control_fd: int, wanted: str = AUTO) -> int:
    """Serves one build over ``control_fd`` with the isolation ``wanted``; the status of the process."""
    control = _take_control(control_fd)
    try:
        try:
            isolation = _settle(wanted)
        except OSError as error:
            raise explain_refusal((error.strerror or "").lower(), in_container=is_in_container()) from error
        groups = Slice.of_this_process(INIT_PIDS if isolation.own_mounts else FORKING_PIDS)
        if not isolation.own_mounts and not groups.controls_devices and not devices.are_confined():
            raise lacks_device_control()
        machine = Machine(groups, isolation, pivots=_sys.may_pivot())
    except IsolationError as error:
        with contextlib.suppress(ConnectionError):
            wire.send(control, {"event": protocol.FAILED, "error": str(error), "hint": error.hint})
        return 1
    with contextlib.suppress(ConnectionError):  # who gave up meanwhile is found gone by serving, which clears up
        wire.send(control, {"event": protocol.READY, "level": str(isolation)})
    # no garbage is looked for here or in what is forked from here: it ends with the build
    gc.disable()
    gc.freeze()
    Server(control, machine).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:3]))
