"""Steps that begin while the layer below them is still being packed: nothing else may be different."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from harness.pybuild import Pybuild, step_outcomes
from harness.waiting import DEADLINE_SECONDS, processes_with, wait_until

LARGE = "RUN dd if=/dev/zero of=/large bs=1M count=160 2>/dev/null"
OWNERS = [("3:4", 711), ("0:0", 755), ("0:5", 1755), ("6:0", 755)]
DATED = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    return directory


def write(context: Path, *steps: str) -> None:
    (context / "Dockerfile").write_text("\n".join(("FROM busybox", *steps, "")))


def steps_of(store: Pybuild, *arguments: str | os.PathLike[str]) -> dict[str, Any]:
    """The vertices of the Dockerfile's RUN steps by their commands, from a build that succeeds."""
    done = store.run("build", "--progress", "rawjson", *arguments)
    known: dict[str, dict[str, Any]] = {}
    for line in done.stderr.splitlines():
        for vertex in json.loads(line).get("vertexes", ()):
            known.setdefault(vertex["name"], {}).update(vertex)
    return {name.partition(" RUN ")[2]: vertex for name, vertex in known.items() if " RUN " in name}


def assert_nothing_active(store: Pybuild) -> None:
    assert list((store.root / "layers" / "active").iterdir()) == []


def test_begins_while_the_layer_below_is_packed(small: Pybuild, context: Path) -> None:
    write(context, LARGE, "RUN wc -c </large; sleep 3")
    large, counted = steps_of(small, "-t", "ahead", context).values()
    assert counted["started"] < large["completed"] < counted["completed"]
    assert_nothing_active(small)
    assert small.run("run", "ahead", "wc", "-c", "/large").stdout.split()[0] == str(160 << 20)


def test_one_at_a_time(small: Pybuild, context: Path) -> None:
    write(context, LARGE, "RUN wc -c </large")
    large, counted = steps_of(small, "--jobs", "1", context).values()
    assert large["completed"] <= counted["started"]


@pytest.mark.ids("runs as another user")
def test_sees_all_that_the_step_below_changed(small: Pybuild, context: Path) -> None:
    """Also what it changed last, of the root directory and of the users."""
    write(
        context,
        "RUN rm /bin/nc; mkdir /d; echo x >/d/f; echo me:x:77:88::/d:/bin/sh >>/etc/passwd; chown 3:4 /; chmod 1711 /",
        "USER me",
        "RUN id -u; id -g; echo $HOME; stat -c '%a %u %g' /; cat /d/f; ls /bin/nc || true",
        "USER root",
        "RUN stat -c '%a %u %g' /; touch /last",
    )
    said = small.run("build", "--progress", "plain", "-t", "seen", context).stderr
    for line in ("77", "88", "/d", "1711 3 4", "x", "ls: /bin/nc: No such file or directory"):
        assert f" {line}\n" in said, said
    assert said.count(" 1711 3 4\n") == 2
    small.run("run", "seen", "stat", "/last")


@pytest.mark.ids("gives the root directory away")
def test_root_directory_goes_to_and_fro(small: Pybuild, context: Path) -> None:
    """What stands on a step was made ready before that one changed its root directory, and is changed with it."""
    steps = [f"RUN stat -c 'is %a %u %g' /; chown {owner} /; chmod {mode} /" for owner, mode in OWNERS]
    write(context, *steps, "RUN stat -c 'is %a %u %g' /")
    said = small.run("build", "--progress", "plain", "-t", "seen", context).stderr
    seen = [line.rpartition(" is ")[2] for line in said.splitlines() if re.search(r" is \d+ \d+ \d+$", line)]
    assert seen == ["755 0 0", *(f"{mode} {owner.replace(':', ' ')}" for owner, mode in OWNERS)]
    assert small.run("run", "seen", "stat", "-c", "%a %u %g", "/").stdout == f"{seen[-1]}\n"


def test_much_is_said_before_its_turn(small: Pybuild, context: Path) -> None:
    write(context, LARGE, "RUN seq 300000")
    said = small.run("build", "--progress", "plain", context, env={"BUILDKIT_STEP_LOG_MAX_SIZE": "-1"}).stderr
    assert all(f" {number}\n" in said for number in (1, 150000, 300000))


