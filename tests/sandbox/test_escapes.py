"""What a hostile step or image tries, and where it ends."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.sandbox.client import SandboxServer
from builder.sandbox.spec import Bind, User
from harness.abilities import is_root_of_the_machine, missing_for_limits, refuse
from harness.sandbox import Ran, run_in
from harness.users import USERS

pytestmark = pytest.mark.sandbox

Run = Callable[..., Ran]
Probe = Callable[[str], Path]
REFUSED = {"clone3": errno.ENOSYS, "unknown": errno.ENOSYS, "inet": 0}


def host_disk() -> tuple[int, int] | None:
    device = os.stat("/").st_dev
    return (os.major(device), os.minor(device)) if os.major(device) else None


@pytest.mark.parametrize("user", USERS)
def test_forbidden_system_calls(run: Run, rootfs: Path, probe: Probe, user: User) -> None:
    shutil.copy(probe("syscalls"), rootfs / "bin/syscalls")
    ran = run("syscalls", user=user)
    got = {name: int(number) for name, number in map(str.split, ran.lines())}
    assert len(got) > 45
    assert {name: number for name, number in got.items() if number != REFUSED.get(name, errno.EPERM)} == {}


# what a step with all privileges reaches, and who runs it, so that the probe would notice; root of a user namespace less
OF_ROOT = {"core-pattern", "panic", "kernel-log", "loop-control"}
WITHIN_REACH = {"keyring", "user-namespace", "mounted-memory"} | (OF_ROOT if is_root_of_the_machine() else set())
OF_THE_HOST = {"process", "shared-memory", "abstract-socket"}
IN_A_TMP_OF_ITS_OWN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /tmp && exec ./escape "$@"', "sh")


@pytest.fixture
def words(probe: Probe) -> Iterator[list[str]]:
    """What the probe is given: the host's disk, a process, a segment of shared memory and a socket."""
    key, name = str(0x7000_0000 + os.getpid()), f"pybuild-{uuid.uuid4().hex}"
    subprocess.run([probe("escape"), "make", key], check=True)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"\0{name}")
            listening.listen()
            yield [*map(str, host_disk() or (254, 0)), str(os.getpid()), key, name]
    finally:
        subprocess.run([probe("escape"), "remove", key], check=True)


def reached(lines: list[str]) -> set[str]:
    got = {name: int(number) for name, number in map(str.split, lines)}
    assert len(got) > 28
    return {name for name, number in got.items() if number == 0}


@pytest.mark.parametrize("user", USERS)
def test_nothing_of_the_host_is_in_reach(run: Run, rootfs: Path, probe: Probe, words: list[str], user: User) -> None:
    shutil.copy(probe("escape"), rootfs / "bin/escape")
    assert reached(run("escape", *words, user=user).lines()) == set()


def test_probe_notices_what_is_in_reach(run: Run, rootfs: Path, probe: Probe, words: list[str]) -> None:
    shutil.copy(probe("escape"), rootfs / "bin/escape")
    assert reached(run("escape", *words, security="insecure").lines()) >= WITHIN_REACH
    outside = subprocess.run(
        [*IN_A_TMP_OF_ITS_OWN, *words], cwd=probe("escape").parent, capture_output=True, text=True, check=True
    )
    # not the disk: a machine may keep it from its root too
    assert reached(outside.stdout.splitlines()) >= WITHIN_REACH | OF_THE_HOST


