"""The sandbox as pybuild sees it: a server to start, steps to run in it.

Synchronous and free of trio: a call takes a message's time; the end of a step is awaited on `Running.fd`.

Invariants: descriptors given to `SandboxServer.run` stay the caller's; a `Running` owns its socket, and closing it is
what kills the step; the server is reaped by `close`, and ends by itself when this process dies in any way.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Sequence
from types import ModuleType, TracebackType
from typing import Self

from builder.errors import BuildError
from builder.limits import Limits
from builder.sandbox import protocol
from builder.sandbox.cgroup import sweep_abandoned
from builder.sandbox.isolation import AUTO
from builder.sandbox.limitfiles import needed_controllers
from builder.sandbox.spec import Network, SandboxResult, SandboxSpec, result_from_json
from unionfs import wire
from unionfs.serverprocess import ServerProcess

_BOOT = (
    "import gc; gc.disable(); import sys; sys.path[:0] = sys.argv[3:]; from builder.sandbox.server import main; "
    "sys.exit(main(int(sys.argv[1]), sys.argv[2]))"
)


class SandboxError(BuildError):
    """Steps can't be run: the server could not start, or went away."""


class Running:
    """A step that has been started; a context manager that ends it."""

    def __init__(self, sock: socket.socket, process: ServerProcess) -> None:
        self._socket = sock
        self._process = process
        self._result: SandboxResult | None = None
        self._fds: tuple[int, ...] = ()
        self.console: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """Readable once `result` needs no waiting."""
        return self._socket.fileno()

    def fileno(self) -> int:
        """`fd`, for selectors."""
        return self._socket.fileno()

    def result(self) -> SandboxResult:
        """How the step ended; waits until it has. Every process it started is dead then.

        Raises:
            SandboxError: the server went away, and the step with it.
        """
        while self._result is None:
            message = self._receive()
            if message.get("event") == protocol.RESULT:
                self._result = result_from_json({name: message[name] for name in message if name != "event"})
        return self._result

    def send_signal(self, number: int) -> None:
        """The step's command gets the signal; nothing happens where it has ended."""
        try:
            wire.send(self._socket, {"op": protocol.SIGNAL, "signal": int(number)})
        except OSError:
            return

    def whereabouts(self) -> tuple[str, int] | None:
        """The step's address in the private network and that one's namespace, whose descriptor the caller closes.

        None where the step is not in one, or has ended.
        """
        with contextlib.suppress(OSError):
            wire.send(self._socket, {"op": protocol.WHEREABOUTS})
        message = self._receive()
        if message.get("event") == protocol.RESULT:
            self._result = result_from_json({name: message[name] for name in message if name != "event"})
        fds, self._fds = self._fds, ()
        return (str(message["address"]), fds[0]) if fds else None

    def await_console(self) -> None:
        """`console` is the step's terminal, or None where the step failed before it had one; the caller closes it."""
        message = self._receive()
        if message.get("event") == protocol.RESULT:
            self._result = result_from_json({name: message[name] for name in message if name != "event"})

    def close(self) -> None:
        """The step is dying with everything it started, if it has not ended; calling it again does nothing."""
        self._socket.close()

    def _receive(self) -> wire.Message:
        try:
            received = wire.receive(self._socket)
        except (OSError, wire.WireError):
            received = None
        if received is None:
            raise SandboxError(f"sandbox server {self._process.describe_end()} while a step was running")
        if received.message.get("event") == protocol.CONSOLE and received.fds:
            self.console = received.fds[0]
        elif received.message.get("event") == protocol.WHEREABOUTS:
            self._fds = received.fds
        return received.message


