"""The union server: detached mounts, how they end, and what is left when somebody dies."""

from __future__ import annotations

import ctypes  # noqa: TID251 - unshare(2), which Python 3.11 lacks
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fuse.conftest import attached, detached, mount_lines, statistics, wait_until
from loopback_server import COMMAND
from unionfs.branch import Branch
from unionfs.client import UnionServer, UnionServerError
from unionfs.mounting import MountError, attach
from unionfs.types import Access, UnionOptions

pytestmark = pytest.mark.fuse

CLONE_NEWNS = 0x20000


def in_own_namespace(mount_fd: int, root: Path, write: bytes) -> int:
    """Status of a child that attaches the mount where nobody else sees it, reads, writes, and dies."""
    child = os.fork()  # noqa: TID251 - the child has a mount namespace of its own
    if child == 0:
        try:
            assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            attach(mount_fd, os.fsencode(root))
            assert (root / "file").read_bytes() == b"content"
            (root / "written").write_bytes(write)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_mount_travels_into_another_namespace_and_ends_with_it(server: UnionServer, tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    mount = detached(server, tree)
    assert in_own_namespace(mount.fd, root, b"w" * 3_000_000) == 0
    os.close(mount.fd)
    told = statistics(mount)
    assert told is not None
    assert told["requests"] == sum(told["opcodes"].values()) > 0
    assert (tree / "written").read_bytes() == b"w" * 3_000_000
    assert mount_lines(tmp_path) == []


def test_unused_mount_ends_when_its_descriptor_is_closed(server: UnionServer, tree: Path) -> None:
    mount = detached(server, tree)
    os.close(mount.fd)
    assert statistics(mount) == {"requests": 1, "opcodes": {"INIT": 1}}


def test_mounts_of_one_server_are_independent(server: UnionServer, tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with attached(server, tree, tmp_path / "one") as one:
        with attached(server, other, tmp_path / "two") as two:
            (two / "made").write_bytes(b"x")
            assert sorted(os.listdir(one)) == ["file", "sub"]
        assert (one / "file").read_bytes() == b"content"
    assert os.listdir(other) == ["made"]


def test_content_written_through_a_mapping_is_in_the_branch_at_the_end(
    server: UnionServer, tree: Path, tmp_path: Path
) -> None:
    code = (
        "import mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\nos.ftruncate(fd, 1 << 20)\n"
        "m = mmap.mmap(fd, 1 << 20)\nos.close(fd)\nm[:] = b'm' * (1 << 20)\nos._exit(0)"
    )
    with attached(server, tree, tmp_path / "root", "off") as root:
        subprocess.run([sys.executable, "-c", code, root / "mapped"], check=True)
    assert (tree / "mapped").read_bytes() == b"m" * (1 << 20)


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_server_ends_with_its_client(how: str, tree: Path, tmp_path: Path, project_root: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    code = (
        f"import sys, os; sys.path[:0] = {[str(project_root), str(project_root / 'tests')]!r}\n"
        "from loopback_server import COMMAND\n"
        "from unionfs.client import UnionServer\nfrom unionfs.branch import Branch\n"
        "from unionfs.types import UnionOptions\nfrom unionfs.mounting import attach\n"
        "server = UnionServer.start(COMMAND)\n"
        f"mount = server.mount([Branch({os.fsencode(tree)!r})], UnionOptions())\n"
        f"attach(mount.fd, {os.fsencode(root)!r})\n"
        "print(server.pid, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        assert (root / "file").read_bytes() == b"content"
        if how == "killed":
            client.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the server ends")
    with pytest.raises(OSError, match="not connected"):
        os.stat(root / "file")
    subprocess.run(["umount", root], check=True)


def test_killed_server_is_an_error_for_its_client(tree: Path) -> None:
    with UnionServer.start(COMMAND) as server:
        mount = detached(server, tree)
        os.kill(server.pid, signal.SIGKILL)
        assert statistics(mount) is None
        with pytest.raises(UnionServerError, match=r"is gone: process \d+ was killed by signal 9 \(SIGKILL\)"):
            detached(server, tree)
        os.close(mount.fd)


@pytest.mark.root("mounts the control filesystem of FUSE")
def test_aborted_mount_is_told_from_one_that_was_let_go(server: UnionServer, tree: Path, tmp_path: Path) -> None:
    root, control = tmp_path / "root", tmp_path / "control"
    root.mkdir()
    control.mkdir()
    mount = detached(server, tree)
    number = os.minor(os.stat(f"/proc/self/fd/{mount.fd}/").st_dev)
    script = 'mount -t fusectl none "$1" && echo 1 > "$1/$2/abort"'
    subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", control, str(number)], check=True)
    told = statistics(mount)
    assert told is not None
    assert told == {"aborted": "the kernel was told to abort the mount (/sys/fs/fuse/connections)"}
    os.close(mount.fd)
    other = detached(server, tree)
    os.close(other.fd)
    assert statistics(other) == {"requests": 1, "opcodes": {"INIT": 1}}


def test_interrupt_from_the_terminal_does_not_reach_the_server(server: UnionServer, tree: Path) -> None:
    os.kill(server.pid, signal.SIGINT)
    assert os.getpgid(server.pid) != os.getpgid(0)
    mount = detached(server, tree)
    os.close(mount.fd)
    assert statistics(mount) is not None


def test_missing_branch_is_named_and_the_server_lives_on(tree: Path, tmp_path: Path) -> None:
    with UnionServer.start() as server:
        with pytest.raises(MountError, match="/nowhere': expected a directory"):
            server.mount([Branch(b"/nowhere")], UnionOptions())
        with pytest.raises(MountError, match="lies inside branch"):
            server.mount([Branch(os.fsencode(tree)), Branch(os.fsencode(tree / "sub"))], UnionOptions())
        mount = server.mount([Branch(os.fsencode(tree), Access.RO)], UnionOptions())
        os.close(mount.fd)
        assert statistics(mount) is not None


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ("mount -t tmpfs none /dev", "/dev/fuse: no such file or directory"),
        ("mount -t tmpfs none /dev && mknod /dev/fuse c 10 228", "/dev/fuse: "),
        ("mount -t tmpfs none /dev && touch /dev/fuse", "/dev/fuse: expected the character device"),
    ],
    ids=["missing", "of another kind", "a plain file"],
)
def test_device_that_is_no_fuse_device_is_one_clear_line(
    prepare: str, message: str, tree: Path, project_root: Path
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(project_root)!r})\n"
        "from unionfs.client import UnionServer\nfrom unionfs.branch import Branch\n"
        "from unionfs.types import UnionOptions\nfrom unionfs.mounting import MountError\n"
        "with UnionServer.start() as server:\n"
        "    try:\n"
        f"        server.mount([Branch({os.fsencode(tree)!r})], UnionOptions())\n"
        "    except MountError as error:\n        print(error, '|', error.hint)\n"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{prepare}; exec "$@"', "sh", sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert message in done.stdout
    assert done.stdout.count("\n") == 1


def test_missing_right_is_one_clear_line(project_root: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(project_root)!r})\n"
        "from unionfs.mounting import MountError, MountOptions, mount_detached, open_device\n"
        "try:\n    mount_detached(open_device(), MountOptions())\n"
        "except MountError as error:\n    print(error, '|', error.hint)\n"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("mount of a FUSE file system: operation not permitted | "), done.stderr
    assert "user namespace" in done.stdout


def test_user_namespace_mounts_by_itself_without_passthrough(tree: Path, tmp_path: Path, project_root: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    os.chmod(tree, 0o755)
    code = (
        f"import sys, os; sys.path.insert(0, {str(project_root)!r})\n"
        "from unionfs.client import UnionServer\nfrom unionfs.branch import Branch\n"
        "from unionfs.types import UnionOptions\nfrom unionfs.mounting import attach\n"
        "with UnionServer.start() as server:\n"
        f"    mount = server.mount([Branch({os.fsencode(tree)!r})], UnionOptions(), passthrough='fast')\n"
        f"    attach(mount.fd, {os.fsencode(root)!r})\n"
        f"    print(open({str(root / 'file')!r}).read())\n"
        f"    open({str(root / 'new')!r}, 'w').write('made')\n"
    )
    done = subprocess.run(["unshare", "-Urm", sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "content\n", done.stderr
    assert (tree / "new").read_bytes() == b"made"
