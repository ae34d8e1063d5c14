"""``pybuild shell``: into the steps of an image, and into a step that failed; ``--on-failure``, ``pybuild resume``."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from builder.cleaning import prune
from builder.session import Session
from harness.pybuild import Pybuild
from harness.terminal import Terminal
from harness.waiting import DEADLINE_SECONDS, wait_until

DOCKERFILE = """FROM busybox AS base
ENV A=1
RUN echo base > /base

FROM base AS build
ARG B=2
WORKDIR /work
USER 1000
RUN --mount=type=secret,id=s,uid=1000 --mount=type=bind,source=file,target=/in/f --mount=type=cache,target=/c,uid=1000 \
    --mount=type=tmpfs,target=/mem echo half > /tmp/half; touch /c/kept; cat /run/secrets/s; test -e /in/../never
RUN echo more > /tmp/more

FROM busybox
COPY --from=build /tmp/more /more
RUN rm /more
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / "file").write_text("of the context\n")
    (directory / "secret").write_text("hush\n")
    return directory


def fail(store: Pybuild, context: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = ["--progress", "plain", "--secret", f"id=s,src={context}/secret", *options, str(context)]
    done = store.attempt("build", *words)
    assert done.returncode == 1, done.stderr
    return done


def prune_all(store: Pybuild) -> None:
    with Session(str(store.root)) as session:
        prune(session, everything=True)


def kept(store: Pybuild) -> list[str]:
    directory = store.root / "failed"
    return sorted(os.listdir(directory)) if directory.exists() else []


@pytest.mark.ids("runs as another user")
def test_step_that_failed_is_as_its_command_left_it(small: Pybuild, context: Path) -> None:
    said = fail(small, context).stderr
    assert f"hint: pybuild shell --root {small.root} opens a shell in the step as it was left" in said
    assert "hint: pybuild resume" in said
    # the context may change meanwhile, the step had what it had
    (context / "file").write_text("changed\n")
    script = (
        "cat /tmp/half /in/f /run/secrets/s; id -u; pwd; echo $A $B $HOME; stat -f -c %T /mem; ls /c; touch /c/x /tmp/x"
    )
    for _ in range(2):
        # what is done there is gone the next time
        done = small.run("shell", "@", "sh", "-c", f"{script}; ls /c /tmp")
        assert done.stdout.splitlines() == [
            *("half", "of the context", "hush", "1000", "/work", "1 2 /", "tmpfs", "kept"),
            *("/c:", "kept", "x", "", "/tmp:", "half", "x"),
        ]
    assert os.listdir(small.root / "layers" / "active") == []
    (record,) = (small.root / "failed").glob("*/step.json")
    assert "hush" not in record.read_text()
    assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.ids("runs as another user")
def test_commands_on_stdin_and_their_status(small: Pybuild, context: Path) -> None:
    # nothing is said of a private network that can't be made
    fail(small, context, "--network", "none")
    done = subprocess.run(
        small.command("shell"),
        env=small.environment(),
        input="cat /tmp/half\nexit 9\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (9, "half\n", "")


@pytest.mark.ids("runs as another user")
def test_steps_around_the_one_that_failed(small: Pybuild, context: Path) -> None:
    fail(small, context)
    for target, script, shown in (
        ("@base", "cat /base; pwd; id -u; echo $A", "base\n/\n0\n1\n"),
        ("@base:2", "cat /base", "base\n"),
        ("@base:1", "ls /base 2>/dev/null || echo none", "none\n"),
        ("@:3", "cat /base", "base\n"),
        ("@Dockerfile:8", "pwd; id -u; ls -A", "/work\n0\n"),
        ("@1", "pwd", "/work\n"),
    ):
        assert small.run("shell", target, "sh", "-c", script).stdout == shown, target
    assert small.run("shell", "--before", "@", "sh", "-c", "ls /tmp; id -u").stdout == "1000\n"
    gone = small.attempt("shell", "@build:3", "true")
    assert (gone.returncode, "was not done in that build" in gone.stderr) == (1, True)
    missing = small.attempt("shell", "@build:9")
    assert missing.returncode == 2
    assert "error: the build has no step 'build:9'\nhint: its steps are\n  @base:1  FROM" in missing.stderr
    assert "\n  @build:2  RUN --mount=type=secret" in missing.stderr


@pytest.mark.ids("runs as another user")
def test_steps_of_an_image(small: Pybuild, context: Path) -> None:
    text = (context / "Dockerfile").read_text().replace("test -e /in/../never", "true")
    (context / "Dockerfile").write_text(text)
    small.run("build", "-t", "whole", "--secret", f"id=s,src={context}/secret", context)
    for target, script, shown in (
        ("whole", "ls /more 2>/dev/null || echo none", "none\n"),
        ("whole@2", "cat /more", "more\n"),
        ("whole@build", "cat /tmp/more; id -u; echo $A $B; pwd", "more\n1000\n1 2\n/work\n"),
        ("whole@build:2", "ls /tmp", "half\n"),
        ("whole@base", "cat /base; ls /tmp", "base\n"),
        ("whole@:13", "cat /more", "more\n"),
    ):
        assert small.run("shell", target, "sh", "-c", script).stdout == shown, target
    wanted = ["-u", "5", "-w", "/else", "-e", "A=given", "-v", f"{context}:/seen:ro", "--network", "none"]
    done = small.run(
        "shell", *wanted, "whole@build", "sh", "-c", "id -u; pwd; echo $A; cat /seen/file; ls /sys/class/net"
    )
    assert done.stdout.splitlines() == ["5", "/else", "given", "of the context", "lo"]
    # an image that came from elsewhere has its history
    assert small.run("shell", "busybox", "echo", "hi").stdout == "hi\n"
    told = small.run("shell", "busybox@1", "echo", "hi")
    assert "WARN: the image was not built here" in told.stderr
    # the record goes with the image
    small.run("rmi", "whole")
    assert list((small.root / "builds").iterdir()) == []


@pytest.mark.ids("runs as another user")
def test_shell_on_a_terminal(small: Pybuild, context: Path) -> None:
    fail(small, context)
    with Terminal(small.command("shell"), small.environment()) as terminal:
        shown = terminal.read_until(b"exit or Ctrl-D leaves")
        assert b"as the failed step command left it: @build:2  RUN --mount" in shown
        terminal.type(b"cat /tmp/half; tty; echo $((40 + 2))\n")
        assert b"/dev/pts/0" in terminal.read_until(b"42\r\n")
        terminal.read_until(b"$ ")  # what is typed before the shell reads may reach nobody
        terminal.type(b"\x04")
        assert terminal.status() == 0
        assert terminal.has_its_settings_back()


@pytest.mark.ids("runs as another user")
def test_shell_at_once(small: Pybuild, context: Path) -> None:
    words = ["--on-failure", "ask", "--progress", "plain", "--secret", f"id=s,src={context}/secret", str(context)]
    with Terminal(small.command("build", *words), small.environment()) as terminal:
        terminal.read_until(b"shell, keep or remove the step that failed? [s/K/r] ")
        terminal.type(b"s\n")
        terminal.read_until(b"exit or Ctrl-D leaves")
        terminal.type(b"cat /tmp/half; exit 77\n")
        terminal.read_until(b"half\r\n")
        # the status is that of the step
        assert terminal.status() == 1
    assert len(kept(small)) == 1


def test_what_is_not_to_be_kept(small: Pybuild, context: Path) -> None:
    said = fail(small, context, "--on-failure", "remove").stderr
    assert (kept(small), "pybuild shell" in said) == ([], False)
    done = small.attempt("shell")
    assert done.returncode == 1
    assert "error: no step has failed here" in done.stderr
    assert "error: no step has failed here" in small.attempt("resume").stderr


def test_newest_are_kept_until_the_cache_is_pruned(small: Pybuild, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN echo {number} > /f; exit 3\n")
        assert small.attempt("build", tmp_path).returncode == 3
    assert len(kept(small)) == 3
    assert small.run("shell", "@", "cat", "/f").stdout == "4\n"
    # a killed build may leave one without a record: it counts for nothing, and goes
    (small.root / "failed" / "99999999999999999999-abcdef").mkdir()
    assert small.run("shell", "@", "cat", "/f").stdout == "4\n"
    prune_all(small)
    assert kept(small) == ["99999999999999999999-abcdef"]
    assert small.attempt("build", tmp_path).returncode == 3
    assert small.run("shell", "@", "cat", "/f").stdout == "4\n"


def test_one_that_is_looked_at_stays(small: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo x > /f; exit 3\n")
    assert small.attempt("build", tmp_path).returncode == 3
    before = kept(small)
    with subprocess.Popen(
        small.command("shell", "@", "sh", "-c", "echo ready; read word; cat /f"),
        env=small.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        prune_all(small)
        assert kept(small) == before
        assert process.communicate(b"go\n", DEADLINE_SECONDS)[0] == b"x\n"
    prune_all(small)
    assert kept(small) == []


def test_interrupted_build_keeps_nothing(small: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo ready; sleep 1000\n")
    with subprocess.Popen(
        small.command("build", "--progress", "plain", tmp_path), env=small.environment(), stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        shown = b""
        while b" ready\n" not in shown:
            shown += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130
    wait_until(lambda: kept(small) == [], "nothing to be kept")


@pytest.mark.ids("runs as another user")
def test_resume_builds_again_from_there(small: Pybuild, context: Path) -> None:
    words = [
        "build",
        "--root",
        str(small.root),
        "-t",
        "again",
        "--progress",
        "plain",
        "--secret",
        "id=s,src=secret",
        ".",
    ]
    command = [*small.command("x")[:-3], *words]
    assert (
        subprocess.run(command, env=small.environment(), cwd=context, check=False, capture_output=True).returncode == 1
    )
    text = (context / "Dockerfile").read_text().replace("test -e /in/../never", "true")
    (context / "Dockerfile").write_text(text)
    done = small.run("resume")
    assert "[base 2/2] RUN echo base > /base\n#" in done.stderr
    assert "CACHED" in done.stderr.partition("[base 2/2]")[2][:60]
    assert small.run("run", "again", "echo", "built").stdout == "built\n"
