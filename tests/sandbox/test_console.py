"""A step with a terminal of its own, for an interactive shell."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import time
from pathlib import Path

import pytest

from builder.sandbox.client import SandboxServer
from builder.sandbox.spec import User
from harness.sandbox import start
from harness.users import USERS

pytestmark = pytest.mark.sandbox


def read_until(fd: int, text: bytes, seconds: float = 10) -> bytes:
    data = b""
    deadline = time.monotonic() + seconds
    while text not in data:
        assert time.monotonic() < deadline, data
        if select.select([fd], [], [], 0.1)[0]:
            data += os.read(fd, 4096)
    return data


@pytest.mark.parametrize("user", USERS)
def test_shell_on_a_terminal(server: SandboxServer, rootfs: Path, user: User) -> None:
    with start(server, rootfs, ("sh", "-i"), tty=True, user=user) as running:
        console = running.console
        assert console is not None
        fcntl.ioctl(console, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        os.write(console, b"stty size; tty; test -t 1 && echo on a term''inal\n")
        answer = read_until(console, b"on a terminal")
        assert b"33 77" in answer
        assert b"/dev/pts/0" in answer
        # Ctrl-C goes through the terminal to what runs in it, and leaves the shell
        os.write(console, b"sleep 1000\n")
        read_until(console, b"sleep 1000")
        time.sleep(0.2)
        os.write(console, b"\x03")
        os.write(console, b"exit 9\n")
        assert running.result().status == 9
        os.close(console)


def test_program_that_cannot_be_run_on_a_terminal(server: SandboxServer, rootfs: Path) -> None:
    with start(server, rootfs, ("nothing",), tty=True) as running:
        assert running.result().status == 127
        if running.console is not None:
            os.close(running.console)


def test_step_that_fails_before_it_has_a_terminal(server: SandboxServer, rootfs: Path) -> None:
    with start(server, rootfs, ("sh",), tty=True, cap_add=("NONSENSE",)) as running:
        assert running.console is None
        assert running.result().status == 125
