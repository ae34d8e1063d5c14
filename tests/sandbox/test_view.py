"""What a step sees and may do: the tables of docs/sandbox.md, read back from inside."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.limits import Limits, Ulimit
from builder.sandbox.client import SandboxServer
from builder.sandbox.spec import Bind, File, SandboxSpec, Tmpfs, User
from harness.abilities import is_root_of_the_machine, missing_for_limits
from harness.sandbox import Ran, Reader, start

pytestmark = pytest.mark.sandbox

Run = Callable[..., Ran]
DEFAULT_CAPABILITIES = "00000000a80425fb"
MASKED_FILES = ("/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug")
MASKED_DIRECTORIES = ("/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap")


def status_fields(ran: Ran) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in ran.lines())}


def mounts_of(ran: Ran) -> dict[str, tuple[frozenset[str], str]]:
    """Mount point → options of the mount, type of the filesystem."""
    found = {}
    for line in ran.lines():
        fields = line.split()
        found[fields[4]] = frozenset(fields[5].split(",")), fields[fields.index("-") + 1]
    return found


@pytest.mark.parametrize("name", ["mnt", "pid", "ipc", "uts", "net", "cgroup"])
def test_namespace_is_its_own(run: Run, name: str) -> None:
    assert run("readlink", f"/proc/self/ns/{name}").out.strip() != os.readlink(f"/proc/self/ns/{name}")


def test_host_network_is_the_hosts(run: Run) -> None:
    assert run("readlink", "/proc/self/ns/net", network="host").out.strip() == os.readlink("/proc/self/ns/net")
    assert run("readlink", "/proc/self/ns/pid", network="host").out.strip() != os.readlink("/proc/self/ns/pid")


def test_privileges_of_root(run: Run) -> None:
    fields = status_fields(run("cat", "/proc/self/status"))
    assert {name: fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "CapInh": "0000000000000000",
        "CapPrm": DEFAULT_CAPABILITIES,
        "CapEff": DEFAULT_CAPABILITIES,
        "CapBnd": DEFAULT_CAPABILITIES,
        "CapAmb": "0000000000000000",
    }
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("0", "2")


@pytest.mark.owners("runs as another user")
def test_privileges_of_a_user(run: Run) -> None:
    fields = status_fields(run("cat", "/proc/self/status", user=User(1000, 1001, (7, 8))))
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Gid"].split() == ["1001"] * 4
    assert fields["Groups"].split() == ["7", "8", "1001"]
    assert (fields["CapEff"], fields["CapPrm"], fields["CapBnd"]) == ("0" * 16, "0" * 16, DEFAULT_CAPABILITIES)


def test_directory_in_which_a_mount_point_was_made_keeps_its_time(run: Run, rootfs: Path) -> None:
    """At once, so that what changes in it afterwards is told even where times are those of a slow clock."""
    os.utime(rootfs / "srv", (10**9, 10**9))
    binds = (Bind("/etc/hostname", "/srv/f"),)
    assert run("stat", "-c", "%Y", "/srv", binds=binds).out == "1000000000\n"
    assert (rootfs / "srv").stat().st_mtime == 10**9
    assert run("touch", "/srv/new", binds=binds).status == 0
    assert (rootfs / "srv").stat().st_mtime > 10**9


@pytest.mark.owners("runs as another user")
def test_setuid_program_gains_the_bounding_set(run: Run, rootfs: Path, probe: Callable[[str], Path]) -> None:
    shutil.copy(probe("status"), rootfs / "bin/status")
    (rootfs / "bin/status").chmod(0o4755)
    fields = status_fields(run("status", user=User(1000, 1000)))
    assert fields["Uid"].split() == ["1000", "0", "0", "0"]
    assert fields["CapEff"] == DEFAULT_CAPABILITIES


def test_added_and_dropped_capabilities(run: Run) -> None:
    fields = status_fields(run("cat", "/proc/self/status", cap_add=("SYS_PTRACE",), cap_drop=("CAP_MKNOD", "kill")))
    mask = (int(DEFAULT_CAPABILITIES, 16) | 1 << 19) & ~(1 << 27) & ~(1 << 5)
    assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) == mask
    assert status_fields(run("cat", "/proc/self/status", cap_drop=("ALL",)))["CapBnd"] == "0" * 16


def test_insecure_step_has_all_and_no_filter(run: Run) -> None:
    own = status_fields(Ran(None, Path("/proc/self/status").read_text(), ""))  # type: ignore[arg-type]
    ran = run("sh", "-c", "cat /proc/self/status; mount -t tmpfs none /tmp && echo mounted", security="insecure")
    fields = status_fields(ran)
    assert (fields["CapEff"], fields["Seccomp"]) == (own["CapEff"], "0")
    assert "mounted" in ran.out
    assert "/proc/acpi" not in mounts_of(run("cat", "/proc/self/mountinfo", security="insecure"))


def test_mounts(run: Run) -> None:
    mounts = mounts_of(run("cat", "/proc/self/mountinfo"))
    hardened = {"nosuid", "nodev", "noexec"}
    for target, (kind, options) in {
        "/proc": ("proc", hardened),
        "/dev": ("tmpfs", {"nosuid"}),
        "/dev/pts": ("devpts", {"nosuid", "noexec"}),
        "/dev/shm": ("tmpfs", hardened),
        "/dev/mqueue": ("mqueue", hardened),
        "/sys": ("sysfs", hardened | {"ro"}),
        "/sys/fs/cgroup": ("tmpfs", hardened | {"ro"}),
        "/proc/sys": ("proc", hardened | {"ro"}),
        "/proc/irq": ("proc", hardened | {"ro"}),
        "/etc/resolv.conf": ("tmpfs", hardened | {"ro"}),
    }.items():
        if target == "/sys/fs/cgroup" and missing_for_limits():
            assert target not in mounts
            continue
        if target == "/sys/fs/cgroup" and mounts[target][1] == "cgroup2":
            kind = "cgroup2"  # noqa: PLW2901
        assert mounts[target][1] == kind, target
        assert options <= mounts[target][0], target
    outside = [line for line in run("cat", "/proc/self/mountinfo").lines() if "/oldroot" in line]
    assert outside == []


def test_root_is_the_only_tree(run: Run, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    ran = run("sh", "-c", f"ls {tmp_path} 2>&1; cat /proc/self/mountinfo | wc -l")
    assert "secret" not in ran.out


def test_mounts_of_a_step_stay_in_it(run: Run, rootfs: Path) -> None:
    """Where its root is of a mount that is shared with the host's, as ``/`` is under systemd."""
    subprocess.run(["mount", "--bind", rootfs, rootfs], check=True)
    try:
        subprocess.run(["mount", "--make-shared", rootfs], check=True)
        assert run("ls", "/proc/self").status == 0
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        assert [point for point in points if point.startswith(f"{rootfs}/")] == []
    finally:
        subprocess.run(["umount", "--recursive", rootfs], check=True)


