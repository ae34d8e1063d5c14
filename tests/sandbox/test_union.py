"""A step over a union: the root arrives as a detached mount, and every byte of the step is in the branch afterwards."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from builder.sandbox.client import SandboxServer
from harness.sandbox import run_in_mount
from unionfs.branch import Branch
from unionfs.client import UnionServer
from unionfs.types import Access, UnionOptions

pytestmark = [pytest.mark.sandbox, pytest.mark.fuse]


def test_step_writes_into_the_branch(server: SandboxServer, rootfs: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    branches = (Branch(os.fsencode(upper), Access.RW), Branch(os.fsencode(rootfs), Access.RO))
    unions = UnionServer.start()
    try:
        mount = unions.mount(branches, UnionOptions())
        script = "echo made > /made; mkdir -p /a/b; mv /a/b /a/c; rm /srv -r; ln /made /linked; cat /etc/hostname"
        ran = run_in_mount(server, mount.fd, "sh", "-c", script)
        assert (ran.status, ran.out, ran.err) == (0, "pybuildsandbox\n", "")
        assert select.select([mount.ended], [], [], 20)[0], "the union has not ended with its step"
        os.close(mount.ended)
    finally:
        unions.close()
    assert (upper / "made").read_text() == "made\n"
    assert os.stat(upper / "linked").st_ino == os.stat(upper / "made").st_ino
    # what the sandbox mounted over the image has left no trace
    assert sorted(path.name for path in upper.iterdir()) == [".wh.srv", "a", "linked", "made"]


def test_many_steps_over_unions(server: SandboxServer, rootfs: Path, tmp_path: Path) -> None:
    unions = UnionServer.start()
    try:
        for number in range(5):
            upper = tmp_path / f"upper{number}"
            upper.mkdir()
            branches = (Branch(os.fsencode(upper), Access.RW), Branch(os.fsencode(rootfs), Access.RO))
            mount = unions.mount(branches, UnionOptions())
            assert run_in_mount(server, mount.fd, "sh", "-c", f"echo {number} > /number").status == 0
            assert select.select([mount.ended], [], [], 20)[0]
            os.close(mount.ended)
            assert (upper / "number").read_text() == f"{number}\n"
    finally:
        unions.close()
