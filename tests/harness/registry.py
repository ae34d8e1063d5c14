"""A real docker-registry on a free loopback port, for tests that push and pull."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
START_SECONDS = 20


def free_port() -> int:
    """A port of the loopback interface on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running_registry(directory: Path) -> Iterator[str]:
    """``localhost:PORT`` of a registry that keeps its blobs in ``directory``; it is stopped at the end."""
    port = free_port()
    config = directory / "registry.yml"
    config.write_text(CONFIG.format(directory=directory, port=port))
    with open(directory / "registry.log", "wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                text = (directory / "registry.log").read_text()
                pytest.fail(f"docker-registry did not start:\n{text[-1000:]}", pytrace=False)
            time.sleep(0.05)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``localhost:PORT`` of a registry without authentication that serves the whole session."""
    with running_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host
