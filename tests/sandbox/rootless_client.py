"""Run as a plain user: starts a sandbox server, gets a root out of its namespace, runs steps; prints what came of them.

python rootless_client.py ROOT {"argv": [...], ...}...
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from builder.limits import Limits  # noqa: E402  (the path comes first)
from builder.sandbox.client import SandboxError, SandboxServer  # noqa: E402
from builder.sandbox.spec import User  # noqa: E402
from harness.sandbox import run_in_mount  # noqa: E402
from unionfs import wire  # noqa: E402

# what a union server does there: makes a mount and hands it over
MOUNTER = """
import socket, sys
sys.path.insert(0, sys.argv[1])
from builder.sandbox import _sys
from unionfs import wire
wire.send(socket.socket(fileno=int(sys.argv[3])), {}, [_sys.open_tree(sys.argv[2].encode(), recursive=True)])
"""


def mounted(server: SandboxServer, root: str) -> int:
    namespaces = ["--mount"]
    if os.stat("/proc/self/ns/user").st_ino != os.stat(f"/proc/{server.pid}/ns/user").st_ino:
        namespaces += ["--user", "--preserve-credentials"]
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            mounter = [sys.executable, "-I", "-S", "-c", MOUNTER, str(PROJECT), root, str(theirs.fileno())]
            words = ["/usr/bin/nsenter", "--target", str(server.pid), *namespaces, *mounter]
            subprocess.run(words, pass_fds=[theirs.fileno()], check=True)
        received = wire.receive(ours)
    assert received, "the mounter has failed"
    return received.fds[0]


def main() -> None:
    with SandboxServer.start() as server:
        try:
            print(json.dumps(server.level))
        except SandboxError as error:
            print(json.dumps(str(error)))
            return
        for text in sys.argv[2:]:
            fields = json.loads(text)
            argv = fields.pop("argv")
            if "user" in fields:
                fields["user"] = User(*fields["user"])
            if "limits" in fields:
                fields["limits"] = Limits(**fields["limits"])
            ran = run_in_mount(server, mounted(server, sys.argv[1]), *argv, **fields)
            print(json.dumps([ran.status, ran.out, ran.err, ran.result.error, ran.result.notes, ran.result.warnings]))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
