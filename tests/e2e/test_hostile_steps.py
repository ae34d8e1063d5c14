"""Hostile and unlucky steps, and servers that are killed: a clear message, and the machine is as it was before.

Each build of root has a network of its own, so that links and rules on it are those of the build alone; that of a plain
user makes none. Mounts, control groups and processes are looked at by the fixture of all tests too.  ``STEPS=200`` runs as
many at once as the issue asks for.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import leaks
from harness.abilities import missing_for_root
from harness.bases import made
from harness.inside import validate
from harness.pybuild import Pybuild
from harness.waiting import DEADLINE_SECONDS, processes_with, wait_until

STEPS = int(os.environ.get("STEPS", "40"))
MOST_MEMORY_BYTES = 256 << 20


class Machine(NamedTuple):
    """A network namespace, held by a process, or that of the machine; ``word`` is in the command lines of the steps."""

    holder: int | None
    word: str

    def inside(self, *command: str | Path) -> list[str | Path]:
        if self.holder is None:
            return [*command]
        return ["nsenter", f"--net=/proc/{self.holder}/ns/net", "--", *command]

    def _said(self, *command: str) -> list[str]:
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, check=True)
        return sorted(done.stdout.splitlines())

    def state(self, base: str) -> dict[str, object]:
        """Mounts, control groups, processes, links and rules."""
        seen = leaks.take(base, everywhere=True)
        state = {"mounts": seen.mounts, "groups": seen.cgroups, "processes": processes_with(self.word)}
        if self.holder is None:
            return state
        links = [re.sub(r"^\d+: ", "", line).split(":")[0] for line in self._said("ip", "-o", "link")]
        return {**state, "links": links, "rules": self._said("nft", "list", "ruleset")}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Pybuild:
    """One store for all: what a step did to it, the next one meets."""
    pybuild = Pybuild(tmp_path_factory.mktemp("hostile") / "store")
    pybuild.load_base("busybox")
    return pybuild


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """The test fails where a build leaves the machine otherwise than it was."""
    word = f"1000{uuid.uuid4().int % 10**12:012d}"
    if missing_for_root() is not None:
        yield from _as_it_was(Machine(None, word), tmp_path)
        return
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) as holder:
        wait_until(
            lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "the namespace"
        )
        made = Machine(holder.pid, word)
        subprocess.run(made.inside("ip", "link", "set", "lo", "up"), check=True)
        yield from _as_it_was(made, tmp_path)


def _as_it_was(machine: Machine, directory: Path) -> Iterator[Machine]:
    before = machine.state(str(directory))
    yield machine
    wait_until(lambda: machine.state(str(directory)) == before, f"the machine to be as it was: {before}")


class Ended(NamedTuple):
    status: int
    said: str


def start(pybuild: Pybuild, machine: Machine, dockerfile: str, *arguments: str) -> subprocess.Popen[bytes]:
    context = pybuild.root.parent / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile.replace("WORD", machine.word))
    return subprocess.Popen(
        machine.inside(*pybuild.command("build", "--progress", "plain", *arguments, context)),
        env=pybuild.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def build(pybuild: Pybuild, machine: Machine, dockerfile: str, *arguments: str) -> Ended:
    with start(pybuild, machine, dockerfile, *arguments) as process:
        _, said = process.communicate(timeout=4 * DEADLINE_SECONDS)
    assert b"Traceback" not in said, said.decode()
    return Ended(process.returncode, said.decode())


def works(pybuild: Pybuild, machine: Machine) -> None:
    """The store is whole, and the next build is done."""
    validate(pybuild.root)
    assert build(pybuild, machine, "FROM busybox\nRUN echo WORD\n").status == 0
    assert os.listdir(pybuild.root / "layers" / "active") == os.listdir(pybuild.root / "tmp") == []


FORK_BOMB = "for i in $(seq 200); do sleep WORD & done; wait"


class Case(NamedTuple):
    name: str
    command: str
    arguments: tuple[str, ...]
    status: int
    says: tuple[str, ...]
    never_says: str = "never said"


LIMITS = {"--memory", "--pids-limit"}
CASES = (
    Case(
        "fork bomb", FORK_BOMB, ("--pids-limit", "20"), 2,
        (r"can't fork", r"exit code: 2", r"hint: it met the limit of 20 processes \(--pids-limit\) \d+ times"),
    ),
    Case(
        "memory hog", "dd if=/dev/zero of=/dev/null bs=200M count=1", ("--memory", "32m"), 137,
        (r"error: process .* did not complete: out of memory at the limit of 32 MiB \(peak 3\d MiB\)",),
    ),
    Case("killed, with a limit", "kill -9 $$", ("--memory", "32m"), 137, (r"was killed by signal 9",), "out of memory"),
    Case("killed", "kill -9 $$", (), 137, (r"was killed by signal 9",), "memory at"),
    Case(
        "memory hog in a step that goes on", "dd if=/dev/zero of=/dev/null bs=200M count=1; true", ("--memory", "32m"), 0,
        (r"a process of the step was killed: out of memory at the limit of 32 MiB",),
    ),
    Case("detached daemon", "(setsid sleep WORD </dev/null >/dev/null 2>&1 &); echo left", (), 0, (r"\d left",)),
    Case(
        "files of a process", "head -c 100000 /dev/zero > /large", ("--ulimit", "fsize=8192"), 153,
        (r"was killed by signal 25|exit code: 153",),
    ),
)  # fmt: skip


ROWS = [
    pytest.param(case, id=case.name, marks=[pytest.mark.limits("holds a limit")] if {*case.arguments} & LIMITS else [])
    for case in CASES
]


@pytest.mark.parametrize("case", ROWS)
def test_step(small: Pybuild, machine: Machine, case: Case) -> None:
    ended = build(small, machine, f"FROM busybox\nRUN {case.command}\n", *case.arguments)
    assert ended.status == case.status, ended.said
    for text in case.says:
        assert re.search(text, ended.said), ended.said
    assert case.never_says not in ended.said
    assert not processes_with(machine.word)


@pytest.mark.root("mounts a small disk")
def test_disk_filler(tmp_path: Path, machine: Machine) -> None:
    place = tmp_path / "small disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", place], check=True)
    try:
        pybuild = Pybuild(place / "store")
        pybuild.run("load", "-i", made("busybox"))
        ended = build(pybuild, machine, "FROM busybox\nRUN cat /dev/zero > /filler\n")
        assert ended.status == 1, ended.said
        assert "No space left on device" in ended.said
        assert "hint: pybuild cache prune --all makes room" in ended.said
        works(pybuild, machine)
    finally:
        subprocess.run(["umount", place], check=True)


HANG = "trap '' INT TERM HUP; (setsid sleep WORD &); while true; do sleep WORD; done"


def started(machine: Machine) -> None:
    wait_until(lambda: len(processes_with(machine.word)) > 1, "the step to run")


def server(process: subprocess.Popen[bytes], word: str) -> int:
    """The server of the build that has ``word`` in its command line."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (found,) = [pid for pid in children if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(found)


