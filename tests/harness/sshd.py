"""A real sshd on loopback with a host key, an account (the one that runs the tests) and keys of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from harness.waiting import wait_until
from layers.testing.docker_registry import free_port

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
PidFile none
AuthorizedKeysFile {directory}/authorized
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
"""


class Sshd(NamedTuple):
    """A running server; ``known`` is the line of known_hosts that names its key, ``key`` the file of who may enter."""

    address: str
    known: str
    key: Path


def make_key(path: Path) -> Path:
    """A private key without a pass phrase; the public one lies beside it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@contextmanager
def running_sshd(directory: Path) -> Iterator[Sshd]:
    """The server, gone when the block ends."""
    directory.mkdir()
    port = free_port()
    host, key = make_key(directory / "host"), make_key(directory / "key")
    shutil.copyfile(key.with_suffix(".pub"), directory / "authorized")
    (directory / "config").write_text(_CONFIG.format(port=port, directory=directory))
    if os.geteuid() == 0:
        # where it shuts itself in before anybody has logged in
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    user = pwd.getpwuid(os.geteuid()).pw_name
    with open(directory / "log", "wb") as log:
        server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", directory / "config"], stderr=log)
    try:
        wait_until(lambda: b"Server listening" in (directory / "log").read_bytes(), "sshd listens")
        public = host.with_suffix(".pub").read_text().rsplit(" ", 1)[0]
        yield Sshd(f"ssh://{user}@127.0.0.1:{port}", f"[127.0.0.1]:{port} {public}\n", key)
    finally:
        server.terminate()
        server.wait()


def _listens(path: Path) -> bool:
    """Whether somebody accepts connections at ``path``: it is there a moment before."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


@contextmanager
def running_agent(place: Path, *keys: Path) -> Iterator[str]:
    """The socket of an ssh-agent that has ``keys``."""
    with subprocess.Popen(["ssh-agent", "-D", "-a", place], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _listens(place), "the agent")
            for key in keys:
                subprocess.run(["ssh-add", "-q", key], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(place)})
            yield str(place)
        finally:
            process.terminate()
