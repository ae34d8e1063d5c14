"""The process behind one ``unionmount``: a union, its transport, its control socket and its signals.

::

    start ─ fork ─→ child: device → union → mount → INIT answered → attached → control socket → serves
      ↑ waits                                                            │
      └──── {"ready": true}, or {"failed": "why not", "hint": "…"} ←─────┘

Invariants: the parent returns only once the union answers; when anything before that fails, nothing is mounted and
nothing runs. The daemon ends when the mount is gone. SIGTERM, SIGINT and SIGHUP unmount; the second of them ends the
daemon at once, with the mount answering ENOTCONN until it is unmounted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from unionfs import wire
from unionfs.actions import Actions
from unionfs.branch import BranchStack
from unionfs.control import ControlError, ControlSocket
from unionfs.errors import UnionError, one_line
from unionfs.mountinfo import read_mounts
from unionfs.mounting import MountError, MountOptions, nothing_left, stack_depth, unmount_command
from unionfs.mountspec import MountSpec
from unionfs.namedtuple import NamedTuple
from unionfs.ops import Notifier
from unionfs.owned import open_union
from unionfs.snapshots import Line, expand
from unionfs.transport.direct.connection import Settings
from unionfs.transport.direct.mount import DirectMount
from unionfs.types import Passthrough
from unionfs.union import Union

Log = Callable[[str], None]
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class DaemonError(UnionError):
    """The daemon ended before its union answered."""


class Mount(Protocol):
    """One mount that is being served, by whichever transport."""

    def trace(self, log: Log) -> None:
        """Each request is logged from now on."""

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """``ready`` is called whenever ``fd`` can be read, while `run` runs."""

    def run(self) -> None:
        """Serves until the kernel has let the mount go, or until `stop`."""

    def stop(self) -> None:
        """`run` returns soon, although the mount may be there still."""

    def statistics(self) -> wire.Message:
        """What was served so far."""
        ...

    def close(self) -> None:
        """Every descriptor and the filesystem are closed. Idempotent."""


class DaemonCall(NamedTuple):
    """What a daemon is to serve, and where."""

    spec: MountSpec
    mount_point: bytes
    """Absolute, without symbolic links."""
    mount: MountOptions
    through_pyfuse3: bool = False
    timeout_seconds: float = 1.0
    trace: bool = False
    snapshot_directory: bytes | None = None
    """Where the snapshots of the top branch lie; None: beside it."""
    at: str | None = None
    """The snapshot to be shown, read-only."""


def start(call: DaemonCall) -> None:
    """The union is mounted, answers, and is served by a process in the background.

    Raises:
        UnionError, OSError: nothing is mounted.
    """
    with nothing_left(call.mount_point):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pid = os.fork()  # noqa: TID251 - the daemon, single-threaded here
        if pid == 0:
            ours.close()
            _background(call, theirs)
        theirs.close()
        with ours:
            try:
                received = wire.receive(ours)
            except (OSError, wire.WireError):
                received = None
        if received is None:
            os.waitpid(pid, 0)
            raise DaemonError("daemon ended before the union answered")
        if "failed" in received.message:
            os.waitpid(pid, 0)
            raise MountError(received.message["failed"], received.message["hint"])


def run(call: DaemonCall, log: Log, ready: Callable[[], None]) -> None:
    """The union is mounted, ``ready`` called, and served until the mount is gone.

    Raises:
        UnionError, OSError: before ``ready``; nothing is mounted.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_left(call.mount_point))
        made: list[Union] = []
        branches = expand(call.spec.branches, call.snapshot_directory, call.at)
        # opened before the mount, which may lie over it
        line = stack.enter_context(contextlib.closing(Line(call.spec.branches[0].path, call.snapshot_directory)))

        def make(notifier: Notifier) -> Union:
            made.append(open_union(BranchStack(branches), call.spec.options, notifier, log))
            return made[0]

        mount = _mount(call, make, log)
        stack.callback(mount.close)
        if call.trace:
            mount.trace(log)
        actions = Actions(made[0], mount.statistics, line, shows_nodes=call.through_pyfuse3)
        control = _control(call.mount_point, actions, made[0], log)
        if control is not None:
            stack.callback(control.close)
            mount.watch(control.fileno(), control.serve)
        stack.enter_context(_Signals(mount, call.mount_point, log))
        ready()
        mount.run()