@pytest.fixture(params=["0", "1"])
def suid_dumpable(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the kernel makes of a process whose ids change; with 1 others of its new user could trace it. proc(5)."""
    setting = Path("/proc/sys/fs/suid_dumpable")
    before = setting.read_text()
    if before.strip() == request.param:
        yield
        return
    if not is_root_of_the_machine():
        refuse("changes what the kernel makes of processes whose ids change")
    setting.write_text(request.param)
    try:
        yield
    finally:
        setting.write_text(before)


@pytest.mark.usefixtures("suid_dumpable")
@pytest.mark.parametrize("user", USERS)
def test_tracing_and_killing_init(run: Run, rootfs: Path, probe: Probe, user: User) -> None:
    """One of its threads has the privileges of the step, and shares its memory with the other, which has all."""
    shutil.copy(probe("ptrace"), rootfs / "bin/tracer")
    ran = run("tracer", user=user)
    got = {name: int(number) for name, number in map(str.split, ran.lines())}
    # SIGKILL of process 1 from its own namespace is accepted and does nothing (pid_namespaces(7))
    assert got == {
        "attach": errno.EPERM,
        "seize": errno.EPERM,
        "read": errno.EPERM,
        "write": errno.EPERM,
        "kill": errno.EPERM if user.uid else 0,
        "all": errno.ESRCH,
        "threads": 2,
    }
    assert ran.status == 0


@pytest.mark.parametrize("user", USERS)
def test_init_keeps_its_privileges_to_itself(run: Run, user: User) -> None:
    """Its first thread has more than any step, the second one what the step has."""
    ran = run(
        "sh",
        "-c",
        "cat /proc/1/task/1/status; echo --; cat /proc/1/task/2/status; echo --; cat /proc/self/status",
        user=user,
    )
    first, second, own = (
        dict(line.split(":", 1) for line in text.strip().splitlines()) for text in ran.out.split("--\n")
    )
    names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp")
    assert {name: second[name].split() for name in names} == {name: own[name].split() for name in names}
    assert first["Seccomp"].strip() == "0"
    assert int(first["CapEff"], 16) > int(second["CapEff"], 16)


@pytest.mark.parametrize("link", ["root", "cwd", "exe", "fd/0", "fd/2", "fd/3", "fd/4", "fd/5", "ns/mnt", "ns/net"])
def test_nothing_of_init_can_be_followed(run: Run, link: str) -> None:
    ran = run("sh", "-c", f"readlink /proc/1/{link}; ls /proc/1/{link}/ 2>&1; head -c 1 /proc/1/{link}")
    assert "denied" in ran.out or "No such file" in ran.out
    assert len(ran.lines()) == 1


def test_dot_dot_stays_in_the_root(run: Run) -> None:
    up = "/".join([".."] * 30)
    assert run("sh", "-c", f"cd /; cd {up}; pwd; ls").lines()[0] == "/"
    assert "lost+found" not in run("sh", "-c", f"ls {up}/{up}").out


def test_raw_block_device_cannot_be_opened(run: Run) -> None:
    major, minor = host_disk() or (254, 0)
    for directory in ("/tmp", "/dev", "/dev/shm"):
        ran = run("sh", "-c", f"mknod {directory}/disk b {major} {minor} && head -c 4 {directory}/disk | wc -c")
        assert ran.lines()[-1:] in ([], ["0"]), directory
        assert "Operation not permitted" in ran.err or "denied" in ran.err


@pytest.mark.root("makes devices in a step")
def test_device_that_containers_have_can_be_made_and_used(run: Run) -> None:
    ran = run(
        "sh",
        "-c",
        "mknod /tmp/null c 1 3 && echo x > /tmp/null && echo used; mknod /tmp/mem c 1 1 && head -c1 /tmp/mem",
    )
    assert ran.out == "used\n"
    assert "Operation not permitted" in ran.err


def test_mounting_the_hosts_disk(run: Run) -> None:
    ran = run("sh", "-c", "mkdir /tmp/m; mount -t ext4 /dev/vda /tmp/m 2>&1; mount --bind / /tmp/m 2>&1; ls /tmp/m")
    assert ran.out.count("mount: ") >= 2
    assert "proc" not in ran.lines()


def test_release_agent_cannot_be_written(run: Run) -> None:
    files = "$(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs)"
    ran = run("sh", "-c", f"for f in {files}; do echo found; echo 1 > $f && echo wrote $f; done")
    # where no group can be made none is shown
    assert set(ran.lines()) == ({"found"} if missing_for_limits() is None else set())
    assert run("sh", "-c", "mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x").status != 0


def test_host_descriptors_do_not_come_along(rootfs: Path, tmp_path: Path) -> None:
    """Neither those that are there when the server starts, nor later ones."""
    handles = [os.open(tmp_path, os.O_RDONLY)]
    try:
        os.set_inheritable(handles[0], True)
        with SandboxServer.start() as server:
            handles.append(os.open(tmp_path, os.O_RDONLY))
            os.set_inheritable(handles[1], True)
            ran = run_in(server, rootfs, "sh", "-c", "for n in /proc/[0-9]*/fd; do ls -l $n 2>/dev/null; done")
    finally:
        for handle in handles:
            os.close(handle)
    assert str(tmp_path) not in ran.out
    assert set(re.findall(r" (\d+) -> ", ran.out)) >= {"0", "1", "2"}


def test_hosts_interpreter_cannot_be_written(run: Run, rootfs: Path, probe: Probe) -> None:
    """CVE-2019-5736: the program of the step is /proc/self/exe, which is the host's while it becomes the step's."""
    shutil.copy(probe("host_exe"), rootfs / "bin/host_exe")
    ran = run("host_exe", "/proc/1/exe", "/proc/self/exe")
    assert ran.lines() == ["/proc/1/exe Permission denied", "/proc/self/exe Text file busy"]
    again = run("/proc/self/exe", "-c", "open('/proc/self/exe', 'wb')")
    assert again.status != 0


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_image_with_a_link_for_a_kernel_place(run: Run, rootfs: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (rootfs / name).rmdir()
    (rootfs / name).symlink_to(outside)
    ran = run("true")
    assert (ran.status, ran.result.error) == (
        125,
        f'error mounting at "/{name}": ELOOP (too many levels of symbolic links)',
    )
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("link", ["{outside}", "../../../../../../../..{outside}", "/proc/1/root{outside}"])
def test_link_in_etc_stays_in_the_root(run: Run, rootfs: Path, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "resolv.conf").write_text("of the host\n")
    (rootfs / "etc/resolv.conf").unlink()
    (rootfs / "etc/resolv.conf").symlink_to(link.format(outside=outside) + "/resolv.conf")
    ran = run("cat", "/etc/resolv.conf")
    assert "of the host" not in ran.out
    assert (outside / "resolv.conf").read_text() == "of the host\n"
    assert sorted(path.name for path in outside.iterdir()) == ["resolv.conf"]
    assert os.readlink(rootfs / "etc/resolv.conf") == link.format(outside=outside) + "/resolv.conf"


def test_bind_target_over_a_link_stays_in_the_root(run: Run, rootfs: Path, tmp_path: Path) -> None:
    outside, data = tmp_path / "outside", tmp_path / "data"
    outside.mkdir()
    data.mkdir()
    (data / "file").write_text("data\n")
    (rootfs / "cache").symlink_to(outside)
    ran = run("cat", "/cache/deep/file", binds=(Bind(str(data), "/cache/deep", kind="cache"),))
    assert ran.out == "data\n"
    assert list(outside.iterdir()) == []
    assert not (rootfs / str(outside).lstrip("/")).exists()


@pytest.mark.parametrize("cwd", ["/proc/self/fd/3", "/proc/self/fd/4", "/proc/self/fd/9"])
def test_working_directory_outside(run: Run, cwd: str) -> None:
    """CVE-2024-21626: a descriptor of the host as working directory."""
    ran = run("pwd", cwd=cwd)
    assert ran.status == 125
    assert ran.result.error
    assert ran.result.error.startswith(f'error entering "{cwd}"')


@pytest.mark.parametrize("number", range(3, 12))
def test_working_directory_by_a_descriptor_of_init(run: Run, number: int) -> None:
    ran = run("sh", "-c", "pwd; ls", cwd=f"/proc/1/fd/{number}")
    # what init holds is the step's root, or no directory
    assert ran.status == 125 or ran.lines()[:2] == ["/", "bin"], ran


def test_nodes_of_the_image_are_no_way_to_the_disk(run: Run, rootfs: Path) -> None:
    major, minor = host_disk() or (254, 0)
    os.mknod(rootfs / "disk", stat.S_IFBLK | 0o666, os.makedev(major, minor))
    ran = run("head", "-c", "1", "/disk")
    assert (ran.out, ran.status) == ("", 1)
