"""The processes of a step, seen from the server: made ready, ordered to run, watched, killed, counted.

Invariants: a `Child` owns its processes, its groups and its sockets, and gives all of them back in `finish`; no method
waits for a step; a result is made after the last process of the step is dead, so what it says is final.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
from collections.abc import Sequence
from typing import NamedTuple

from builder.sandbox import _sys, caps, handover, init, mounts, network, protocol, seccomp
from builder.sandbox.command import SETUP_FAILED, Confinement
from builder.sandbox.group import Group, Usage
from builder.sandbox.handover import Handover
from builder.sandbox.isolation import Isolation
from builder.sandbox.limitfiles import needed_controllers
from builder.sandbox.slice import Slice
from builder.sandbox.spec import Runtime, SandboxResult, SandboxSpec, SpecError
from unionfs import wire
from unionfs.privileges import effective_capabilities

_SIGNALLED = 128


class Kind(NamedTuple):
    """What has to be known of a step to make its processes ready."""

    own_network: bool
    capabilities: int
    insecure: bool = False
    cgroup_parent: str | None = None
    controllers: frozenset[str] = frozenset()
    own_processes: bool = True
    runtime: Runtime | None = None

    @property
    def namespaces(self) -> int:
        """Flags of clone(2); the cgroup namespace is entered later, by init in its groups, or it would show ours."""
        flags = _sys.CLONE_NEWNS | (_sys.CLONE_NEWPID if self.own_processes else 0)
        # a runtime makes the others
        flags |= 0 if self.runtime else _sys.CLONE_NEWUTS | (_sys.CLONE_NEWIPC if self.own_processes else 0)
        return flags | _sys.CLONE_NEWNET if self.own_network else flags


class Machine:
    """What is the same for all steps of a server."""

    def __init__(self, groups: Slice, isolation: Isolation, *, pivots: bool = True) -> None:
        """``pivots`` says that pivot_root(2) is allowed."""
        self.groups = groups
        self.isolation = isolation
        self.pivots = pivots
        self.last_capability = caps.last_capability()
        self.held_capabilities = effective_capabilities()
        self.calls = seccomp.read_table()
        self._filters: dict[int, _sys.SeccompFilter | None] = {}
        self._runtime_groups: Slice | None = None
        self.filter_for(caps.DEFAULT_MASK & self.held_capabilities)

    def usual_kind(self, *, own_network: bool, controllers: frozenset[str]) -> Kind:
        """The kind of child that steps need which ask for nothing else."""
        return Kind(
            own_network and self.isolation.own_processes,
            caps.DEFAULT_MASK & self.held_capabilities,
            controllers=controllers,
            own_processes=self.isolation.own_processes,
        )

    def kind_of(self, spec: SandboxSpec) -> Kind:
        """The kind of child ``spec`` needs.

        Raises:
            SpecError: a capability is not known, or the network can't be kept away.
        """
        if spec.network != "host" and not self.isolation.own_processes:
            raise SpecError(f"network {spec.network!r} can't be had with isolation {self.isolation}: only 'host' can")
        if spec.runtime is not None and not self.isolation.new_proc:
            raise SpecError(f"a runtime needs a /proc of its own, which isolation {self.isolation} has not")
        return Kind(
            own_network=spec.network != "host",
            capabilities=caps.plan_capabilities(spec.security, spec.cap_add, spec.cap_drop) & self.held_capabilities,
            insecure=spec.security == "insecure",
            cgroup_parent=spec.cgroup_parent,
            controllers=needed_controllers(spec.limits),
            own_processes=self.isolation.own_processes,
            runtime=spec.runtime,
        )

    def groups_for(self, kind: Kind) -> Slice:
        """Where the groups of a step of ``kind`` are made."""
        if kind.runtime is None:
            return self.groups
        if self._runtime_groups is None:
            self._runtime_groups = Slice.for_runtimes()
        return self._runtime_groups

    def close_groups(self) -> None:
        """Every group of this server is gone."""
        self.groups.close()
        if self._runtime_groups is not None:
            self._runtime_groups.close()

    def hand_over(self, kind: Kind, group: Group) -> Handover | None:
        """What a step's runtime is, where it has one.

        Raises:
            CgroupError: it can't be told which groups are the step's.
        """
        if kind.runtime is None:
            return None
        joins = kind.runtime.joins_groups
        return Handover(
            program=kind.runtime.program,
            joins=joins,
            capabilities=kind.capabilities,
            calls=self.calls,
            cgroups_path=None if joins else self.groups_for(kind).path_for_runtime(group),
            confine_devices=not joins and not self.isolation.user_namespace,
        )

    def filter_for(self, capabilities: int) -> _sys.SeccompFilter | None:
        """The filter for a step with these capabilities; None on a machine whose calls are not known."""
        if capabilities not in self._filters:
            program = seccomp.compile_filter(caps.names_of(capabilities), _sys.MACHINE, self.calls)
            self._filters[capabilities] = _sys.SeccompFilter(program) if program else None
        return self._filters[capabilities]


class Child:
    """The processes of one step, from before it is known to after its end."""

    def __init__(self, machine: Machine, kind: Kind) -> None:
        """The processes are getting ready.

        Raises:
            OSError: no process could be made.
        """
        self.kind = kind
        self._machine = machine
        self._failure: tuple[str, int] | None = None
        self._wait_status: int | None = None
        self._notes: tuple[str, ...] = ()
        is_machine_root = not machine.isolation.user_namespace
        self._device_control = is_machine_root and (kind.insecure or machine.groups.controls_devices)
        groups = machine.groups_for(kind)
        # a runtime that makes its own groups confines devices there
        confines = not kind.insecure and (kind.runtime is None or kind.runtime.joins_groups)
        self._group = groups.make(kind.cgroup_parent, kind.controllers, confine_devices=confines)
        self.report, theirs = socket.socketpair()
        try:
            self.pid = self._clone(theirs)
            self.pidfd = os.pidfd_open(self.pid)
        except BaseException:
            self.report.close()
            self._group.close()
            raise
        finally:
            theirs.close()
            self._group.release_joins()

    def _clone(self, theirs: socket.socket) -> int:
        isolation = self._machine.isolation
        preparation = init.Preparation(
            mounts=mounts.plan_base(
                insecure=self.kind.insecure,
                device_control=self._device_control,
                cgroups=self._group.views(),
                proc_of_host=not isolation.new_proc,
                sys_of_host=not isolation.new_proc or (isolation.user_namespace and not self.kind.own_network),
                own_ipc=isolation.own_processes,
            ),
            join_fds=self._group.join_fds,
            own_network=self.kind.own_network,
            own_processes=isolation.own_processes,
            pivots=self._machine.pivots,
            confinement=Confinement(
                self.kind.capabilities,
                self._machine.last_capability,
                None if self.kind.insecure else self._machine.filter_for(self.kind.capabilities),
            ),
        )
        runtime = self._machine.hand_over(self.kind, self._group)
        pid = _sys.clone(self.kind.namespaces)
        if pid == 0:
            _close_all_but((theirs.fileno(), *preparation.join_fds))
            if runtime is not None:
                handover.run(runtime, preparation, theirs)
            init.run(preparation, theirs)
        return pid

    def order(self, spec: SandboxSpec, fds: protocol.RunDescriptors) -> None:
        """The step runs; the descriptors stay the caller's.

        Raises:
            CgroupError: a limit can't be held.
            SpecError: a host is no ``name:address``.
        """
        attributes = _sys.MOUNT_ATTR_RDONLY if spec.read_only_root else 0
        attributes |= 0 if self._device_control else _sys.MOUNT_ATTR_NODEV
        order = protocol.Order(spec, network.etc_files(spec), attributes)
        self._group.limit(spec.limits)
        # a child that has failed already is told by its report
        with contextlib.suppress(OSError):
            wire.send(self.report, protocol.order_message(order, fds), fds.given())

    def read_report(self) -> bool:
        """The next thing the step's processes have said is known; False when they will say no more.

        Called when there is something: a frame that has begun is waited for, its sender is one of ours.
        """
        received = wire.receive(self.report)
        if received is None:
            return False
        message = received.message
        if message["event"] == protocol.FAILED:
            self._failure = str(message["error"]), int(message["status"])
        elif message["event"] == protocol.EXITED:
            self._wait_status = int(message["wait_status"])
            self._notes = tuple(map(str, message["notes"]))
        return True

    def signal(self, number: int) -> None:
        """The command gets the signal, if it runs."""
        with contextlib.suppress(OSError, ValueError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """Every process of the step is dying: a pid namespace ends with its first process. pid_namespaces(7)."""
        self.signal(signal.SIGKILL)

    def early_result(self) -> SandboxResult | None:
        """The result of a step whose processes have ended but the first, which only takes its namespaces down.

        None where nothing is known yet, or where the end of the first process is needed to know what was used.
        """
        if self._wait_status is None or self._failure is not None:
            return None
        used = self._group.usage()
        if used.cpu_user_ns is None or used.cpu_system_ns is None:
            return None
        return self._result(self._wait_status, used, used.cpu_user_ns, used.cpu_system_ns)

    def finish(self) -> SandboxResult:
        """The result of a step whose first process has ended; the groups are still to be closed."""
        _pid, status, usage = os.wait4(self.pid, 0)
        os.close(self.pidfd)
        self._drain()
        self.report.close()
        used = self._group.usage()
        user_ns = round(usage.ru_utime * 1e9) if used.cpu_user_ns is None else used.cpu_user_ns
        system_ns = round(usage.ru_stime * 1e9) if used.cpu_system_ns is None else used.cpu_system_ns
        return self._result(status, used, user_ns, system_ns)

    def _result(self, init_status: int, used: Usage, user_ns: int, system_ns: int) -> SandboxResult:
        number, status = self._status(init_status)
        return SandboxResult(
            status=status,
            signal=number,
            oom=used.oom,
            cpu_user_ns=user_ns,
            cpu_system_ns=system_ns,
            memory_peak_bytes=used.memory_peak_bytes,
            pids_peak=used.pids_peak,
            read_bytes=used.read_bytes,
            written_bytes=used.written_bytes,
            error=self._failure[0] if self._failure else None,
            notes=(*self._group.notes, *self._notes),
        )

    def close_group(self) -> bool:
        """The groups are removed; False while the kernel still counts a member."""
        return self._group.close()

    def _drain(self) -> None:
        readable = select.poll()
        readable.register(self.report, select.POLLIN)
        with contextlib.suppress(OSError, wire.WireError):
            while readable.poll(0) and self.read_report():
                pass

    def _status(self, init_status: int) -> tuple[int | None, int]:
        """The signal, if one ended the command, and what a shell would show."""
        if self._failure is not None:
            return None, self._failure[1]
        if self._wait_status is None and init_status == 0:
            return None, SETUP_FAILED
        code = os.waitstatus_to_exitcode(init_status if self._wait_status is None else self._wait_status)
        return (-code, _SIGNALLED - code) if code < 0 else (None, code)


def _close_all_but(kept: Sequence[int]) -> None:
    """Of the server's descriptors a child has stdio and ``kept``: none of other steps, none that leads to pybuild."""
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