def test_devices(run: Run) -> None:
    script = "cd /dev; for n in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' $n; done; for n in fd stdin stdout stderr ptmx; do readlink $n; done; stat -c %a shm mqueue"
    assert run("sh", "-c", script).lines() == [
        "null character special file 1:3 666",
        "zero character special file 1:5 666",
        "full character special file 1:7 666",
        "random character special file 1:8 666",
        "urandom character special file 1:9 666",
        "tty character special file 5:0 666",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
        "1777",
        "1777",
    ]
    sizes = run("df", "-k", "/dev", "/dev/shm").lines()[1:]
    assert [line.split()[1] for line in sizes] == ["65536", "65536"]
    assert run("df", "-k", "/dev/shm", limits=Limits(shm_bytes=8 << 20)).lines()[1].split()[1] == "8192"
    assert run("sh", "-c", "echo hello > /dev/null; head -c 3 /dev/zero | wc -c; echo x > /dev/full").status == 1


def test_masked_paths_are_empty(run: Run) -> None:
    files = run("sh", "-c", f"cat {' '.join(MASKED_FILES)} 2>/dev/null | wc -c").out
    assert files.strip() == "0"
    for directory in MASKED_DIRECTORIES:
        assert run("sh", "-c", f"ls -A {directory} 2>/dev/null").out == ""


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/hostname",
        pytest.param("/proc/irq/default_smp_affinity", marks=pytest.mark.kernel("irq")),
        "/sys/kernel/x",
        pytest.param("/sys/fs/cgroup/x", marks=pytest.mark.limits("shows groups")),
    ],
)
def test_kernel_is_read_only(run: Run, path: str) -> None:
    ran = run("sh", "-c", f"echo x > {path}")
    assert ran.status != 0
    assert "Read-only file system" in ran.err