def _mount(call: DaemonCall, make: Callable[[Notifier], Union], log: Log) -> Mount:
    options = call.spec.options
    if call.through_pyfuse3:
        from unionfs.transport.pyfuse import PyfuseMount  # needs the extra pybuild[pyfuse3]

        return PyfuseMount(call.mount_point, call.mount, make, call.timeout_seconds, log)
    settings = Settings(
        passthrough=options.passthrough is not Passthrough.OFF,
        stack_depth=stack_depth(branch.path for branch in call.spec.branches),
        timeout_seconds=call.timeout_seconds,
        changeable=True,
        volatile=options.volatile,
    )
    return DirectMount(call.mount_point, call.mount, make, settings, log)


def _control(mount_point: bytes, actions: Actions, union: Union, log: Log) -> ControlSocket | None:
    """The socket for ``unionctl``; a mount that can have none is useful without."""
    device = next((entry.device for entry in reversed(read_mounts()) if entry.mount_point == mount_point), None)
    if device is None:
        log(f"control socket: {os.fsdecode(mount_point)!r} is not among the mounts")
        return None
    actions.device = device
    try:
        return ControlSocket(device, actions.answer, union.when_told)
    except ControlError as error:
        log(str(error))
        return None


class _Signals:
    """While entered, the first signal unmounts and the second ends the daemon."""

    def __init__(self, mount: Mount, mount_point: bytes, log: Log) -> None:
        self._mount = mount
        self._mount_point = mount_point
        self._log = log
        self._unmounting: int | None = None
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in _ENDING:
            self._before[number] = signal.signal(number, self._note)
        self._mount.watch(self._read_fd, self._received)

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._unmounting is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._unmounting, 0)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _note(self, _number: int, _frame: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_fd, b".")

    def _received(self) -> None:
        os.read(self._read_fd, 64)
        if self._unmounting is not None:
            self._mount.stop()
            return
        # a program of its own: to unmount is to wait for answers from here
        command = unmount_command(self._mount_point)
        try:
            self._unmounting = os.posix_spawnp(command[0], command, os.environ)
        except OSError as error:
            self._log(f"{command[0]}: {error.strerror}")
            self._mount.stop()


def _background(call: DaemonCall, parent: socket.socket) -> NoReturn:
    """The life of the daemon."""
    status = 1
    try:
        os.setsid()
        run(call, _to_syslog, lambda: _detach(parent))
        status = 0
    except UnionError as error:
        _tell(parent, {"failed": str(error), "hint": error.hint})
    except OSError as error:
        _tell(parent, {"failed": one_line(error), "hint": ""})
    except BaseException as error:  # noqa: BLE001 - the last thing before the end
        import traceback

        _to_syslog(traceback.format_exc())
        _tell(parent, {"failed": f"daemon failed unexpectedly: {error!r}", "hint": "the system log has more"})
    finally:
        os._exit(status)


def _detach(parent: socket.socket) -> None:
    """The parent may go; nothing of its terminal is held any longer."""
    os.chdir("/")
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null_fd, fd)
    os.close(null_fd)
    _tell(parent, {"ready": True})
    parent.close()


def _tell(parent: socket.socket, message: wire.Message) -> None:
    with contextlib.suppress(OSError):
        wire.send(parent, message)


def _to_syslog(text: str) -> None:
    import syslog  # only what goes wrong is logged

    syslog.openlog("unionmount", syslog.LOG_PID, syslog.LOG_DAEMON)
    for line in text.splitlines():
        syslog.syslog(syslog.LOG_WARNING, line)


def to_stderr(text: str) -> None:
    """``text`` is on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