KILLED = r"was killed by signal 9 \(SIGKILL\)"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pybuild-sandbox", rf"error: .*sandbox server {KILLED} while a step was running"),
        ("unionfs", rf"error: .*the step lost its root: the union server {KILLED}"),
    ],
    ids=["sandbox", "union"],
)
def test_kill_of_a_server(small: Pybuild, machine: Machine, word: str, message: str) -> None:
    with start(small, machine, f"FROM busybox\nRUN {HANG}\n") as process:
        started(machine)
        os.kill(server(process, word), signal.SIGKILL)
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1, said.decode()
    assert re.search(message, said.decode()), said.decode()
    assert b"Traceback" not in said
    wait_until(lambda: not processes_with(machine.word), "the processes of the step to end")
    works(small, machine)


@pytest.mark.parametrize("how", ["SIGINT", "SIGINT twice", "SIGTERM", "SIGKILL"])
def test_end_of_a_build_whose_step_ignores_signals(small: Pybuild, machine: Machine, how: str) -> None:
    with start(small, machine, f"FROM busybox\nRUN {HANG}\n") as process:
        started(machine)
        number = signal.Signals[how.split(maxsplit=1)[0]]
        process.send_signal(number)
        if how.endswith("twice"):
            process.send_signal(number)
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode in {130, 143, -signal.SIGKILL, -signal.SIGINT}, said.decode()
    assert b"Traceback" not in said
    wait_until(lambda: not processes_with(machine.word), "the processes of the step to end")
    works(small, machine)