@pytest.mark.limits("shows groups")
def test_cgroup_shows_the_step_alone(run: Run) -> None:
    ran = run("cat", "/proc/self/cgroup")
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in ran.lines()}
    assert paths.get("memory", "/") == "/"
    listed = run("sh", "-c", "cat /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null").lines()
    assert listed
    assert len(listed) <= 4


def test_hostname_and_etc_files(run: Run, rootfs: Path) -> None:
    (rootfs / "etc/hosts").write_text("of the image\n")
    ran = run("sh", "-c", "hostname; cat /etc/hostname /etc/hosts", extra_hosts=("peer:10.1.2.3",), dns=("9.9.9.9",))
    assert ran.lines()[:2] == ["pybuildsandbox", "pybuildsandbox"]
    assert "10.1.2.3\tpeer" in ran.lines()
    assert run("cat", "/etc/resolv.conf", dns=("9.9.9.9",)).lines()[-1] == "nameserver 9.9.9.9"
    assert (rootfs / "etc/hosts").read_text() == "of the image\n"
    assert "Read-only" in run("sh", "-c", "echo x >> /etc/hosts").err


def test_network_none_is_lo_alone(run: Run) -> None:
    assert run("ls", "/sys/class/net").lines() == ["lo"]
    assert run("cat", "/sys/class/net/lo/flags").out.strip() == "0x9"
    assert run("sh", "-c", "ping -c 1 -W 1 127.0.0.1 >/dev/null").status == 0


def test_umask_signals_and_descriptors(run: Run) -> None:
    assert run("sh", "-c", "umask").out.strip() == "0022"
    assert run("ls", "/proc/self/fd").lines() == ["0", "1", "2", "3"]  # 3 is the listing's own
    fields = status_fields(run("cat", "/proc/self/status"))
    # 32 and 33 belong to the C library, which lets nobody set them
    assert int(fields["SigIgn"], 16) & ~(3 << 31) == int(fields["SigBlk"], 16) == 0
    assert run("readlink", "/proc/self/fd/0").out.strip() == "/dev/null"


def test_processes_show_nothing_of_the_host(run: Run) -> None:
    assert run("ps", "-o", "pid,args").lines()[1:] == ["    1 pybuild-sandbox", "    3 ps -o pid,args"]
    assert run("sh", "-c", "cat /proc/1/environ /proc/1/maps 2>&1 | grep -v denied").out == ""


def test_environment_is_the_given_one(run: Run) -> None:
    assert run("/bin/env", env=("A=1", "B=two words", "EMPTY=")).lines() == ["A=1", "B=two words", "EMPTY="]


def test_working_directory(run: Run) -> None:
    assert run("pwd", cwd="/srv").out.strip() == "/srv"
    refused = run("pwd", cwd="/etc/passwd")
    assert (refused.status, refused.result.error) == (125, 'error entering "/etc/passwd": ENOTDIR (not a directory)')


@pytest.mark.owners("runs as another user")
def test_missing_working_directory_is_made_for_the_user(run: Run, rootfs: Path) -> None:
    ran = run("pwd", cwd="/missing/one", user=User(5, 6))
    assert (ran.status, ran.out.strip()) == (0, "/missing/one")
    for path in (rootfs / "missing", rootfs / "missing" / "one"):
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o7777) == (5, 6, 0o755)


def test_walk_of_all_files_meets_no_refusal(run: Run) -> None:
    # of root of the machine alone, who is nobody in a user namespace
    refused = "" if is_root_of_the_machine() else "find: /proc/tty/driver: Permission denied\n"
    assert run("find", "/").err == refused


def test_read_only_root(run: Run, rootfs: Path) -> None:
    ran = run("sh", "-c", "touch /x; echo ok > /dev/shm/x && cat /dev/shm/x", read_only_root=True)
    assert (ran.out.strip(), "Read-only" in ran.err) == ("ok", True)
    assert not (rootfs / "x").exists()


def test_ulimits(run: Run) -> None:
    limits = Limits(ulimits=(Ulimit("nofile", 100, 200), Ulimit("core", 0, 0)))
    assert run("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c", limits=limits).lines() == ["100", "200", "0"]
    unknown = run("true", limits=Limits(ulimits=(Ulimit("nonsense", 1, 1),)))
    assert (unknown.status, unknown.result.error) == (125, "ulimit 'nonsense' is not known")


