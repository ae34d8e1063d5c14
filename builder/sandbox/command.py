"""The command of a step is started, by a thread that has given up what a step may not have.

::

    init                              starter, a thread of it                          command
      │ Starter(…) ──────────────────▶│ session keyring, filter, bounding set             │  before a step is known
      │ /proc, /dev, /sys, root       │                                                   │
      │ launch(spec, stdio) ─────────▶│ groups, ids, capabilities                         │
      │◀──────────── pid, or why not ─┤ posix_spawn ─────────────────────────────────────▶│ session, stdio, exec
      │ reaps                         │ sleeps                                            │

What a process may do are attributes of each of its threads in Linux (credentials(7), capabilities(7), seccomp(2)), and
who is started by a thread inherits its. So the command shares the memory of init until it executes, and nothing of it
is copied, where a fork copies some 500 pages and execve lets all of them go. What belongs to a whole process, ulimits
and a terminal, can't be had so: such a command is forked, with the same privileges.

Invariants: no descriptor of the host but stdio reaches the program; what the starter gives up (`confinement`) the other
thread keeps, so nothing here calls the C library's setuid(3) and its like, which change all threads; it stays as long
as init, which is not dumpable: nobody can trace it, and control groups count two of ours from first to last.

The interpreter's executable can be reached by the step through /proc/self/exe of the command, before exec, as in
CVE-2019-5736; it can't be written, since process 1 of the same namespace runs it as long as anything of the step lives
(ETXTBSY, execve(2); tests/sandbox/test_escapes.py).
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import termios
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from builder.limits import ULIMITS
from builder.sandbox import _sys
from builder.sandbox.confinement import Confinement, confine, take_identity
from builder.sandbox.furnish import Stage, StageError
from builder.sandbox.protocol import FAILED
from builder.sandbox.spec import SandboxSpec, User
from unionfs import wire

SETUP_FAILED = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127

# by Python, and by the server
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UMASK = 0o022


class CommandError(Exception):
    """The command could not be started; ``status`` is what a shell would say."""

    def __init__(self, message: str, status: int = SETUP_FAILED) -> None:
        super().__init__(message)
        self.status = status


class Starter:
    """The thread that starts the command; belongs to the step's first process, which is not dumpable."""

    def __init__(self, confinement: Confinement, report: socket.socket) -> None:
        """The thread gives up what the step is known not to have; ``report`` is for a command that is forked."""
        self._confinement = confinement
        self._report = report
        self._ordered, self._answered, self._ended = (_thread.allocate_lock() for _ in range(3))
        for lock in (self._ordered, self._answered, self._ended):
            lock.acquire()
        self._order: tuple[SandboxSpec, Sequence[int]]
        self._answer: int | CommandError
        _thread.start_new_thread(self._live, ())

    def launch(self, spec: SandboxSpec, stdio: Sequence[int]) -> int:
        """The id of the command's process, which has ``stdio``, is in its directory and executes.

        To be called once, in the step's root. Whoever forked the command is told what goes wrong by its report.

        Raises:
            CommandError: there is no process.
        """
        try:
            # the directory and the mask of both threads, and of whom they start
            _get_ready(spec, stdio, _change_directory)
        except StageError as failure:
            raise CommandError(str(failure)) from failure
        self._order = spec, stdio
        self._ordered.release()
        self._answered.acquire()
        os.chdir("/")
        if isinstance(self._answer, CommandError):
            raise self._answer
        return self._answer

    def _live(self) -> None:
        try:
            confine(self._confinement)
            self._ordered.acquire()
            self._answer = self._start(*self._order)
        except CommandError as failure:
            self._answer = failure
        except StageError as failure:
            self._answer = CommandError(str(failure))
        except BaseException as failure:  # noqa: BLE001  (the end of a thread: the other gets to know in any case)
            self._answer = CommandError(f"sandbox failed: {failure!r}")
        self._answered.release()
        # never: control groups count threads, and what they count shall not change while the step runs
        self._ended.acquire()

    def _start(self, spec: SandboxSpec, stdio: Sequence[int]) -> int:
        if spec.tty or spec.limits.ulimits:
            return _fork(lambda: _become(spec, stdio, self._confinement), self._report)
        take_identity(spec.user, self._confinement)
        # a change of ids puts it back to what fs.suid_dumpable says, where 1 would let the step trace this thread
        _sys.prctl(_sys.PR_SET_DUMPABLE, 0)
        return _spawn(spec, stdio)


def fork_in(root: int, spec: SandboxSpec, stdio: Sequence[int], confinement: Confinement, report: socket.socket) -> int:
    """The id of a process whose root is the directory ``root`` and that becomes the command, or tells ``report``.

    For where there is no mount namespace: a thread can't have a root of its own (unshare(2) is refused there).
    """

    def work() -> None:
        _enter_root(root)
        confine(confinement)
        # nothing in this root leads to a descriptor: it has no /proc
        _get_ready(spec, stdio, os.chdir)
        _become(spec, stdio, confinement)

    return _fork(work, report)


def _fork(work: Callable[[], None], report: socket.socket) -> int:
    """The id of a process that does ``work`` and tells ``report``, which leads to the server, why it came to an end."""
    pid = _sys.clone(0)
    if pid:
        return pid
    failure = CommandError("sandbox failed: the command was not executed")
    try:
        work()
    except StageError as error:
        failure = CommandError(str(error))
    except CommandError as error:
        failure = error
    except BaseException as error:  # noqa: BLE001  (nothing may return from here into the code of init)
        failure = CommandError(f"sandbox failed: {error!r}")
    try:
        tell_failure(report, failure)
    finally:
        os._exit(failure.status)


