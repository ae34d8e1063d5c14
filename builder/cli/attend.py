"""A command in a sandbox with the user's terminal or pipes: bytes go both ways, signals one way, until it has ended.

::

    user                     pybuild                     command
    stdin  ────────────────▶ pending ──────────────────▶ a pipe, or its terminal
    stdout, stderr ◀──────────────────────────────────── two pipes, or its terminal
    signals ───────────────▶ ──────────────────────────▶ the command
    size of the window ────▶ ──────────────────────────▶ its terminal

Invariants: the command never has a descriptor of the user's, so it can neither change the user's terminal nor find a
way through a directory or file that it was given (CVE-2024-21626 is of that kind); neither direction waits for the
other; who reads no more of the output is told to the command by SIGPIPE, as in a pipeline; the user's terminal has its
settings back when the block is left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections.abc import Callable, Generator
from types import FrameType
from typing import Self

from builder.errors import Interrupted
from builder.running import RootEnd, Started
from builder.sandbox.client import Running
from builder.sandbox.spec import SandboxResult
from unionfs.namedtuple import NamedTuple

_READ_BYTES = 64 << 10
_GONE = frozenset({errno.EPIPE, errno.EIO, errno.ECONNRESET})
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_HANDED_ON = (
    *_ENDING,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCONT,
)
_PATIENCE = 3
"""So many signals that end a program, and the command is killed: the number docker's client counts to."""


class Stdio(NamedTuple):
    """What the command gets; None is /dev/null, or its terminal."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


class Signals:
    """Signals of this process, while a command is got ready, runs, and is cleared away; a context manager.

    Before the command runs SIGINT, SIGTERM and SIGHUP are `Interrupted`; while it runs they are its own, as other
    signals are, unless ``hand_on`` is false; afterwards they are ignored, since what is left to do is short.
    """

    def __init__(self, *, hand_on: bool = True) -> None:
        self._hand_on = hand_on
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._running: Running | None = None
        self._ended = False
        self._count = 0

    def __enter__(self) -> Self:
        for number in _HANDED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def leading_to(self, running: Running) -> Generator[None]:
        """Signals are those of ``running`` until the block is left, and ignored from then on."""
        self._running = running
        try:
            yield
        finally:
            self._running, self._ended = None, True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._ended:
            return
        if number in _ENDING and (self._running is None or not self._hand_on):
            self._ended = True
            raise Interrupted
        if self._running is not None and self._hand_on:
            self._count += number in _ENDING
            self._running.send_signal(signal.SIGKILL if self._count >= _PATIENCE else number)


class _Flow:
    """Bytes on their way from ``source`` to ``sink``; both are -1 once nothing comes or nobody takes."""

    def __init__(self, source: int, sink: int, end: Callable[[], None], *, waits: bool) -> None:
        """``end`` is called once when the last byte has gone; where it ``waits``, writing may block."""
        self.source = source
        self.sink = sink
        self._end = end
        self._waits = waits
        self._pending = b""

    @property
    def wants(self) -> tuple[int, int]:
        """The descriptor and event that it waits for."""
        if self._pending and not self._waits:
            return self.sink, select.POLLOUT
        return self.source, select.POLLIN

    def move(self) -> None:
        """A piece has gone on, as far as it can."""
        try:
            if not self._pending:
                self._pending = _read(self.source)
                if not self._pending:
                    self.finish()
                    return
            self._pending = self._write(self._pending)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self.finish()

    def finish(self) -> None:
        """Nothing goes this way any more."""
        if self.source >= 0:
            self.source = self.sink = -1
            self._end()

    def _write(self, data: bytes) -> bytes:
        view = memoryview(data)
        while view:
            view = view[os.write(self.sink, view) :]
            if not self._waits:
                break
        return bytes(view)


Start = Callable[[Stdio], contextlib.AbstractContextManager[Started]]


def attend(start: Start, signals: Signals, *, interactive: bool, tty: bool) -> SandboxResult:
    """The result of the command that ``start`` starts, once everything it wrote is written.

    ``interactive``: it reads this process's stdin. Raises what ``start`` raises, and `Interrupted`.
    """
    with contextlib.ExitStack() as stack:
        flows: list[_Flow] = []
        if tty:
            running, root = stack.enter_context(start(Stdio()))
            if running.console is not None:
                flows += _console(running.console, stack, interactive=interactive)
        else:
            running, root = _with_pipes(start, flows, stack, interactive=interactive)
        with signals.leading_to(running):
            _move_all(flows, running, root)
            return running.result()


def _with_pipes(start: Start, flows: list[_Flow], stack: contextlib.ExitStack, *, interactive: bool) -> Started:
    """The command, until ``stack`` is left; its pipes are those of ``flows``."""
    with contextlib.ExitStack() as given:
        ends: list[int | None] = [None]
        if interactive:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            given.callback(os.close, read_end)
            ends[0] = read_end
            os.set_blocking(write_end, False)
            flows.append(_Flow(0, write_end, _closing(write_end, stack), waits=False))
        for number in (1, 2):
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            given.callback(os.close, write_end)
            ends.append(write_end)
            flows.append(_Flow(read_end, number, _closing(read_end, stack), waits=True))
        return stack.enter_context(start(Stdio(*ends)))


def _console(console: int, stack: contextlib.ExitStack, *, interactive: bool) -> list[_Flow]:
    from builder.cli.terminal import attached

    close = _closing(console, stack)
    os.set_blocking(console, False)
    stack.enter_context(attached(console, raw=interactive))
    out = _Flow(console, 1, close, waits=True)
    return [_Flow(0, console, lambda: None, waits=False), out] if interactive else [out]


def _closing(fd: int, stack: contextlib.ExitStack) -> Callable[[], None]:
    """A call that closes ``fd``, which is made with ``stack`` at the latest; made twice it does nothing more."""
    with contextlib.ExitStack() as one:
        one.callback(os.close, fd)
        closing = one.pop_all()
    stack.callback(closing.close)
    return closing.close


def _move_all(flows: list[_Flow], running: Running, root: RootEnd) -> None:
    """Everything the command wrote is written, and it has ended: all who could write are dead then.

    One whose root is lost is killed: it could do nothing more, and might wait for ever.
    """
    watched = {running.fd, root.fileno()}
    while True:
        ended = running.fd not in watched
        waiting = [flow for flow in flows if flow.source > 0 or (flow.source == 0 and not ended)]
        if ended and not waiting:
            return
        poll = select.poll()
        for flow in waiting:
            poll.register(*flow.wants)
        for fd in () if ended else watched:
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _event in poll.poll()}
        for flow in waiting:
            if flow.source >= 0 and flow.wants[0] in ready:
                flow.move()
        if root.fileno() in ready & watched and root.is_lost():
            running.send_signal(signal.SIGKILL)
        watched -= ready


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        raise
    except OSError:
        # EIO: the last one who had the terminal open is gone (pty(7))
        return b""