def test_binds_and_tmpfs(run: Run, tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("content\n")
    (tmp_path / "secret").write_text("hush\n")
    binds = (
        Bind(str(tmp_path / "data"), "/srv/data"),
        Bind(str(tmp_path / "data"), "/srv/rw", read_only=False, kind="cache"),
        Bind(str(tmp_path / "secret"), "/run/secrets/it", kind="secret"),
    )
    script = "cat /srv/data/file /run/secrets/it; echo x > /srv/data/y; echo y > /srv/rw/y; df -k /mnt/t | tail -1"
    ran = run("sh", "-c", script, binds=binds, tmpfs=(Tmpfs("/mnt/t", size_bytes=1 << 20),))
    assert ran.lines()[:2] == ["content", "hush"]
    assert ran.lines()[2].split()[1] == "1024"
    assert "Read-only" in ran.err
    assert (tmp_path / "data/y").read_text() == "y\n"
    # mount points that were not there are gone again
    assert not (rootfs / "run").exists()
    assert not (rootfs / "mnt").exists()
    assert list((rootfs / "srv").iterdir()) == []


@pytest.mark.owners("gives a file to another user")
def test_files_of_the_step_alone(run: Run, rootfs: Path) -> None:
    files = (
        File("/run/secrets/it", "hush\n", 0o400, 1000, 1001),
        File("/tmp/script", "#!/bin/sh\necho ran $0\n", 0o755),
        File("/etc/hosts", "mine\n"),
    )
    script = "stat -c '%a %u %g' /run/secrets/it; cat /run/secrets/it /etc/hosts; /tmp/script; echo x >> /tmp/script"
    ran = run("sh", "-c", script, files=files)
    assert ran.lines() == ["400 1000 1001", "hush", "mine", "ran /tmp/script"]
    assert "Read-only" in ran.err
    assert not (rootfs / "run").exists()
    assert list((rootfs / "tmp").iterdir()) == []
    other = run("cat", "/run/secrets/it", files=files, user=User(2000, 2000))
    assert (other.out, "denied" in other.err) == ("", True)


def test_missing_bind_source_is_named(run: Run) -> None:
    ran = run("true", binds=(Bind("/nowhere/at/all", "/srv/x", kind="secret"),))
    assert ran.status == 125
    assert ran.result.error == 'error opening secret source "/nowhere/at/all": ENOENT (no such file or directory)'


@pytest.mark.parametrize(
    ("argv", "status", "error"),
    [
        (("/bin/nothing",), 127, 'error executing "/bin/nothing": no such file or directory'),
        (("nothing",), 127, 'error executing "nothing": no such file or directory'),
        (("/etc/passwd",), 126, 'error executing "/etc/passwd": permission denied'),
        (("/etc",), 126, 'error executing "/etc": permission denied'),
        (("/bin/sh/x",), 127, 'error executing "/bin/sh/x": not a directory'),
    ],
)
def test_program_that_cannot_be_run(run: Run, argv: tuple[str, ...], status: int, error: str) -> None:
    ran = run(*argv)
    assert (ran.status, ran.result.error) == (status, error)


@pytest.mark.parametrize(
    ("script", "status", "number"),
    [("exit 3", 3, None), ("kill -9 $$", 137, 9), ("kill -TERM $$", 143, 15), ("kill -PIPE $$", 141, 13)],
)
def test_exit_status_is_a_shells(run: Run, script: str, status: int, number: int | None) -> None:
    result = run("sh", "-c", script).result
    assert (result.status, result.signal, result.error) == (status, number, None)


@pytest.mark.owners("runs as another user")
def test_other_user_opens_dev_stdout_again(server: SandboxServer, rootfs: Path, reader: Reader) -> None:
    argv = ("sh", "-c", "echo once > /dev/stdout; echo more > /proc/self/fd/1")
    with start(server, rootfs, argv, stdout=reader.write_fd, user=User(1000, 1000)) as running:
        reader.started()
        assert running.result().status == 0
    assert reader.all() == b"once\nmore\n"


def test_specification_that_makes_no_sense(run: Run) -> None:
    assert run("true", cap_add=("NONSENSE",)).result.error == "capability 'NONSENSE' is not known"
    assert run("true", extra_hosts=("nonsense",)).result.error == "extra host 'nonsense' is no name:address"
    assert run("true", cwd="relative").result.error == "path 'relative' is not absolute"
    assert SandboxSpec(argv=("true",)).hostname == "pybuildsandbox"
