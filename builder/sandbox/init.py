"""The first process of a step: furnishes the step's root, lets the command loose, reaps until it ends.

It is process 1 of the step's pid namespace, so whatever the step leaves behind dies with it; without such a namespace
(`builder.sandbox.isolation`) it reaps for its descendants, and ends them. The command is its child:
the program of a step is not process 1, signals do to it what they do elsewhere. It is made ready
before a step is known, and waits for its order. What starts the command is a second thread (`command.Starter`).

Invariants: runs in a clone of the server and returns never; a failure is reported once, with its stage, over
``report``; nothing in the step can trace this process or look at what it holds, since it is not dumpable and holds more
capabilities than any step.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from builder.network.hub import Station, attach
from builder.network.reuse import Witness
from builder.sandbox import _sys, command, descendants, network, protocol, rehearsal
from builder.sandbox.command import SETUP_FAILED
from builder.sandbox.confinement import Confinement
from builder.sandbox.furnish import Root, Stage, StageError
from builder.sandbox.mounts import BaseMount, plan_own
from builder.sandbox.spec import SandboxSpec
from unionfs import wire
from unionfs.namedtuple import NamedTuple

_FORWARDED = frozenset(
    (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGWINCH,
        signal.SIGCONT,
    )
)
# ioctl_tty(2); not in the termios module of every version
_TIOCSPTLCK = 0x4004_5431
_TIOCGPTN = 0x8004_5430
_SERVER_GONE = signal.SIGRTMAX
AWAITED = _FORWARDED | {signal.SIGCHLD, _SERVER_GONE}


class Preparation(NamedTuple):
    """What is known before a step is: ``join_fds`` lead to the groups, ``station`` is in the network.

    ``network`` is a namespace that is to be entered, with all that belongs there; ``lends_network``: others may get
    the step's if nothing was sent there. ``own_processes``: there is a pid namespace; ``own_mounts``: there is a mount
    namespace; ``pivots``: pivot_root(2) is allowed.
    """

    mounts: tuple[BaseMount, ...]
    join_fds: tuple[int, ...]
    own_network: bool
    station: Station | None
    confinement: Confinement
    own_processes: bool = True
    own_mounts: bool = True
    pivots: bool = True
    network: int | None = None
    lends_network: bool = False

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors that are needed for it."""
        if self.network is not None:
            return (*self.join_fds, self.network)
        return self.join_fds if self.station is None else (*self.join_fds, self.station.hub)


def run(preparation: Preparation, report: socket.socket) -> NoReturn:
    """The life of a step's first process; ``report`` leads to the server."""
    work = _run if preparation.own_mounts else _run_in_directory
    live(lambda: work(preparation, report), report, own_processes=preparation.own_processes)


def live(work: Callable[[], None], report: socket.socket, *, own_processes: bool = True) -> NoReturn:
    """This process does ``work``, tells the server what goes wrong, and ends; when the server dies, so does it."""
    try:
        _die_with_server(report, signal.SIGKILL if own_processes else _SERVER_GONE)
        work()
    except StageError as error:
        wire.send(report, {"event": protocol.FAILED, "error": str(error), "status": SETUP_FAILED})
    except BaseException as error:  # noqa: BLE001  (the end of a process: the server gets to know in any case)
        wire.send(report, {"event": protocol.FAILED, "error": f"sandbox failed: {error!r}", "status": SETUP_FAILED})
    finally:
        os._exit(0)


def _run(preparation: Preparation, report: socket.socket) -> None:
    root = Root(pivots=preparation.pivots)
    starter, witness = _prepare(preparation, report, root)
    ordered = _await_order(report, [witness.namespace] if witness and preparation.network is None else [])
    if ordered is None:
        return
    order, fds, given = ordered
    spec = order.spec
    notes = _set_hostname(spec.hostname)
    own = plan_own(spec, order.files)
    sources = root.enter(fds.root, own, fds.mounts)
    root.furnish(own, sources, order.root_attributes)
    stdio = _open_console(spec, fds.step) if spec.tty else _stdio(fds)
    ended = _run_command(starter, spec, stdio, {*stdio, *given} - {fds.root}, report)
    end_all_others() if preparation.own_processes else descendants.end_all()
    root.restore()
    root.leave()
    tell_end(report, ended, notes, was_silent=witness is not None and witness.has_seen_nothing())


def _run_in_directory(preparation: Preparation, report: socket.socket) -> None:
    """As `_run` where nothing can be mounted: the root is a directory in which all lies that the step sees.

    It is the command's root alone: this process finds its descendants in the builder's /proc.
    """
    _join_groups(preparation)
    _watch(preparation)
    ordered = _await_order(report)
    if ordered is None:
        return
    order, fds, given = ordered
    stdio = _open_console(order.spec, fds.step) if order.spec.tty else _stdio(fds)
    pid = command.fork_in(fds.root, order.spec, stdio, preparation.confinement, report)
    for fd in {*stdio, *given}:
        os.close(fd)
    ended = reap_until(pid)
    descendants.end_all()
    tell_end(report, ended)


