"""Waiting for what another process does: with a deadline, never for a time."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

DEADLINE_SECONDS = 30


def processes_with(word: str) -> list[int]:
    """Every process that has ``word`` in its command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if word.encode() in file.read():
                    found.append(int(name))
    return found


def processes_running(command: str) -> list[int]:
    """Every process whose whole command line is ``command``."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
            if file.read().replace(b"\0", b" ").decode(errors="replace").strip() == command:
                found.append(int(name))
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.02)
