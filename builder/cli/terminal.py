"""The user's terminal, while a command in a sandbox has one of its own.

Invariants: the user's terminal has its settings back when the block is left, however; it has them not while this
process is stopped from outside, and what a shell sets meanwhile is set anew when it goes on; the size of the window
follows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import termios
import tty
from collections.abc import Generator
from types import FrameType


@contextlib.contextmanager
def attached(console: int, *, raw: bool) -> Generator[None]:
    """``console`` has the size of the user's window; where ``raw``, the user's terminal hands every key on as it is."""
    before = termios.tcgetattr(0) if raw and os.isatty(0) else None
    window = next((fd for fd in (0, 1, 2) if os.isatty(fd)), None)

    def prepare(_number: int = 0, _frame: FrameType | None = None) -> None:
        if before is not None:
            tty.setraw(0, termios.TCSADRAIN)
        resize()

    def resize(_number: int = 0, _frame: FrameType | None = None) -> None:
        # where the terminal is gone, so is its size
        with contextlib.suppress(OSError):
            if window is not None:
                fcntl.ioctl(console, termios.TIOCSWINSZ, fcntl.ioctl(window, termios.TIOCGWINSZ, bytes(8)))

    handlers = {signal.SIGWINCH: signal.signal(signal.SIGWINCH, resize)}
    try:
        prepare()
        handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, prepare)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, before)