def test_fails_before_its_turn(small: Pybuild, context: Path) -> None:
    write(context, LARGE, "RUN echo half >/half; echo told; exit 7")
    done = small.attempt("build", "--progress", "plain", context)
    assert (done.returncode, ">>> RUN echo half" in done.stderr, " told\n" in done.stderr) == (7, True, True)
    assert_nothing_active(small)
    shell = subprocess.run(
        small.command("shell"),
        env=small.environment(),
        input="cat /half; wc -c </large\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert shell.stdout.split() == ["half", str(160 << 20)]


@pytest.mark.root("makes a file system")
def test_layer_below_can_not_be_packed(small: Pybuild, context: Path, tmp_path: Path) -> None:
    """The disk is full before the layer below is in the store: what has begun above it is ended and removed."""
    word = f"marker{uuid.uuid4().hex}"
    write(context, "RUN dd if=/dev/urandom of=/large bs=1M count=24 2>/dev/null", f"RUN sleep 600; echo {word}")
    tight = Pybuild(tmp_path / "tight" / "store")
    tight.root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=36m", "none", tight.root], check=True)
    try:
        tight.load_base("busybox")
        done = tight.attempt("build", "--progress", "plain", context)
        assert done.returncode == 1
        assert "the disk is full" in done.stderr, done.stderr
        assert ">>> RUN dd" in done.stderr, done.stderr
        assert processes_with(word) == []
        assert_nothing_active(tight)
    finally:
        subprocess.run(["umount", tight.root], check=True)


def test_layer_below_is_there_already(small: Pybuild, context: Path) -> None:
    """The branch of a layer that was made once more stays as long as somebody looks at it."""
    write(context, LARGE, "RUN wc -c </large; sleep 2; wc -c </large; cat /large >/dev/null")
    for _ in range(2):
        steps = steps_of(small, "--no-cache", *DATED, context)
        large, counted = steps.values()
        assert counted["started"] < large["completed"]
        assert_nothing_active(small)


@pytest.mark.parametrize(
    ("above", "said"),
    [
        ("USER absent\nRUN true", "user 'absent' is not in /etc/passwd"),
        ("RUN --network=host true", "--network=host is not allowed in this build"),
        ("WORKDIR /large/below\nRUN true", "/large"),
    ],
)
@pytest.mark.parametrize("first", ["RUN echo kept >/large", "COPY large /"])
def test_can_not_begin(small: Pybuild, context: Path, first: str, above: str, said: str) -> None:
    """What keeps a step from beginning is told when it is its turn, and costs the step below nothing."""
    (context / "large").write_text("kept\n")
    write(context, first, above)
    for outcome in ("DONE", "CACHED"):
        done = small.attempt("build", "--progress", "plain", context)
        assert done.returncode == 1
        assert said in done.stderr, done.stderr
        outcomes = {title.partition("] ")[2]: ended for title, ended in step_outcomes(done.stderr).items()}
        assert outcomes[first] == outcome
        assert_nothing_active(small)


def test_copied_layer_below_is_there_already(small: Pybuild, context: Path) -> None:
    (context / "files").mkdir()
    for number in range(2000):
        (context / "files" / str(number)).write_text(str(number))
    write(context, "COPY files /files", "RUN sleep 1; cat /files/* | wc -c", "RUN ls /files | wc -l")
    for _ in range(2):
        assert len(steps_of(small, "--no-cache", context)) == 2
        assert_nothing_active(small)


@contextlib.contextmanager
def counting() -> Generator[tuple[int, list[str]]]:
    """A port of this machine, and the requests that came there."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


def test_what_may_be_found_is_not_begun(small: Pybuild, context: Path) -> None:
    """The step below is another one and makes the same: what stands on it is found, and was not run to find that out."""
    with counting() as (port, asked):
        above = f"RUN --network=host wget -q http://127.0.0.1:{port}/ran -O /dev/null; date >/date"
        options = ("--allow", "network.host", *DATED, context)
        write(context, LARGE, above)
        steps_of(small, *options)
        assert asked == ["/ran"]
        write(context, f"{LARGE}; true", above)
        large, found = steps_of(small, *options).values()
        assert (large.get("cached", False), found.get("cached", False), asked) == (False, True, ["/ran"])


def test_what_is_found_all_the_same_is_given_up(small: Pybuild, context: Path, tmp_path: Path) -> None:
    """A Dockerfile at another place was never built, and makes what one here has made."""
    write(context, LARGE, "RUN date >/date; sleep 5")
    small.run("build", *DATED, context)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere, f"{LARGE}; true", "RUN date >/date; sleep 5")
    large, found = steps_of(small, *DATED, elsewhere).values()
    assert (large.get("cached", False), found.get("cached", False)) == (False, True)
    assert_nothing_active(small)


def test_interrupted_while_both_are_at_work(small: Pybuild, context: Path) -> None:
    word = f"marker{uuid.uuid4().hex}"
    write(context, LARGE.replace("160", "640"), f"RUN sleep 600; echo {word}")
    with subprocess.Popen(
        small.command("build", "--progress", "plain", context),
        env=small.environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        wait_until(lambda: bool(processes_with(word)), "the second step to begin")
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 130
    wait_until(lambda: not processes_with(word), "the command to end")
    assert_nothing_active(small)
