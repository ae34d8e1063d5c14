"""Steps handed to an OCI runtime: what they get is what the sandbox gives them, and as little is left behind."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.limits import Limits
from builder.runtimes import find_runtime
from builder.sandbox.client import SandboxError, SandboxServer
from builder.sandbox.spec import Bind, File, Runtime, Tmpfs, User
from harness.sandbox import Ran, Reader, start
from harness.waiting import wait_until

pytestmark = pytest.mark.sandbox

Run = Callable[..., Ran]


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    assert shutil.which(request.param), f"{request.param} is not installed"
    return find_runtime(request.param)


@pytest.mark.owners("runs as another user")
def test_command_as_asked_for(run: Run, rootfs: Path, runtime: Runtime) -> None:
    before = {path: path.stat().st_mtime_ns for path in (rootfs, rootfs / "etc", rootfs / "srv")}
    files = (File("/run/secrets/it", "hush\n", 0o400, 1000, 7), File("/dev/pipes/script", "#!/bin/sh\nid\n", 0o755))
    ran = run(
        *(
            "sh",
            "-c",
            "pwd; echo $A; hostname; cat /run/secrets/it /srv/f; /dev/pipes/script; df -k /mem | tail -1; exit 3",
        ),
        runtime=runtime,
        env=("PATH=/bin", "A=two words"),
        cwd="/missing/one",
        user=User(1000, 7, (8,)),
        hostname="box",
        files=files,
        binds=(Bind("/etc/hostname", "/srv/f"),),
        tmpfs=(Tmpfs("/mem", 1 << 20),),
    )
    lines = ran.lines()
    assert (ran.status, ran.err) == (3, "")
    assert lines[:4] == ["/missing/one", "two words", "box", "hush"]
    assert lines[4] == Path("/etc/hostname").read_text().strip()
    assert lines[5] == "uid=1000 gid=7 groups=7,8"
    assert lines[6].split()[1] == "1024"
    # mount points that were not there are gone, the working directory is the user's
    assert not (rootfs / "run").exists()
    assert not (rootfs / "mem").exists()
    assert ((rootfs / "missing" / "one").stat().st_uid, list((rootfs / "srv").iterdir())) == (1000, [])
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path for path in before if before[path] != after[path]} == {rootfs}


@pytest.mark.parametrize(
    ("script", "status", "number"), [("true", 0, None), ("kill -9 $$; sleep 9", 137, 9), ("exit 200", 200, None)]
)
def test_end_is_told_as_by_the_sandbox(
    run: Run, runtime: Runtime, script: str, status: int, number: int | None
) -> None:
    # the command is process 1 of its namespace there, which ignores what it does not handle: so a child is killed
    result = run("sh", "-c", f"sh -c '{script}'; exit $?", runtime=runtime).result
    assert (result.status, result.error) == (status, None)
    assert number is None or status == 128 + number


@pytest.mark.parametrize(("program", "status"), [("nothing", 127), ("/bin/nothing", 127), ("/etc/passwd", 126)])
def test_program_that_cannot_be_run(run: Run, runtime: Runtime, program: str, status: int) -> None:
    ran = run(program, runtime=runtime)
    assert (ran.status, ran.result.error is None) == (status, False)
    assert f"{os.path.basename(runtime.program)} can't create the step: " in (ran.result.error or "")


def test_read_only_root_and_network(run: Run, rootfs: Path, runtime: Runtime) -> None:
    ran = run("sh", "-c", "touch /x; ls /sys/class/net; echo ok", runtime=runtime, read_only_root=True)
    assert (ran.lines(), "Read-only" in ran.err) == (["lo", "ok"], True)
    assert not (rootfs / "x").exists()
    host = run("readlink", "/proc/self/ns/net", runtime=runtime, network="host")
    assert host.out.strip() == os.readlink("/proc/self/ns/net")


@pytest.mark.limits("holds limits")
def test_limits_are_held_and_use_is_counted(
    run: Run, rootfs: Path, runtime: Runtime, probe: Callable[[str], Path]
) -> None:
    shutil.copy(probe("hog"), rootfs / "bin" / "hog")
    result = run("hog", "64", runtime=runtime, limits=Limits(memory_bytes=32 << 20)).result
    assert result.oom is not None
    assert (result.status, result.oom.limit_bytes) == (137, 32 << 20)
    fork = "for n in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"
    ran = run("sh", "-c", fork, runtime=runtime, limits=Limits(pids=5))
    assert "can't fork" in ran.err
    assert (ran.result.memory_peak_bytes or 0) > 0


def test_insecure_step(run: Run, runtime: Runtime) -> None:
    script = "grep -E '^(CapEff|Seccomp):' /proc/self/status; mount -t tmpfs none /tmp && echo mounted"
    ran = run("sh", "-c", script, runtime=runtime, security="insecure")
    capabilities, seccomp, mounted = ran.lines()
    assert int(capabilities.split()[1], 16) & 1 << 21
    assert (seccomp.split()[1], mounted) == ("0", "mounted")


def test_terminal(server: SandboxServer, rootfs: Path, runtime: Runtime) -> None:
    with start(
        server, rootfs, ("sh", "-c", "tty; test -t 0 && read word; exit $word"), tty=True, runtime=runtime
    ) as step:
        assert step.console is not None
        os.write(step.console, b"9\n")
        assert step.result().status == 9
        assert b"/dev/pts/0" in os.read(step.console, 4096)
        os.close(step.console)


def test_signals_reach_the_command(server: SandboxServer, rootfs: Path, runtime: Runtime, reader: Reader) -> None:
    argv = ("sh", "-c", "trap 'exit 7' USR1; echo ready; while true; do sleep 0.05; done")
    with start(server, rootfs, argv, stdout=reader.write_fd, runtime=runtime) as running:
        reader.started()
        reader.wait_for(b"ready")
        running.send_signal(signal.SIGUSR1)
        assert running.result().status == 7


LINGERING = ("sh", "-c", "trap '' TERM INT HUP; setsid sh -c 'while true; do sleep 1; done' & echo ready; sleep 1000")


def test_step_that_is_given_up_is_gone(
    server: SandboxServer, rootfs: Path, runtime: Runtime, reader: Reader, run: Run
) -> None:
    """What is left is looked for by the fixture of every test: processes, mounts, groups."""
    with start(server, rootfs, LINGERING, stdout=reader.write_fd, runtime=runtime):
        reader.started()
        reader.wait_for(b"ready")
    reader.all()
    assert run("true", runtime=runtime).status == 0


def test_killed_server_takes_the_step_with_it(rootfs: Path, runtime: Runtime, reader: Reader) -> None:
    with SandboxServer.start() as server:
        with start(server, rootfs, LINGERING, stdout=reader.write_fd, runtime=runtime) as running:
            reader.started()
            reader.wait_for(b"ready")
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(SandboxError, match="while a step was running"):
                running.result()
        # the end of its output is the end of the last process
        reader.all()


def test_runtime_that_fails_says_why(run: Run, tmp_path: Path, rootfs: Path) -> None:
    program = tmp_path / "broken"
    program.write_text('#!/bin/sh\ncase "$*" in *create*) echo started >&2; exit 4;; esac\n')
    program.chmod(0o755)
    ran = run("true", runtime=Runtime(str(program), joins_groups=False))
    assert ran.status == 125
    assert ran.result.error == "broken can't create the step: it ended with status 4 and said nothing"
    assert run("true").status == 0
    wait_until(lambda: not list(rootfs.glob("run")), "the root to be left alone")


def test_two_steps_at_once(server: SandboxServer, rootfs: Path, runtime: Runtime) -> None:
    steps = [
        start(server, rootfs, ("sh", "-c", f"sleep 0.2; exit {number}"), runtime=runtime) for number in range(1, 5)
    ]
    assert [step.result().status for step in steps] == [1, 2, 3, 4]
    for step in steps:
        step.close()
