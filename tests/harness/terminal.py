"""A program on a terminal, as a person has it: keys go in, what is shown is read back."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from harness.waiting import DEADLINE_SECONDS


class Terminal:
    """``command`` has a terminal of its own, which is the controlling one; a context manager that ends it."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, rows: int = 24, columns: int = 80) -> None:
        self.fd, self._theirs = os.openpty()
        self.resize(rows, columns)
        self.settings = self._settings()
        # the other descriptor stays open: settings can be asked for, and what was shown be read, after the end
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            env=dict(env),
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
        )
        self.shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self._theirs)

    def resize(self, rows: int, columns: int) -> None:
        """The window has another size; the kernel tells the program."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def read_until(self, text: bytes) -> bytes:
        """What was shown up to ``text``, which is waited for; what follows is left for the next call."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} not in {self.shown!r}"
            if select.select([self.fd], [], [], 0.05)[0]:
                self.shown += os.read(self.fd, 65536)
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def status(self) -> int:
        """The exit status, once the program has ended."""
        return self.process.wait(DEADLINE_SECONDS)

    def has_its_settings_back(self) -> bool:
        return self._settings() == self.settings

    def _settings(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)
