"""RUN: a command in a sandbox, on the union of its parent's layers and a fresh branch.

::

    pybuild                    union server               sandbox server
      mount(branches) ───────────▶ detached mount
      run(spec, descriptor) ────────────────────────────────▶ init attaches it, runs the command
      ◀── output over pipes ──────────────────────────────────┤
      ◀── result ─────────────────────────────────────────────┘
      ◀── ended: every byte is in the branch ─┘

Invariants: the fresh branch is the only thing that outlives the step; a cancelled step is killed with all its
processes, and the end of the mount is awaited in any case, so that nobody writes to a branch that is being packed or
removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import trio

from builder.errors import ROOM_HINTS, BuildError, UnsupportedError
from builder.events import Usage
from builder.graph import Run, Step
from builder.limits import Limits
from builder.options import Dns
from builder.progress.plain import visible_text
from builder.sandbox.client import Running
from builder.sandbox.spec import HOSTNAME, Runtime, SandboxResult, SandboxSpec, User
from builder.servers import Mounted, Servers
from builder.steps.demands import sandbox_network
from builder.steps.failure import describe_failure, describe_oom, hint_on_absence, usage_of
from builder.steps.mountend import MountEnd
from builder.steps.mountsources import MountSources, PreparedMounts
from builder.steps.roots import KnownUsers, Root, opened
from unionfs.branch import Branch
from unionfs.namedtuple import NamedTuple
from unionfs.privileges import is_machine_root
from unionfs.types import Access, UnionOptions

Output = Callable[[int, bytes], None]

_INSECURE = "security.insecure"
_HOST_NETWORK = "network.host"
_READ_BYTES = 64 << 10
_TAIL_LINES = 20
_WIDE_BYTES = 1 << 20
_STDERR_NAME = "stderr"
_LITTLE_ROOM_BYTES = 4 << 20
_MOUNT_OPTIONS = UnionOptions(volatile=True, sealed_branches=True, constant_branches=True)
"""The layer is made durable when it is packed; until then nothing of the branch is promised to anybody."""


class Environment(NamedTuple):
    """What RUN steps of one build share. ``scaffold`` is a branch of empty mount points (see `make_scaffold`).

    ``notice`` tells what steps have to do without; ``noticed`` has been told.
    """

    servers: Servers
    scaffold: Path
    limits: Limits
    network: str
    extra_hosts: tuple[str, ...]
    dns: Dns
    notice: Callable[[str], None]
    noticed: set[str]
    users: KnownUsers
    allowed: frozenset[str] = frozenset()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    cgroup_parent: str | None = None
    hostname: str = HOSTNAME
    runtime: Runtime | None = None
    ignores_owners: bool = False


def make_scaffold(directory: Path) -> Path:
    """``directory`` holds the places that are mounted over in every step, all empty.

    As the bottom branch it gives each root its mount points, and none of them can end up in a layer.
    """
    for name in ("proc", "sys", "dev", "etc"):
        (directory / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in ("resolv.conf", "hosts", "hostname"):
        (directory / "etc" / name).touch(mode=0o644)
    return directory


async def run(
    step: Step,
    operation: Run,
    root: Root,
    environment: Environment,
    mounts: MountSources,
    output: Output,
    keep: Callable[[SandboxSpec], None],
    begun: Begun | None = None,
    started: Callable[[], None] | None = None,
) -> Usage:
    """The command has ended with status 0 and what it wrote is in ``root.upper``; what it used.

    ``keep`` is called, in a thread, with what a command was that failed, while its mounts are still there. ``begun`` is
    the command, where it runs already; otherwise ``started`` is called once it does, in a thread too.

    Raises:
        StepFailed: any other status, or the sandbox could not be set up.
        UnsupportedError: the instruction asks for what this builder does not offer.
    """
    _refuse(step, operation, environment)
    tail = _Tail(output)
    async with _prepared(operation, mounts) as prepared:
        if begun is None:
            begun = await trio.to_thread.run_sync(_begin, operation, root, root, environment, prepared, None, started)
        result, lost = await _run_in_sandbox(begun.take(), root, environment, tail)
        for warning in result.warnings:
            if warning not in environment.noticed:
                environment.noticed.add(warning)
                environment.notice(warning)
        if result.status or result.error:
            about: tuple[str, ...] = ()
            if result.error is not None:
                more, about = await trio.to_thread.run_sync(_explain_refusal, result.error, root)
                result = result._replace(error=result.error + more)
            full = _is_full(root.upper)
            if not full and not lost:
                await trio.to_thread.run_sync(lambda: keep(begun.spec._replace(binds=prepared.copied())))
            failure = describe_failure(step, operation, result, tail.lines(), environment.limits, disk_is_full=full)
            absence = () if environment.servers.can_mount else hint_on_absence(tail.lines())
            failure.hints = (*failure.hints, *about, *absence, *((lost,) if lost else ()))
            raise failure
    targets = [mount.target for mount in operation.mounts if mount.target is not None]
    if targets:
        from builder.steps.traces import forget_directories

        await trio.to_thread.run_sync(forget_directories, root.upper, root.lower, targets)
    if result.oom is not None:
        tail(2, f"a process of the step was killed: {describe_oom(result.oom)}\n".encode())
    return usage_of(result)


@asynccontextmanager
async def _prepared(operation: Run, sources: MountSources) -> AsyncGenerator[PreparedMounts]:
    """The mounts of ``operation``, made and undone in threads."""
    if not operation.mounts and operation.script is None:
        yield PreparedMounts()
        return
    from builder.steps.mounts import prepare

    mounts = prepare(operation, sources)
    prepared = await trio.to_thread.run_sync(mounts.__enter__)
    try:
        yield prepared
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(mounts.__exit__, None, None, None)


async def _run_in_sandbox(
    started: _Started, root: Root, environment: Environment, output: Output
) -> tuple[SandboxResult, str]:
    """The result of the sandbox; its mount is gone, and ``root.upper`` is still.

    With it comes why what a command changed that failed is not in ``root.upper``, empty where it is.
    """
    async with AsyncExitStack() as reading:
        readers: dict[int, trio.lowlevel.FdStream] = {}
        for number, fd in started.outputs.items():
            readers[number] = trio.lowlevel.FdStream(fd)
            reading.push_async_callback(readers[number].aclose)
        mount = MountEnd(started.mount.ended)
        is_over = False
        try:
            result = await _follow(started.running, readers, mount, output)
            is_over = True
        finally:
            with trio.CancelScope(shield=True):
                if started.mount.copy is not None:
                    await trio.to_thread.run_sync(lambda: started.mount.settle(take=is_over))
                await mount.wait()
                await mount.close()
    if mount.is_whole:
        return result, ""
    reason = await trio.to_thread.run_sync(mount.describe, environment.servers)
    if started.mount.copy is not None and (result.status or result.error):
        return result, reason
    raise BuildError(f"the step lost its root: {reason}", hints=ROOM_HINTS if _is_full(root.upper) else ())


class _Started(NamedTuple):
    """A step that runs, and its mount, of which only the end is of use any more.

    ``outputs`` are read ends of its stdout and stderr, by number; the caller closes them.
    """

    running: Running
    mount: Mounted
    outputs: dict[int, int]


class Begun:
    """A command that runs over its mount; `run` follows it, or `give_up` ends it."""

    def __init__(self, spec: SandboxSpec, started: _Started) -> None:
        self.spec = spec
        self._started = started
        self._started_ns = time.monotonic_ns()
        self._is_taken = False

    def began_ns(self) -> int:
        """When the command began (monotonic), as if it had only ended now where it has ended before."""
        running = self._started.running
        readable = select.poll()
        readable.register(running.fd, select.POLLIN)
        if not readable.poll(0):
            return self._started_ns
        with contextlib.suppress(BuildError):  # told when it is followed
            ended_ns = running.result().ended_ns
            if ended_ns:
                return time.monotonic_ns() - max(0, ended_ns - self._started_ns)
        return self._started_ns

    def take(self) -> _Started:
        """What is to be followed and closed, by the caller alone."""
        self._is_taken = True
        return self._started

    def widen(self) -> None:
        """The command can write more before somebody reads it, as far as the kernel gives room."""
        for fd in self._started.outputs.values():
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _WIDE_BYTES)

    def give_up(self) -> None:
        """The command is dead and its mount is gone, unless somebody took it. Idempotent; waits."""
        if self._is_taken:
            return
        started = self.take()
        started.running.close()
        for fd in started.outputs.values():
            os.close(fd)
        started.mount.settle(take=False)
        _await_end(started.mount)


def begin(step: Step, operation: Run, root: Root, below: Root, environment: Environment, mount: Mounted) -> Begun:
    """The command of ``step``, which has no mounts, runs, and writes some of its output without being followed. Blocks.

    ``below`` looks as ``root`` does, and holds still. ``mount`` is that of ``root``, and ends with the command.

    Raises:
        BuildError: as `run`.
    """
    try:
        _refuse(step, operation, environment)
        begun = _begin(operation, root, below, environment, PreparedMounts(), mount)
    except BaseException:
        drop(mount)
        raise
    begun.widen()
    return begun


def drop(mount: Mounted) -> None:
    """The mount, over which no command runs, is gone."""
    os.close(mount.fd)
    mount.settle(take=False)
    _await_end(mount)


def _await_end(mount: Mounted) -> None:
    with open(mount.ended, "rb") as ended:
        ended.read()


def _begin(
    operation: Run,
    root: Root,
    below: Root,
    environment: Environment,
    prepared: PreparedMounts,
    mount: Mounted | None = None,
    started: Callable[[], None] | None = None,
) -> Begun:
    user, home = environment.users.resolve(operation.user, below)
    spec = _spec(operation, user, home, environment, prepared)
    begun = Begun(spec, _start(spec, root, environment, prepared.fds, mount))
    if started is not None:
        try:
            started()
        except BaseException:
            begun.give_up()
            raise
    return begun


def _start(
    spec: SandboxSpec, root: Root, environment: Environment, mount_fds: Sequence[int], mount: Mounted | None
) -> _Started:
    """The step runs over its mount, which nobody else has any more. Where it doesn't, a ``mount`` is the caller's."""
    servers = environment.servers
    with ExitStack() as ends, ExitStack() as failing:
        named = None if servers.can_mount else root.upper.with_name(_STDERR_NAME)
        stdout, stderr = _pipe(ends, failing), _pipe(ends, failing, named)
        used = mount or mount_root(servers, root, environment.scaffold)
        if mount is None:
            failing.callback(drop, used)
        shown = used.furnish(spec, named)
        running = servers.sandbox.run(
            shown,
            root_fd=used.fd,
            stdin=None,
            stdout=stdout.write_fd,
            stderr=stderr.write_fd,
            mount_fds=mount_fds,
        )
        os.close(used.fd)
        failing.pop_all()
        return _Started(running, used, {1: stdout.read_fd, 2: stderr.read_fd})


def mount_root(servers: Servers, root: Root, scaffold: Path) -> Mounted:
    """The union of ``root`` with the mount points of ``scaffold``, attached nowhere yet.

    Only root of the machine may let the kernel pass reads and writes through.

    Raises:
        SandboxError: no step can be run here, so that the mount would be of no use.
        MountError: FUSE can't be used although its device can.
    """
    _ = servers.sandbox.level
    lower = (*root.lower, scaffold)
    branches = [Branch(os.fsencode(root.upper)), *(Branch(os.fsencode(path), Access.RO) for path in lower)]
    return servers.mount(branches, _MOUNT_OPTIONS, passthrough="fast" if is_machine_root() else "off")


class _Pipe(NamedTuple):
    """A pipe the step writes to."""

    read_fd: int
    write_fd: int


def _pipe(ends: ExitStack, failing: ExitStack, named: Path | None = None) -> _Pipe:
    """A pipe, at the path ``named`` if given; its write end is closed with ``ends``, both with ``failing``."""
    if named is None:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        failing.callback(os.close, read_fd)
    else:
        os.mkfifo(named)
        named.chmod(0o666)
        read_fd = os.open(named, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        failing.callback(os.close, read_fd)
        write_fd = os.open(named, os.O_WRONLY | os.O_CLOEXEC)
    ends.callback(os.close, write_fd)
    return _Pipe(read_fd, write_fd)


async def _follow(
    running: Running, readers: dict[int, trio.lowlevel.FdStream], mount: MountEnd, output: Output
) -> SandboxResult:
    """The result, once the command has ended and all it wrote was given to ``output``.

    A command whose root is lost is killed: it could do nothing more, and might wait for ever.
    """

    async def read(number: int, reader: trio.lowlevel.FdStream) -> None:
        while data := await reader.receive_some(_READ_BYTES):
            output(number, data)

    watching = trio.CancelScope()

    async def watch() -> None:
        with watching:
            await mount.wait()
            if not mount.is_whole:
                running.send_signal(signal.SIGKILL)

    try:
        async with trio.open_nursery() as nursery:
            for number, reader in readers.items():
                nursery.start_soon(read, number, reader)
            nursery.start_soon(watch)
            await trio.lowlevel.wait_readable(running.fd)
            watching.cancel()
        return running.result()
    finally:
        running.close()


class _Tail:
    """Hands output on and keeps its last lines for a message."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lines: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._partial = {1: b"", 2: b""}

    def __call__(self, stream: int, data: bytes) -> None:
        self._output(stream, data)
        *lines, rest = (self._partial[stream] + data).split(b"\n")
        self._lines.extend(lines)
        self._partial[stream] = rest[-_READ_BYTES:]

    def lines(self) -> tuple[str, ...]:
        """The last lines of both streams, in the order they ended."""
        last = [*self._lines, *(rest for rest in self._partial.values() if rest)][-_TAIL_LINES:]
        return tuple(visible_text(line.decode("utf-8", "replace")) for line in last)


