"""A sandbox server that does not get as far as serving: how it ended is told."""

from __future__ import annotations

import socket

import pytest

from builder.sandbox.client import SandboxError, SandboxServer
from unionfs import wire
from unionfs.serverprocess import ServerProcess


@pytest.mark.parametrize("unread", [True, False], ids=["words unread", "nothing said"])
def test_who_ends_at_its_start(unread: bool) -> None:
    ours, theirs = socket.socketpair()
    if unread:
        wire.send(ours, {"op": "prepare"})
    theirs.close()
    process = ServerProcess.start(["/bin/sh", "-c", "echo no memory >&2; exit 3"])
    with SandboxServer(ours, process) as server:
        with pytest.raises(SandboxError) as caught:
            _ = server.level
        assert str(caught.value) == "sandbox server ended with status 3: no memory at its start"
