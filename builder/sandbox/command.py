"""The process that becomes the command of a step: takes its stdio, gives up what a step may not have, executes.

Invariants: no descriptor of the host but stdio reaches the program; privileges fall in one order: before the step is
known session keyring, filter (needs CAP_SYS_ADMIN, since no_new_privs stays off for setuid programs) and bounding set,
then groups, ids, capabilities; what is done after the filter is in place is allowed by it; a failure is reported once
over ``report`` and the process ends with the status a shell gives.

The interpreter's executable can be reached by the step through /proc/self/exe of this process, before exec, as in
CVE-2019-5736; it can't be written, since process 1 of the same namespace runs it as long as anything of the step lives
(ETXTBSY, execve(2); tests/sandbox/test_escapes.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import termios
from collections.abc import Sequence
from typing import NoReturn

from builder.limits import ULIMITS
from builder.sandbox import _sys, caps, rehearsal
from builder.sandbox.furnish import Stage, StageError
from builder.sandbox.protocol import FAILED
from builder.sandbox.spec import SandboxSpec, User, spec_from_json
from unionfs import wire
from unionfs.namedtuple import NamedTuple

SETUP_FAILED = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_IGNORED_BY_SERVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UMASK = 0o022
_REPORT_FD = 3


class Confinement(NamedTuple):
    """What a command may be at most; ``last_capability`` is the kernel's highest.

    ``sets_groups``: supplementary groups can be set here.
    """

    capabilities: int
    last_capability: int
    seccomp: _sys.SeccompFilter | None
    sets_groups: bool


def run(confinement: Confinement, orders: socket.socket, report: socket.socket, root: int | None = None) -> NoReturn:
    """Waits for its order, then is the command; ``report`` leads to the server.

    ``root`` is the directory that becomes its root, None where it is in its root already.
    """
    status, error = SETUP_FAILED, ""
    try:
        if root is not None:
            _enter_root(root)
        _confine(confinement)
        rehearsal.rehearse_command()
        spec = spec_from_json(_receive(orders).message)
        received = _receive(orders)
        with Stage("preparing", "command"):
            report = _take_descriptors(spec, received.fds, report)
        _enter_directory(spec.cwd, spec.user)
        _set_limits(spec)
        _take_identity(spec.user, confinement)
        status, reason = _execute(spec)
        error = f'error executing "{spec.argv[0]}": {reason}'
    except StageError as failure:
        error = str(failure)
    except BaseException as failure:  # noqa: BLE001  (nothing may return from here into the server's code)
        error = f"sandbox failed: {failure!r}"
    try:
        wire.send(report, {"event": FAILED, "error": error, "status": status})
    finally:
        os._exit(status)


def _receive(orders: socket.socket) -> wire.Received:
    """What the first process of the step says next; without it this one ends."""
    received = wire.receive(orders)
    if received is None:
        os._exit(SETUP_FAILED)
    return received


def _take_descriptors(spec: SandboxSpec, stdio: Sequence[int], report: socket.socket) -> socket.socket:
    """0, 1 and 2 are the step's, the returned report is the only other descriptor, and it ends with exec."""
    if spec.tty:
        fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
    if spec.user.uid != 0:
        _own_pipes(spec.user.uid, stdio)
    # first out of the way of 0 to 3
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _REPORT_FD + 1) for fd in (*stdio, report.fileno())]
    for number, fd in enumerate(high[:-1]):
        os.dup2(fd, number, inheritable=True)
    os.dup2(high[-1], _REPORT_FD, inheritable=False)
    os.closerange(_REPORT_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    report.detach()
    return socket.socket(fileno=_REPORT_FD)


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
    """The directory is the root of this process; that it stays so takes the loss of CAP_SYS_CHROOT (`_confine`)."""
    with Stage("changing to", "root"):
        os.fchdir(root)
        os.chroot(".")


def _enter_directory(path: str, user: User) -> None:
    """``path`` is the current directory; where it is missing it is made, with its parents, and is the user's."""
    with Stage("entering", path):
        try:
            os.chdir(path)
        except FileNotFoundError:
            _make_directory(path, user)
            os.chdir(path)
        # a directory outside the root (CVE-2024-21626): the kernel then gives no path from /
        if not os.getcwd().startswith("/"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


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


def _confine(confinement: Confinement) -> None:
    """Nothing this process executes can get more than ``confinement``; it keeps its own capabilities for now."""
    os.umask(_UMASK)
    os.setsid()
    with Stage("making", "session keyring"):
        _new_keyring()
    if confinement.seccomp is not None:
        with Stage("installing", "seccomp filter"):
            confinement.seccomp.install()
    with Stage("dropping", "capabilities"):
        caps.limit_bounding_set(confinement.capabilities, confinement.last_capability)
    _reset_signals()


def _take_identity(user: User, confinement: Confinement) -> None:
    """From here on the process is what the step may be."""
    uid, gid, groups = user
    with Stage("changing to", f"user {uid}:{gid}"):
        # one that is mapped alone can't set groups, and has none to lose
        if groups or confinement.sets_groups:
            os.setgroups(user.every_group)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    with Stage("setting", "capabilities"):
        held = confinement.capabilities if uid == 0 else 0
        _sys.capset(held, held, 0)


def _new_keyring() -> None:
    try:
        _sys.join_new_session_keyring()
    except OSError as error:
        # a kernel without keys, too many keys, an outer container's filter: keyctl is refused to the step in any case
        if error.errno not in {errno.ENOSYS, errno.EDQUOT, errno.EPERM}:
            raise


def _reset_signals() -> None:
    for number in (*_IGNORED_BY_PYTHON, *_IGNORED_BY_SERVER):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _execute(spec: SandboxSpec) -> tuple[int, str]:
    """Returns only if it fails: the status a shell gives, and the reason."""
    environment = {name: value for name, _, value in (variable.partition("=") for variable in spec.env)}
    last = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _candidates(spec.argv[0], environment.get("PATH", _DEFAULT_PATH)):
        try:
            os.execve(path, spec.argv, environment)  # noqa: S606  (no shell is wanted)
        except OSError as error:
            if not _is_missing(error) or _is_missing(last):
                last = error
    return (NOT_FOUND if _is_missing(last) else NOT_EXECUTABLE), (last.strerror or "").lower()


def _is_missing(error: OSError) -> bool:
    return error.errno in {errno.ENOENT, errno.ENOTDIR}


def _candidates(program: str, path: str) -> list[str]:
    if "/" in program:
        return [program]
    return [os.path.join(directory or ".", program) for directory in path.split(":")]
