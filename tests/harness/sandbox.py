"""Steps in the sandbox server, as tests run them: over a detached copy of a directory, with what they said read back."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from builder.sandbox import _sys
from builder.sandbox.client import Running, SandboxServer
from builder.sandbox.isolation import NO_NAMESPACES
from builder.sandbox.spec import SandboxResult, SandboxSpec

ENV = ("PATH=/bin",)


class Ran(NamedTuple):
    result: SandboxResult
    out: str
    err: str

    @property
    def status(self) -> int:
        return self.result.status

    def lines(self) -> list[str]:
        return self.out.splitlines()


def start(
    server: SandboxServer,
    root: Path | str,
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    mount_fds: Sequence[int] = (),
    **fields: Any,
) -> Running:
    """The step runs over a detached copy of ``root``, or in it where it can't mount; the caller closes it."""
    spec = SandboxSpec(argv=tuple(argv), **{"env": ENV, **fields})
    if server.level == NO_NAMESPACES:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    else:
        root_fd = _sys.open_tree(os.fsencode(root), recursive=False)
    try:
        return server.run(spec, root_fd=root_fd, stdin=stdin, stdout=stdout, stderr=stderr, mount_fds=mount_fds)
    finally:
        os.close(root_fd)


def read_all(fd: int) -> str:
    with open(fd, encoding="utf-8", errors="replace") as file:
        file.seek(0)
        return file.read()


def run_in(server: SandboxServer, root: Path, *argv: str, **fields: Any) -> Ran:
    """The command has ended, the step is gone."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    with start(server, root, argv, stdout=out, stderr=err, **fields) as running:
        result = running.result()
    return Ran(result, read_all(out), read_all(err))


def run_in_mount(server: SandboxServer, mount_fd: int, *argv: str, **fields: Any) -> Ran:
    """As `run_in`, over a detached mount, which is closed here."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    spec = SandboxSpec(argv=argv, **{"env": ENV, **fields})
    with server.run(spec, root_fd=mount_fd, stdout=out, stderr=err) as running:
        os.close(mount_fd)
        result = running.result()
    return Ran(result, read_all(out), read_all(err))


class Reader:
    """Reads a pipe in a thread, so that a step is never held up by the test."""

    def __init__(self) -> None:
        self.fd, self.write_fd = os.pipe()
        self._data = bytearray()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def started(self) -> None:
        """The writing end is with the step alone."""
        os.close(self.write_fd)

    def _read(self) -> None:
        while chunk := os.read(self.fd, 65536):
            with self._changed:
                self._data += chunk
                self._changed.notify_all()

    def wait_for(self, text: bytes, seconds: float = 20) -> bytes:
        with self._changed:
            assert self._changed.wait_for(lambda: text in self._data, seconds), f"{text!r} not in {bytes(self._data)!r}"
            return bytes(self._data)

    def all(self) -> bytes:
        self._thread.join(20)
        return bytes(self._data)

    def close(self) -> None:
        self._thread.join(20)
        os.close(self.fd)
