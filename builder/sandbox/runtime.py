"""The processes of a step, seen from the server: made ready, ordered to run, watched, killed, counted.

Invariants: a `Child` owns its processes, its groups and its sockets, and gives all of them back in `finish`; no method
waits for a step; a result is made after the last process of the step is dead, so what it says is final.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time

from builder.network.hub import Station
from builder.network.reuse import OwnNetwork
from builder.sandbox import _sys, init, mounts, network, protocol
from builder.sandbox.command import SETUP_FAILED
from builder.sandbox.confinement import Confinement
from builder.sandbox.descriptors import close_all_but
from builder.sandbox.group import Group, Usage
from builder.sandbox.machine import Kind, Machine
from builder.sandbox.spec import SandboxResult, SandboxSpec
from unionfs import wire

NO_PRIVATE_NETWORK = "no private network can be made here, steps use that of the host"
NO_WAY_OUT = "the private network has no way out, steps reach nothing outside"
_SIGNALLED = 128


def make_group(machine: Machine, kind: Kind) -> Group:
    """Groups for a `Child`.

    Raises:
        CgroupError: the parent that was asked for can't be had.
    """
    # a runtime that makes its own groups confines devices there
    confines = not kind.insecure and (kind.runtime is None or kind.runtime.joins_groups)
    return machine.groups_for(kind).make(kind.cgroup_parent, kind.controllers, confine_devices=confines)


class Child:
    """The processes of one step, from before it is known to after its end."""

    def __init__(self, machine: Machine, kind: Kind, group: Group) -> None:
        """The processes are getting ready, and will be in ``group`` (`make_group`), which belongs to them now.

        Raises:
            OSError: no process could be made.
        """
        self.kind = kind
        self._machine = machine
        self._failure: tuple[str, int] | None = None
        self._wait_status: int | None = None
        self._ended_ns = 0
        self._init_status = 0
        self._init_ns = 0, 0  # on the processor, as user and in the kernel
        self._notes: tuple[str, ...] = ()
        self.station: Station | None = None
        self._namespace: int | None = None
        self._was_silent = False
        self.is_ready = False
        """Whether it is in its groups, and waits for its order or works on it."""
        self._warnings: tuple[str, ...] = ()
        is_machine_root = not machine.isolation.user_namespace
        self._device_control = is_machine_root and (kind.insecure or machine.groups.controls_devices)
        self._group = group
        self.report, theirs = socket.socketpair()
        try:
            self._take_network()
            self.pid = self._clone(theirs)
            self.pidfd = os.pidfd_open(self.pid)
        except BaseException:
            self.report.close()
            self._group.close()
            self._leave_network()
            raise
        finally:
            theirs.close()
            self._group.release_joins()

    def _take_network(self) -> None:
        """There is a place in the private network, where the step wants that; maybe one that another did not use."""
        leads_outside = self.kind.network == "default"
        entered = self._machine.networks.take(leads_outside=leads_outside) if self.kind.shares_network else None
        if entered is not None:
            self._namespace, self.station = entered
        elif leads_outside:
            self.station = self._machine.hub.take()

    def _clone(self, theirs: socket.socket) -> int:
        isolation = self._machine.isolation
        preparation = init.Preparation(
            mounts=mounts.plan_base(
                insecure=self.kind.insecure,
                device_control=self._device_control,
                cgroups=self._group.views(),
                proc_of_host=not isolation.new_proc,
                sys_of_host=not isolation.new_proc or (isolation.user_namespace and self.kind.network == "host"),
                own_ipc=isolation.own_processes,
            ),
            join_fds=(),
            own_network=self.kind.network != "host",
            station=self.station,
            network=self._namespace,
            lends_network=self.kind.shares_network,
            own_processes=isolation.own_processes,
            own_mounts=isolation.own_mounts,
            pivots=self._machine.pivots,
            confinement=Confinement(
                self.kind.capabilities,
                self._machine.last_capability,
                None
                if self.kind.insecure or not self._machine.installs_filters
                else self._machine.filter_for(self.kind.capabilities, ignore_chown=self.kind.ignore_chown),
                self._machine.sets_groups,
            ),
        )
        runtime = self._machine.hand_over(self.kind, self._group)
        flags = self.kind.namespaces & ~(_sys.CLONE_NEWNET if self._namespace is not None else 0)
        # of a step that a runtime runs only the command is a member
        pid, born_inside = self._fork(flags, None if runtime is not None else self._group.open_unified())
        if pid == 0:
            preparation = preparation._replace(join_fds=self._group.join_fds(born_inside=born_inside))
            close_all_but((theirs.fileno(), *preparation.fds))
            if runtime is not None:
                # read by who made ``runtime``; most builds have none
                from builder.sandbox import handover

                handover.run(runtime, preparation, theirs)
            init.run(preparation, theirs)
        return pid

    @staticmethod
    def _fork(flags: int, unified: int | None) -> tuple[int, bool]:
        """As `_sys.clone`; whether the child is in the group ``unified``, which is closed in both."""
        if unified is not None:
            try:
                return _sys.clone_into(flags, unified), True
            except OSError as error:
                # one of a container's filter, an older kernel, a group that it may only write to
                if error.errno == errno.EAGAIN:
                    raise
            finally:
                os.close(unified)
        return _sys.clone(flags), False

    def order(self, spec: SandboxSpec, fds: protocol.RunDescriptors) -> None:
        """The step runs; the descriptors stay the caller's.

        Raises:
            CgroupError: a limit can't be held.
            SpecError: a host is no ``name:address``.
        """
        attributes = _sys.MOUNT_ATTR_RDONLY if spec.read_only_root else 0
        attributes |= 0 if self._device_control else _sys.MOUNT_ATTR_NODEV
        order = protocol.Order(spec, network.etc_files(spec, self._surroundings(spec)), attributes)
        self._group.limit(spec.limits)
        # a child that has failed already is told by its report
        with contextlib.suppress(OSError):
            wire.send(self.report, protocol.order_message(order, fds), fds.given())

    def _surroundings(self, spec: SandboxSpec) -> network.Surroundings:
        if self.kind.network == "none" or spec.network == "host" or not self._machine.isolation.own_processes:
            return network.Surroundings(host_network=self.kind.network == "host")
        outlet = self._machine.hub.outlet()
        if not outlet.is_private:
            self._warnings = (f"{NO_PRIVATE_NETWORK} ({outlet.reason})",)
        return network.Surroundings(not outlet.is_private, outlet.resolvers, outlet.host)

    def _leave_network(self) -> None:
        """Another step may have its place, and its namespace too if that is as it was."""
        if self._namespace is not None:
            networks = self._machine.networks
            (networks.keep if self._was_silent else networks.drop)(OwnNetwork(self._namespace, self.station))
        elif self.station is not None:
            self._machine.hub.give_back(self.station)
        self._namespace = self.station = None

    def read_report(self) -> bool:
        """The next thing the step's processes have said is known; False when they will say no more.

        Called when there is something: a frame that has begun is waited for, its sender is one of ours.
        """
        received = wire.receive(self.report)
        if received is None:
            return False
        message = received.message
        if message["event"] == protocol.READY:
            self.is_ready = True
            if received.fds:
                (self._namespace,) = received.fds
        elif message["event"] == protocol.FAILED:
            self._failure = str(message["error"]), int(message["status"])
        elif message["event"] == protocol.EXITED:
            self._wait_status = int(message["wait_status"])
            self._ended_ns = time.monotonic_ns()
            self._notes = tuple(map(str, message["notes"]))
            self._was_silent = bool(message["was_silent"])
        return True

    @property
    def has_exited(self) -> bool:
        """Whether the command has ended, and all else of the step but the first process."""
        return self._wait_status is not None

    def dismiss(self) -> None:
        """The first process may end: who waits for the step knows its result."""
        with contextlib.suppress(OSError):
            self.report.shutdown(socket.SHUT_WR)

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

    def finish(self) -> None:
        """The first process has ended, and is reaped; the groups are still to be closed."""
        _pid, self._init_status, usage = os.wait4(self.pid, 0)
        self._init_ns = round(usage.ru_utime * 1e9), round(usage.ru_stime * 1e9)
        os.close(self.pidfd)
        self._drain()
        self._leave_network()
        self.report.close()

    def result(self) -> SandboxResult:
        """The result of a step that is finished."""
        used, own_ns = self._group.usage(), self._init_ns
        user_ns = own_ns[0] if used.cpu_user_ns is None else used.cpu_user_ns
        system_ns = own_ns[1] if used.cpu_system_ns is None else used.cpu_system_ns
        return self._result(self._init_status, used, user_ns, system_ns)

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
            pids_refused=used.pids_refused,
            error=self._failure[0] if self._failure else None,
            notes=(*self._group.notes, *self._notes),
            warnings=self._warnings or self._later_warnings(),
            ended_ns=self._ended_ns,
        )

    def _later_warnings(self) -> tuple[str, ...]:
        refusal = self._machine.hub.refusal if self.kind.network == "default" else ""
        return (f"{NO_WAY_OUT} ({refusal})",) if refusal else ()

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