def test_many_steps_at_once(small: Pybuild, machine: Machine) -> None:
    stages = "".join(f"FROM busybox AS s{n}\nRUN echo {n} > /n{n}; sleep 1\n" for n in range(STEPS))
    copies = "".join(f"COPY --from=s{n} /n{n} /\n" for n in range(STEPS))
    ended = build(small, machine, f"{stages}FROM busybox\n{copies}", "--jobs", str(STEPS), "-t", "many")
    assert ended.status == 0, ended.said[-5000:]
    script = "cat /n* | sort -n | uniq | wc -l"
    assert small.run("run", "many", "sh", "-c", script).stdout.strip() == str(STEPS)
    # of any process that was waited for, the builds and their servers among them
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10 < MOST_MEMORY_BYTES


@pytest.mark.limits("counts what is used")
def test_use_is_told_everywhere(small: Pybuild, machine: Machine, tmp_path: Path) -> None:
    """Plain lines, events for programs and the metadata file have the same numbers."""
    file = tmp_path / "metadata.json"
    dockerfile = "FROM busybox\nRUN i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; (sleep 1 & sleep 1); true\n"
    plain = build(small, machine, dockerfile, "--metadata-file", str(file))
    (step,) = [step for step in json.loads(file.read_text())["pybuild.steps"] if step["usage"]]
    usage = step["usage"]
    assert usage["cpu_user_ns"] + usage["cpu_system_ns"] > 1_000_000
    assert usage["memory_peak_bytes"] > 100_000
    assert 3 <= usage["pids_peak"] <= 5
    assert {"read_bytes", "written_bytes"} <= usage.keys()
    assert re.search(rf"used [0-9.]+s cpu .* memory, {usage['pids_peak']} processes, .* read, .* written", plain.said)
    raw = build(small, machine, dockerfile, "--no-cache", "--progress", "rawjson")
    vertexes = [vertex for line in raw.said.splitlines() for vertex in json.loads(line).get("vertexes", [])]
    assert [vertex["usage"].keys() for vertex in vertexes if "usage" in vertex] == [usage.keys()]
    failed = build(small, machine, "FROM busybox\nRUN exit 3\n")
    assert len(re.findall(r"used:? [0-9.]+s cpu \(", failed.said)) == 2


@pytest.mark.limits("names the group")
def test_capabilities_and_parent_group(small: Pybuild, machine: Machine) -> None:
    """What ``--cap-add`` and ``--cap-drop`` say is in the step, and in its key; its group is where it is to be."""
    parent = f"pybuild-test-{os.getpid()}"
    dockerfile = "FROM busybox\nRUN grep -E 'CapBnd|CapEff' /proc/self/status\n"
    arguments = ("--cap-add", "cap_sys_ptrace", "--cap-drop", "MKNOD", "--cgroup-parent", parent)
    ended = build(small, machine, dockerfile, *arguments)
    mask = f"{(0xA80425FB | 1 << 19) & ~(1 << 27):016x}"
    assert ended.status == 0, ended.said
    assert ended.said.count(mask) == 2
    assert mask not in build(small, machine, dockerfile, *arguments).said, "the step is found in the cache"
    assert f"CapBnd:\t{0xA80425FB:016x}" in build(small, machine, dockerfile).said, "with others it is another step"
    refused = build(small, machine, dockerfile, "--cap-add", "EVERYTHING")
    assert (refused.status, "unknown capability 'EVERYTHING'" in refused.said) == (2, True), refused.said
    outside = build(small, machine, "FROM busybox\nRUN echo outside WORD\n", "--cgroup-parent", "../x")
    assert "cgroup parent '../x' leads outside" in outside.said
    with start(small, machine, f"FROM busybox\nRUN {HANG}\n", "--cgroup-parent", parent) as process:
        started(machine)
        assert [path for path in Path("/sys/fs/cgroup").rglob(f"{parent}/*") if path.is_dir()]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_SECONDS)