class SandboxServer:
    """The process that runs the steps of one build. Calls may come from several threads."""

    def __init__(self, control: socket.socket, process: ServerProcess) -> None:
        self._control = control
        self._process = process
        self._lock = threading.Lock()
        self._level: str | None = None
        self._refusal: SandboxError | None = None
        self._closed = False
        self.pid = process.pid

    @classmethod
    def start(
        cls,
        *,
        network: Network = "none",
        limits: Limits | None = None,
        isolation: str = AUTO,
        steps: int | None = None,
    ) -> SandboxServer:
        """A server is starting; returns at once, the first `run` waits for it.

        ``network`` and ``limits`` are those of the first step, which is made ready meanwhile, and ``steps`` is how many
        there are at most; they are no promise.
        ``isolation`` is a level (`builder.sandbox.isolation`), or the strongest that works.

        Raises:
            SandboxError: no process could be started.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                controllers = sorted(needed_controllers(limits or Limits()))
                first = {"network": network, "controllers": controllers, "steps": steps}
                wire.send(ours, {"op": protocol.PREPARE, **first})
                process = _spawn(theirs, isolation)
        except OSError as error:
            ours.close()
            raise SandboxError(f"sandbox server can't be started: {error.strerror}") from error
        return cls(ours, process)

    def run(
        self,
        spec: SandboxSpec,
        *,
        root_fd: int,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        mount_fds: Sequence[int] = (),
    ) -> Running:
        """A step is being started over the detached mount ``root_fd``.

        A descriptor that is None is /dev/null. With ``spec.tty`` the step has a terminal, `Running.console`, and the
        three descriptors are not used. ``mount_fds`` are detached mounts that binds of ``spec`` name by index. What
        goes wrong with the step is in its result.

        Raises:
            SandboxError: the server is gone, or this machine can't run steps.
        """
        ours, theirs = socket.socketpair()
        running = Running(ours, self._process)
        stdio = (None, None, None) if spec.tty else (stdin, stdout, stderr)
        fds = protocol.RunDescriptors(theirs.fileno(), root_fd, stdio, tuple(mount_fds))
        try:
            with theirs, self._lock:
                self._await_ready()
                wire.send(self._control, protocol.run_message(spec, fds), fds.given())
        except wire.WireError as error:
            running.close()
            raise SandboxError(f"step can't be handed to the sandbox server: {error}") from error
        except OSError as error:
            running.close()
            raise self._is_gone() from error
        except BaseException:
            running.close()
            raise
        if spec.tty:
            running.await_console()
        return running

    @property
    def level(self) -> str:
        """How strong steps are shut in (`builder.sandbox.isolation`), as people are told; waits for the start.

        Raises:
            SandboxError: this machine can't run steps, or not as strongly shut in as asked for.
        """
        with self._lock:
            return self._await_ready()

    def end(self) -> None:
        """Every step is dying and the server with them; returns at once, `close` waits."""
        self._control.close()

    def close(self) -> str:
        """Every step is dead, its groups are removed, the server has ended; what it said on stderr. Idempotent."""
        if self._closed:
            return ""
        self._closed = True
        self.end()
        status = self._process.wait()
        said = self._process.said()
        self._process.close()
        if status != 0:
            # killed before it could clean up
            sweep_abandoned()
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_gone(self) -> SandboxError:
        self._control.close()
        return SandboxError(f"sandbox server is gone: it {self._process.describe_end()}")

    def _await_ready(self) -> str:
        if self._level is not None:
            return self._level
        if self._refusal is not None:
            raise SandboxError(self._refusal.message, hints=self._refusal.hints)
        try:
            received = wire.receive(self._control)
        except (OSError, wire.WireError):
            # it went away with what it was told unread
            received = None
        if received is None:
            raise SandboxError(f"sandbox server {self._process.describe_end()} at its start")
        if received.message.get("event") != protocol.READY:
            hint = str(received.message.get("hint", ""))
            message = str(received.message.get("error", "sandbox server did not start"))
            self._refusal = SandboxError(message, hints=(hint,) if hint else ())
            raise self._refusal
        self._level = str(received.message.get("level"))
        return self._level


def _spawn(control: socket.socket, isolation: str) -> ServerProcess:
    """A server over ``control``: an interpreter without site packages, in a session of its own."""
    paths = {os.path.dirname(os.path.dirname(os.path.abspath(module.__file__ or ""))) for module in _packages()}
    argv = [sys.executable, "-I", "-S", "-E", "-X", "frozen_modules=on", "-c", _BOOT]
    argv += [str(control.fileno()), isolation, *paths]
    control.set_inheritable(True)
    return ServerProcess.start(argv, setsid=True)


def _packages() -> tuple[ModuleType, ...]:
    import builder
    import unionfs

    return builder, unionfs