def _become(spec: SandboxSpec, stdio: Sequence[int], confinement: Confinement) -> NoReturn:
    """This process is the command."""
    with Stage("preparing", "command"):
        os.setsid()
        if spec.tty:
            fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
        for number, fd in enumerate(stdio):
            os.dup2(fd, number, inheritable=True)
    _set_limits(spec)
    take_identity(spec.user, confinement)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _execute(spec)


def tell_failure(report: socket.socket, failure: CommandError) -> None:
    """The server knows why the command was not started."""
    wire.send(report, {"event": FAILED, "error": str(failure), "status": failure.status})


def _own_pipes(uid: int, stdio: Sequence[int]) -> None:
    """A user other than root can open /dev/stdout again where it is a pipe, as with runc."""
    for fd in stdio:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            try:
                os.fchown(fd, uid, -1)
            except OSError as error:
                # somebody else's pipe, seen from a user namespace, stays as it is; of an id that is not mapped there
                # the change of ids will tell
                if error.errno not in {errno.EPERM, errno.EINVAL}:
                    raise


def _enter_root(root: int) -> None:
    """The directory is the root of this process; that it stays so takes the loss of CAP_SYS_CHROOT (`confine`)."""
    with Stage("changing to", "root"):
        os.fchdir(root)
        os.chroot(".")


def _get_ready(spec: SandboxSpec, stdio: Sequence[int], change_directory: Callable[[str], None]) -> None:
    """Pipes belong to the command's user, and this process has its mask and its directory."""
    if spec.user.uid != 0:
        _own_pipes(spec.user.uid, stdio)
    os.umask(_UMASK)
    _enter_directory(spec.cwd, spec.user, change_directory)


def _enter_directory(path: str, user: User, change_directory: Callable[[str], None]) -> None:
    """``path`` is the current directory; where it is missing it is made, with its parents, and is the user's."""
    with Stage("entering", path):
        try:
            change_directory(path)
        except FileNotFoundError:
            _make_directory(path, user)
            change_directory(path)
        # a directory outside the root (CVE-2024-21626): the kernel then gives no path from /
        if not os.getcwd().startswith("/"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _change_directory(path: str) -> None:
    """``path`` is the current directory; it leads through no descriptor of this process (CVE-2024-21626)."""
    fd = _sys.openat2(_sys.AT_FDCWD, os.fsencode(path), os.O_PATH | os.O_DIRECTORY, _sys.RESOLVE_NO_MAGICLINKS)
    try:
        os.fchdir(fd)
    finally:
        os.close(fd)


def _make_directory(path: str, user: User) -> None:
    """A directory is at ``path``; new ones belong to ``user`` (BuildKit, ``executor/runcexecutor``)."""
    parent = os.path.dirname(path.rstrip("/"))
    if not os.path.isdir(parent):
        _make_directory(parent, user)
    os.mkdir(path, 0o755)
    os.chown(path, user.uid, user.gid)


def _set_limits(spec: SandboxSpec) -> None:
    for name, soft, hard in spec.limits.ulimits:
        with Stage("setting", f"ulimit {name}"):
            infinity = resource.RLIM_INFINITY
            try:
                resource.setrlimit(ULIMITS[name], (infinity if soft < 0 else soft, infinity if hard < 0 else hard))
            except ValueError as error:
                # Python's word for EPERM (one can't be raised) and for EINVAL
                number = errno.EPERM if "raise" in str(error) else errno.EINVAL
                raise OSError(number, os.strerror(number)) from error


def _spawn(spec: SandboxSpec, stdio: Sequence[int]) -> int:
    """The id of the process that executes the command; raises CommandError."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
    return _try_programs(
        spec,
        lambda path, environment: os.posix_spawn(
            path, spec.argv, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_IGNORED
        ),
    )


def _execute(spec: SandboxSpec) -> NoReturn:
    """This process executes the command; raises CommandError."""

    def execute(path: str, environment: Mapping[str, str]) -> NoReturn:
        os.execve(path, spec.argv, environment)  # noqa: S606  (no shell is wanted)

    raise SystemExit(_try_programs(spec, execute))


def _try_programs(spec: SandboxSpec, start: Callable[[str, Mapping[str, str]], int]) -> int:
    """What ``start`` returned for the first place of the command's program that it could execute.

    Raises:
        CommandError: there is none; with the status a shell gives, and the reason.
    """
    environment = {name: value for name, _, value in (variable.partition("=") for variable in spec.env)}
    last = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _candidates(spec.argv[0], environment.get("PATH", _DEFAULT_PATH)):
        try:
            return start(path, environment)
        except OSError as error:
            if not _is_missing(error) or _is_missing(last):
                last = error
    status = NOT_FOUND if _is_missing(last) else NOT_EXECUTABLE
    raise CommandError(f'error executing "{spec.argv[0]}": {(last.strerror or "").lower()}', status)


def _is_missing(error: OSError) -> bool:
    return error.errno in {errno.ENOENT, errno.ENOTDIR}


def _candidates(program: str, path: str) -> list[str]:
    if "/" in program:
        return [program]
    return [os.path.join(directory or ".", program) for directory in path.split(":")]