def _await_order(
    report: socket.socket, lent: Sequence[int] = ()
) -> tuple[protocol.Order, protocol.RunDescriptors, Sequence[int]] | None:
    """What this process is ordered to run, with all descriptors that came along; None when there will be no step.

    The server is told that it is ready, and gets ``lent``.
    """
    rehearsal.rehearse_order()
    wire.send(report, {"event": protocol.READY}, lent)
    received = wire.receive(report)
    return None if received is None else (*protocol.parse_order(received.message, received.fds), received.fds)


def tell_end(report: socket.socket, ended: int, notes: Sequence[str] = (), *, was_silent: bool = False) -> None:
    """The server has told what came of the step, or is gone; only then this process may end, which takes 1 to 3 ms."""
    wire.send(report, protocol.exited_message(ended, notes, was_silent=was_silent))
    with contextlib.suppress(OSError):
        report.recv(1)


def join_network(preparation: Preparation) -> None:
    """The network namespace of this process, where it has one, has its loopback device, and its way out."""
    if preparation.network is not None:
        with Stage("entering", "network namespace"):
            _sys.setns(preparation.network, _sys.CLONE_NEWNET)
        os.close(preparation.network)
        return
    if preparation.own_network:
        with Stage("raising", "lo"):
            network.bring_loopback_up()
    if preparation.station is not None:
        with Stage("joining", "private network"):
            attach(preparation.station)
            os.close(preparation.station.hub)


def _prepare(preparation: Preparation, report: socket.socket, root: Root) -> tuple[command.Starter, Witness | None]:
    """Everything that doesn't depend on the step is done; returns what starts the command, and who sees its network."""
    _join_groups(preparation)
    with Stage("entering", "cgroup namespace"):
        _sys.unshare(_sys.CLONE_NEWCGROUP)
    join_network(preparation)
    witness = Witness.of_this_process() if preparation.lends_network else None
    _watch(preparation)
    starter = command.Starter(preparation.confinement, report)
    root.prepare(preparation.mounts)
    return starter, witness


def _join_groups(preparation: Preparation) -> None:
    with Stage("joining", "cgroup"):
        for fd in preparation.join_fds:
            os.write(fd, b"0")
            os.close(fd)


def _watch(preparation: Preparation) -> None:
    """This process can be traced by nobody, waits for its signals, and is told of the ends that are its affair."""
    os.umask(0)
    _sys.prctl(_sys.PR_SET_DUMPABLE, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    if not preparation.own_processes:
        _sys.prctl(_sys.PR_SET_CHILD_SUBREAPER, 1)


def _run_command(
    starter: command.Starter, spec: SandboxSpec, stdio: Sequence[int], fds: Collection[int], report: socket.socket
) -> int:
    """The wait status of the command; ``fds`` are not needed any more once it has started."""
    try:
        pid = starter.launch(spec, stdio)
    except command.CommandError as failure:
        command.tell_failure(report, failure)
        return 0
    for fd in fds:
        os.close(fd)
    return reap_until(pid)


def _die_with_server(report: socket.socket, number: int) -> None:
    """This process gets a signal when the server is killed; that may be gone already, then its end of ``report`` is."""
    _sys.prctl(_sys.PR_SET_PDEATHSIG, number)
    poll = select.poll()
    poll.register(report, 0)
    if poll.poll(0):
        os._exit(0)


def _set_hostname(name: str) -> list[str]:
    """The step's host has the name; what is to be told where a filter of an outer container refuses it, as podman's."""
    with Stage("setting", "hostname"):
        try:
            socket.sethostname(name)
        except PermissionError:
            return ["the name of the host can't be set here: the step sees the builder's"]
    return []


def _stdio(fds: protocol.RunDescriptors) -> tuple[int, ...]:
    """The step's stdio, with /dev/null of the step's own where there is none."""
    return tuple(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) if fd is None else fd for fd in fds.stdio)


def _open_console(spec: SandboxSpec, step_fd: int) -> tuple[int, ...]:
    """A new terminal of the step's own devpts is its stdio, the other end is with pybuild."""
    with Stage("opening", "/dev/ptmx"):
        master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))
        terminal = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        os.fchown(terminal, spec.user.uid, -1)
    with socket.socket(fileno=os.dup(step_fd)) as step:
        wire.send(step, {"event": protocol.CONSOLE}, [master])
    os.close(master)
    return terminal, os.dup(terminal), os.dup(terminal)


def reap_until(pid: int) -> int:
    """The wait status of the command; what else ends meanwhile is reaped, signals go to the command."""
    while True:
        received = signal.sigwait(AWAITED)
        if received == _SERVER_GONE:
            descendants.end_all()
            os._exit(0)
        if received != signal.SIGCHLD:
            os.kill(pid, received)
            continue
        ended, status = os.waitpid(-1, os.WNOHANG)
        while ended:
            if ended == pid:
                return status
            ended, status = os.waitpid(-1, os.WNOHANG)


def end_all_others() -> None:
    """Only this process is left in its pid namespace."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ProcessLookupError, ChildProcessError):
        return
