"""A step's terminal and the user's own, joined.

Invariants: the user's terminal has its settings back when `relay` returns or raises; the window's size follows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import termios
import tty
from collections.abc import Generator
from types import FrameType

from builder.sandbox.client import Running

_READ_BYTES = 64 << 10


def relay(running: Running, console: int) -> None:
    """Everything has gone from stdin to ``console`` and back until the step ended; ``console`` is closed."""
    try:
        with _raw(0), _following_size(console):
            _copy(running, console)
    finally:
        os.close(console)


def _copy(running: Running, console: int) -> None:
    sources = [0, console, running.fd]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if console in ready:
            data = _read(console)
            if not data:
                return
            _write(1, data)
        elif running.fd in ready:
            return
        if 0 in ready:
            data = _read(0)
            if data:
                _write(console, data)
            else:
                sources.remove(0)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _READ_BYTES)
    except OSError:
        # EIO: the last one who had the terminal open is gone (pty(7))
        return b""


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def _raw(fd: int) -> Generator[None]:
    """The terminal hands every key on as it is."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _following_size(console: int) -> Generator[None]:
    """``console`` has the size of the user's window, also when that changes."""

    def resize(_number: int = 0, _frame: FrameType | None = None) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(console, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))

    before = signal.signal(signal.SIGWINCH, resize)
    resize()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