def _explain_refusal(error: str, root: Root) -> tuple[str, tuple[str, ...]]:
    """What can be said beside ``error`` of a command that could not be run, and hints."""
    from builder.steps.foreign import explain_refusal

    with opened(root) as files:

        def read_head(path: str, count: int) -> bytes:
            with open(files.open_file(files.resolve(path)), "rb") as file:
                return file.read(count)

        return explain_refusal(error, read_head)


def _spec(operation: Run, user: User, home: str, environment: Environment, prepared: PreparedMounts) -> SandboxSpec:
    names = {pair.partition("=")[0] for pair in operation.env}
    defaults = () if "HOME" in names else (f"HOME={home}",)
    proxies = tuple(pair for pair in operation.proxy_env if pair.partition("=")[0] not in names)
    return SandboxSpec(
        argv=operation.argv,
        env=(*operation.env, *defaults, *proxies, *prepared.env),
        cwd=operation.cwd,
        user=user,
        hostname=operation.hostname or environment.hostname,
        network=sandbox_network(operation.network, environment.network),
        extra_hosts=environment.extra_hosts,
        dns=environment.dns.servers,
        dns_search=environment.dns.search,
        dns_options=environment.dns.options,
        binds=prepared.binds,
        tmpfs=prepared.tmpfs,
        files=prepared.files,
        security="insecure" if operation.security == "insecure" else "sandbox",
        ignore_chown=environment.ignores_owners,
        cap_add=environment.cap_add,
        cap_drop=environment.cap_drop,
        cgroup_parent=environment.cgroup_parent,
        limits=environment.limits,
        runtime=environment.runtime,
    )


def _refuse(step: Step, operation: Run, environment: Environment) -> None:
    """Nothing is asked for that is not offered, or not allowed in this build."""
    if operation.devices:
        raise UnsupportedError(f"RUN does not offer --device={operation.devices[0]}", source=step.source)
    if operation.security == "insecure" and _INSECURE not in environment.allowed:
        raise BuildError(
            "RUN --security=insecure is not allowed in this build",
            source=step.source,
            hints=(f"--allow {_INSECURE} gives the step all privileges",),
        )
    is_given = environment.network == "host" or _HOST_NETWORK in environment.allowed
    if operation.network == "host" and not is_given:
        raise BuildError(
            "RUN --network=host is not allowed in this build",
            source=step.source,
            hints=(f"--allow {_HOST_NETWORK} lets the step reach all that this machine does",),
        )


def _is_full(directory: Path) -> bool:
    """Whether a program that writes there is likely to have met the end of the disk."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize < _LITTLE_ROOM_BYTES
