"""Everything of a step ends with it, however it, its server or pybuild ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.limits import Limits
from builder.sandbox.client import SandboxError, SandboxServer
from harness.sandbox import Ran, Reader, start
from harness.waiting import processes_running

pytestmark = pytest.mark.sandbox

Run = Callable[..., Ran]
MARK = f"sleep {10_000_000 + os.getpid()}"
"""What the steps of this run of the tests do, and no other program on the machine."""
STUBBORN = f"trap '' TERM INT HUP; echo ready; {MARK} & {MARK}; {MARK}; {MARK}"

CLIENT = """
import os, sys, time
sys.path[:0] = sys.argv[1:3]
from harness.sandbox import start
from builder.sandbox.client import SandboxServer
server = SandboxServer.start()
running = start(server, sys.argv[3], ("sh", "-c", sys.argv[4]), stdout=1)
print("server", server.pid, flush=True)
time.sleep(1000)
"""


def gone(check: Callable[[], object], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def groups_of(pid: int) -> list[str]:
    return [
        os.path.join(directory, name)
        for directory, names, _files in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith("pybuild-") and f"-{pid}-" in name
    ]


def test_closing_a_step_kills_its_tree(server: SandboxServer, rootfs: Path, reader: Reader) -> None:
    running = start(server, rootfs, ("sh", "-c", STUBBORN), stdout=reader.write_fd)
    reader.started()
    reader.wait_for(b"ready")
    assert gone(lambda: not processes_running(MARK))
    running.close()
    assert gone(lambda: processes_running(MARK))


def test_daemon_left_behind_dies_with_the_step(run: Run) -> None:
    ran = run("sh", "-c", f"setsid {MARK} </dev/null >/dev/null 2>&1 & sleep 0.1; echo done")
    assert (ran.status, ran.out) == (0, "done\n")
    assert processes_running(MARK) == []


def test_orphans_are_reaped_while_the_step_runs(run: Run) -> None:
    script = "for i in 1 2 3 4 5; do (sleep 0.01 & ); done; sleep 0.3; cat /proc/[0-9]*/stat | grep -c ' Z '"
    assert run("sh", "-c", script).out.strip() == "0"


def test_step_that_ignores_sigterm(server: SandboxServer, rootfs: Path, reader: Reader) -> None:
    with start(server, rootfs, ("sh", "-c", STUBBORN), stdout=reader.write_fd) as running:
        reader.started()
        reader.wait_for(b"ready")
        running.send_signal(signal.SIGTERM)
        assert select.select([running.fd], [], [], 0.2)[0] == []
        running.send_signal(signal.SIGKILL)
        result = running.result()
    assert result.status == 137
    assert processes_running(MARK) == []


def test_signal_reaches_the_command(server: SandboxServer, rootfs: Path, reader: Reader) -> None:
    script = "trap 'echo caught; exit 7' TERM; echo ready; while true; do sleep 0.05; done"
    with start(server, rootfs, ("sh", "-c", script), stdout=reader.write_fd) as running:
        reader.started()
        reader.wait_for(b"ready")
        running.send_signal(signal.SIGTERM)
        assert running.result().status == 7
    assert b"caught" in reader.all()


def test_full_pipe_holds_up_nobody_else(server: SandboxServer, rootfs: Path) -> None:
    read, write = os.pipe()
    flood = start(server, rootfs, ("sh", "-c", "yes"), stdout=write)
    os.close(write)
    with start(server, rootfs, ("true",)) as other:
        assert other.result().status == 0
    assert select.select([flood.fd], [], [], 0)[0] == []
    os.close(read)
    assert flood.result().status in {141, 1}
    flood.close()


def test_steps_run_side_by_side(server: SandboxServer, rootfs: Path) -> None:
    steps = [start(server, rootfs, ("sh", "-c", f"sleep 0.2; exit {number}")) for number in range(8)]
    assert [step.result().status for step in steps] == list(range(8))
    for step in steps:
        step.close()


def test_closing_the_server_kills_all_steps(rootfs: Path, reader: Reader) -> None:
    server = SandboxServer.start()
    steps = [start(server, rootfs, ("sh", "-c", STUBBORN), stdout=reader.write_fd) for _ in range(3)]
    reader.started()
    reader.wait_for(b"ready\nready\nready")
    server.close()
    assert processes_running(MARK) == []
    assert groups_of(server.pid) == []
    for step in steps:
        assert step.result().status == 137
        step.close()


def killed_client(rootfs: Path, number: int) -> int:
    """A pybuild with a running step is killed with ``number``; the id of its server."""
    root = Path(__file__).resolve().parents[2]
    argv = [sys.executable, "-c", CLIENT, root, root / "tests", rootfs, STUBBORN]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as client:
        assert client.stdout
        lines = sorted(client.stdout.readline() for _ in range(2))
        assert lines[0] == b"ready\n"
        os.killpg(client.pid, number)
        client.stdout.close()
        client.wait()
    return int(lines[1].split()[1])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_end_of_pybuild_is_the_end_of_everything(rootfs: Path, number: int) -> None:
    server = killed_client(rootfs, number)
    assert gone(lambda: processes_running(MARK))
    assert gone(lambda: os.path.exists(f"/proc/{server}"))
    assert groups_of(server) == []


@pytest.mark.limits("leaves groups behind")
def test_killed_server_takes_its_steps_and_the_next_one_sweeps(rootfs: Path, reader: Reader) -> None:
    server = SandboxServer.start()
    running = start(server, rootfs, ("sh", "-c", STUBBORN), stdout=reader.write_fd, limits=Limits(pids=50))
    reader.started()
    reader.wait_for(b"ready")
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(SandboxError, match=r"was killed by signal 9 \(SIGKILL\) while a step was running"):
        running.result()
    running.close()
    assert gone(lambda: processes_running(MARK))
    assert groups_of(server.pid)
    with SandboxServer.start() as other, start(other, rootfs, ("true",)) as step:
        assert step.result().status == 0
        assert groups_of(server.pid) == []
    server.close()


def test_server_that_is_let_go_while_it_starts_says_nothing() -> None:
    assert SandboxServer.start().close() == ""


def test_run_after_the_server_is_gone(rootfs: Path) -> None:
    server = SandboxServer.start()
    with start(server, rootfs, ("true",)) as running:
        running.result()
    os.kill(server.pid, signal.SIGKILL)
    assert gone(lambda: Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z")
    with pytest.raises(SandboxError, match=r"is gone: it was killed by signal 9 \(SIGKILL\)"):
        start(server, rootfs, ("true",))
    server.close()


def test_terminals_interrupt_does_not_reach_the_server(server: SandboxServer, rootfs: Path) -> None:
    with start(server, rootfs, ("true",)) as running:
        running.result()
    assert os.getsid(server.pid) == server.pid
    os.kill(server.pid, signal.SIGINT)
    with start(server, rootfs, ("true",)) as running:
        assert running.result().status == 0


def test_server_holds_no_descriptor_of_ended_steps(server: SandboxServer, rootfs: Path) -> None:
    def open_files() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    before, steps = open_files(), 12
    for _ in range(steps):
        with start(server, rootfs, ("true",)) as running:
            running.result()
    # children that are kept ready have some, at the one time or the other
    assert gone(lambda: open_files() >= before + steps)


def test_step_over_a_full_filesystem(run: Run) -> None:
    ran = run("dd", "if=/dev/zero", "of=/dev/shm/x", "bs=4096", "count=100", limits=Limits(shm_bytes=65536))
    assert ran.status == 1
    assert "No space left" in ran.err
