"""Where groups are made and what is written into them, on texts and directories that look like the kernel's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from builder.limits import Limits
from builder.sandbox import cgroup
from builder.sandbox.cgroup import CgroupError, Hierarchy, bases_of, parse_hierarchies
from builder.sandbox.group import Group, parse_io_v1, parse_io_v2
from builder.sandbox.slice import Slice
from builder.sandbox.spec import Oom

MIB = 1 << 20


def mountinfo(root: str, point: str, kind: str, options: str) -> str:
    return f"30 23 0:26 {root} {point} rw,nosuid shared:9 - {kind} {kind} {options}\n"


def test_version_one() -> None:
    own = "4:memory:/user/x\n2:cpu,cpuacct:/\n1:name=systemd:/init\n"
    mounts = mountinfo("/", "/cg/memory", "cgroup", "rw,memory") + mountinfo("/", "/cg/cpu", "cgroup", "rw,cpu,cpuacct")
    mounts += mountinfo("/", "/cg/systemd", "cgroup", "rw,xattr,name=systemd") + mountinfo("/", "/tmp", "tmpfs", "rw")
    assert parse_hierarchies(own, mounts) == (
        Hierarchy(1, "/cg/memory", "user/x", frozenset({"memory"})),
        Hierarchy(1, "/cg/cpu", "", frozenset({"cpu", "cpuacct"})),
    )


def test_version_two(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    point = str(tmp_path).replace(" ", "\\040")
    found = parse_hierarchies("0::/user.slice/s\n", mountinfo("/", point, "cgroup2", "rw"))
    assert found == (Hierarchy(2, str(tmp_path), "user.slice/s", frozenset({"cpu", "memory", "pids"})),)
    assert bases_of(found[0]) == (f"{tmp_path}/user.slice/s", str(tmp_path))


def test_version_two_mounted_twice_is_one_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    mounts = mountinfo("/", str(tmp_path), "cgroup2", "rw") + mountinfo("/", "/elsewhere", "cgroup2", "rw")
    assert [hierarchy.root for hierarchy in parse_hierarchies("0::/\n", mounts)] == [str(tmp_path)]


@pytest.mark.parametrize(("root", "own"), [("/docker/a", ""), ("/docker", "a"), ("/elsewhere", ""), ("/", "docker/a")])
def test_group_below_a_mount_of_a_part(root: str, own: str) -> None:
    found = parse_hierarchies("4:memory:/docker/a\n", mountinfo(root, "/cg", "cgroup", "rw,memory"))
    assert found == (Hierarchy(1, "/cg", own, frozenset({"memory"})),)


PROJECT = Path(__file__).parents[4]


def test_owner_is_known_by_pid_and_start() -> None:
    name = cgroup.owner_name()
    namespace = os.stat("/proc/self/ns/pid").st_ino
    assert name.startswith(f"pybuild-{namespace}-{os.getpid()}-")
    assert not cgroup.is_abandoned(name, namespace)
    assert cgroup.is_abandoned(f"pybuild-{namespace}-{os.getpid()}-1", namespace)
    assert cgroup.is_abandoned(f"pybuild-{namespace}-4194303-1", namespace)
    # another pid namespace's processes can't be looked up here
    assert not cgroup.is_abandoned(f"pybuild-{namespace + 1}-4194303-1", namespace)
    assert not cgroup.is_abandoned("pybuild-mine", namespace)


def test_owner_that_nobody_reaps_is_gone() -> None:
    script = "from builder.sandbox.cgroup import owner_name; print(owner_name())"
    with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.read().strip()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert cgroup.is_abandoned(name, os.stat("/proc/self/ns/pid").st_ino)


def test_sweep_removes_the_dead_alone(tmp_path: Path) -> None:
    namespace = os.stat("/proc/self/ns/pid").st_ino
    dead, alive = f"pybuild-{namespace}-4194303-1", cgroup.owner_name()
    for name in (f"{dead}/1", f"{dead}/2", alive, "other"):
        (tmp_path / name).mkdir(parents=True)
    assert cgroup.sweep((Hierarchy(1, str(tmp_path), "", frozenset({"memory"})),)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((alive, "other"))


@pytest.mark.owners("becomes another user")
def test_sweep_leaves_what_belongs_to_others() -> None:
    """A plain user sees groups that a killed builder of root left, and may neither kill their members nor remove them."""
    base = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        base.chmod(0o755)
        theirs = base / f"pybuild-{os.stat('/proc/self/ns/pid').st_ino}-4194303-1"
        theirs.mkdir()
        (theirs / "cgroup.procs").write_text(f"{os.getpid()}\n")
        pid = os.fork()  # noqa: TID251 - root's rights are given up for good
        if pid == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                os._exit(cgroup.sweep((Hierarchy(1, str(base), "", frozenset({"memory"})),)))
            finally:
                os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert theirs.exists()
    finally:
        shutil.rmtree(base)


def test_version_two_without_controllers_is_noted_and_limits_refused(tmp_path: Path) -> None:
    for name in ("cgroup.controllers", "cgroup.subtree_control"):
        (tmp_path / name).touch()
    made = Slice((Hierarchy(2, str(tmp_path), "", frozenset()),), "pybuild-0-1-1")
    (tmp_path / "pybuild-0-1-1").mkdir()
    (tmp_path / "pybuild-0-1-1/1").mkdir()
    (tmp_path / "pybuild-0-1-1/1/cgroup.procs").touch()
    group = made.make(None, frozenset(), confine_devices=False)
    assert group.notes == ("no cgroup for memory can be made here: use is not counted",)
    with pytest.raises(CgroupError, match="no cgroup can hold a limit on memory, pids here"):
        group.limit(Limits(memory_bytes=MIB, pids=4))
    group.limit(Limits())
    group.release_joins()


def test_group_with_members_is_left_as_it_is(tmp_path: Path) -> None:
    """Giving on the controllers it can would make it the root of a threaded subtree."""
    own = tmp_path / "session.scope"
    own.mkdir()
    for group in (tmp_path, own):
        (group / "cgroup.controllers").write_text("cpu pids\n")
        (group / "cgroup.subtree_control").touch()
        (group / "cgroup.procs").write_text("1\n")
    (own / "cgroup.type").write_text("domain\n")
    slice_ = Slice((Hierarchy(2, str(tmp_path), "session.scope", frozenset({"cpu", "pids"})),), "pybuild-0-1-1")
    (tmp_path / "pybuild-0-1-1/1").mkdir(parents=True)
    (tmp_path / "pybuild-0-1-1/1/cgroup.procs").touch()
    slice_.make(None, frozenset(), confine_devices=False).release_joins()
    assert (own / "cgroup.subtree_control").read_text() == ""
    assert not (own / "pybuild-members").exists()
    # the last word written: the root of the hierarchy has no type, and may have members
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"


def test_machine_without_cgroups() -> None:
    group = Slice((), "pybuild-0-1-1").make(None, frozenset(), confine_devices=True)
    assert (group.join_fds(), group.views(), group.close()) == ((), (), True)
    assert group.usage().memory_peak_bytes is None


def fake_group(path: Path, version: int, controllers: tuple[str, ...], files: dict[str, str]) -> Group:
    for name in ("cgroup.procs", "tasks"):
        (path / name).touch()
    for name, text in files.items():
        (path / name).write_text(text)
    group = Group(dict.fromkeys(controllers, (version, str(path))), (), ())
    group.release_joins()
    return group


def test_use_in_version_two(tmp_path: Path) -> None:
    files = {
        "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\n",
        "memory.peak": "4096\n",
        "memory.max": "8192\n",
        "memory.events": "low 0\noom 1\noom_kill 2\n",
        "pids.peak": "5\n",
        "io.stat": "254:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0\n7:0 rbytes=1 wbytes=2\n",
    }
    used = fake_group(tmp_path, 2, ("cpu", "memory", "pids", "io"), files).usage()
    assert (used.cpu_user_ns, used.cpu_system_ns, used.memory_peak_bytes, used.pids_peak) == (20_000, 10_000, 4096, 3)
    assert (used.read_bytes, used.written_bytes, used.oom) == (101, 202, Oom(8192, 4096))


def test_use_in_version_one(tmp_path: Path) -> None:
    files = {
        "cpuacct.usage_user": "20\n",
        "cpuacct.usage_sys": "10\n",
        "memory.max_usage_in_bytes": "4096\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
        "pids.peak": "1\n",
    }
    used = fake_group(tmp_path, 1, ("cpuacct", "memory", "pids"), files).usage()
    assert (used.cpu_user_ns, used.cpu_system_ns, used.memory_peak_bytes, used.pids_peak) == (20, 10, 4096, 0)
    assert used.oom is None
    (tmp_path / "memory.oom_control").write_text("oom_kill 1\n")
    (tmp_path / "memory.stat").write_text("cache 0\nhierarchical_memory_limit 65536\n")
    assert fake_group(tmp_path, 1, ("memory",), {}).usage().oom == Oom(65536, 4096)


def test_io_texts() -> None:
    assert parse_io_v1("254:0 Read 10\n254:0 Write 20\n254:0 Total 30\n7:0 Read 1\nTotal 31\n") == (11, 20)
    assert parse_io_v2("") == (0, 0)
