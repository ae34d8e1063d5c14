"""``pybuild run``: terminal, pipes, signals, mounts, environment and users, as people know them from docker."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from harness.bases import made
from harness.pybuild import Pybuild
from harness.terminal import Terminal
from harness.waiting import DEADLINE_SECONDS, processes_with, wait_until


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Pybuild:
    pybuild = Pybuild(tmp_path_factory.mktemp("run") / "store")
    pybuild.run("load", "-i", made("busybox"))
    return pybuild


@pytest.fixture
def word() -> str:
    """A word that no other process has in its command line."""
    return f"marker{uuid.uuid4().hex}"


def start(store: Pybuild, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        store.command("run", *arguments),
        env=store.environment(),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def active(store: Pybuild) -> list[str]:
    return os.listdir(store.root / "layers" / "active")


def test_shell_on_a_terminal(store: Pybuild) -> None:
    command = store.command("run", "-it", "busybox", "sh")
    with Terminal(command, store.environment({"TERM": "vt220"}), rows=33, columns=77) as terminal:
        terminal.read_until(b"# ")
        assert not terminal.has_its_settings_back()
        terminal.type(b"stty size; tty; echo $TERM is te''rm\n")
        shown = terminal.read_until(b"is term")
        assert b"33 77" in shown
        assert b"/dev/pts/0" in shown
        assert b"vt220" in shown
        terminal.resize(20, 60)
        terminal.type(b"while ! stty size | grep '20 60'; do sleep 0.05; done; echo resi''zed\n")
        terminal.read_until(b"resized")
        # Ctrl-C is a key of the inner terminal: it ends what runs there, and the shell goes on
        terminal.type(b"sh -c 'echo slee\"\"ping; exec sleep 1000'\n")
        terminal.read_until(b"sleeping")
        terminal.type(b"\x03")
        terminal.type(b"echo $? and o''n\n")
        assert b"130 and on" in terminal.read_until(b"and on")
        terminal.type(b"exit 9\n")
        assert terminal.status() == 9
        assert terminal.has_its_settings_back()
    assert active(store) == []


def test_terminal_has_its_settings_back_after_a_failure(store: Pybuild) -> None:
    with Terminal(store.command("run", "-it", "busybox", "no-such-program"), store.environment()) as terminal:
        terminal.read_until(b'error executing "no-such-program": no such file or directory')
        assert terminal.status() == 127
        assert terminal.has_its_settings_back()


def test_without_a_terminal_the_command_has_none(store: Pybuild) -> None:
    script = "for n in 0 1 2; do test -t $n && echo $n is a terminal; done; readlink /proc/self/fd/1"
    with Terminal(store.command("run", "-i", "busybox", "sh", "-c", script), store.environment()) as terminal:
        assert terminal.status() == 0
        assert terminal.read_until(b"\n").startswith(b"pipe:")


def test_streams_of_any_size_go_both_ways(store: Pybuild) -> None:
    data = os.urandom(1 << 20) * 8
    with start(store, "-i", "--network", "none", "busybox", "cat", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(data, DEADLINE_SECONDS)
    assert (process.returncode, err, out == data) == (0, b"", True)
    done = store.run("run", "--network", "none", "busybox", "sh", "-c", "cat; echo out; echo err >&2; exit 0")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_command_that_leaves_its_stdin_alone(store: Pybuild) -> None:
    with start(store, "-i", "busybox", "true", stdin=subprocess.PIPE) as process:
        process.communicate(bytes(1 << 20), DEADLINE_SECONDS)
    assert process.returncode == 0
    # one that stays open and says nothing holds nobody up
    read_end, write_end = os.pipe()
    with start(store, "-i", "busybox", "echo", "done", stdin=read_end) as process:
        assert process.communicate(timeout=DEADLINE_SECONDS)[0] == b"done\n"
    os.close(read_end)
    os.close(write_end)


def test_nobody_reads_the_output_any_more(store: Pybuild) -> None:
    with start(store, "busybox", "yes") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(DEADLINE_SECONDS) == 128 + signal.SIGPIPE


def test_command_has_no_descriptor_of_the_users(store: Pybuild, tmp_path: Path) -> None:
    """A directory as stdin would be a way out of the root, a file opened again a way to read what lies before."""
    (tmp_path / "log").write_text("earlier\n")
    with open(tmp_path / "log", "ab") as log:
        script = "readlink /proc/self/fd/1; : > /proc/self/fd/1; echo later"
        command = store.command("run", "busybox", "sh", "-c", script)
        subprocess.run(command, env=store.environment(), stdin=subprocess.DEVNULL, stdout=log, check=True)
    first, second, third = (tmp_path / "log").read_text().splitlines()
    assert (first, second[:5], third) == ("earlier", "pipe:", "later")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT])
def test_signals_are_the_commands(store: Pybuild, word: str, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 7' {name}; echo ready; while true; do sleep 0.05; done"
    with start(store, "busybox", "sh", "-c", script, word) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.read() == f"got {name}\n".encode()
        assert process.wait(DEADLINE_SECONDS) == 7
    assert active(store) == []


STUBBORN = "trap '' INT TERM HUP; echo ready; while true; do sleep 0.05; done"


def test_third_signal_kills(store: Pybuild, word: str) -> None:
    with start(store, "busybox", "sh", "-c", STUBBORN, word) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        # three of a kind might become one on the way (signal(7))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            assert process.poll() is None
            os.killpg(process.pid, number)
        assert process.wait(DEADLINE_SECONDS) == 137
    assert processes_with(word) == []
    assert active(store) == []


def test_signals_that_are_not_handed_on_end_it(store: Pybuild, word: str) -> None:
    with start(store, "--sig-proxy=false", "busybox", "sh", "-c", STUBBORN, word) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 130
    assert processes_with(word) == []
    assert active(store) == []


def test_kill_leaves_nothing_but_what_the_next_start_removes(store: Pybuild, word: str) -> None:
    with start(store, "busybox", "sh", "-c", f"touch /x; setsid sh -c '{STUBBORN}' {word} & {STUBBORN}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == process.stdout.readline() == b"ready\n"
        process.kill()
    wait_until(lambda: not processes_with(word), "the command to end")
    assert len(active(store)) == 1
    store.run("run", "busybox", "true")
    assert active(store) == []


def test_directories_and_files_of_this_machine(store: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("content\n")
    (tmp_path / "data" / "link").symlink_to("file")
    mounts = [
        *("-v", f"{tmp_path}/data:/rw"),
        *("--volume", f"{tmp_path}/data:/deep/ro:ro,Z"),
        *("-v", f"{tmp_path}/data/link:/single/f:ro"),
        *("--mount", f"type=bind,src={tmp_path}/data,dst=/mounted,readonly"),
        *("--tmpfs", "/memory:size=1m", "--read-only"),
    ]
    script = (
        "cat /rw/file /deep/ro/file /single/f /mounted/file; echo new > /rw/new; echo x > /memory/x; stat -f -c %T /memory;"
        " for d in /deep/ro /mounted /; do touch $d/x 2>/dev/null && echo $d can be written; done; true"
    )
    done = store.run("run", "--network", "none", *mounts, "busybox", "sh", "-c", script)
    assert done.stdout.splitlines() == [*["content"] * 4, "tmpfs"]
    assert (
        done.stderr == f"WARN: -v {tmp_path}/data:/deep/ro:ro,Z: z and Z have no effect, files get no SELinux labels\n"
    )
    assert (tmp_path / "data" / "new").read_text() == "new\n"
    relative = [*store.command("run", "-v", "./data:/d", "-v", "data/file:/f", "busybox", "cat", "/d/file", "/f")]
    assert subprocess.check_output(relative, env=store.environment(), cwd=tmp_path) == b"content\ncontent\n"


@pytest.mark.ids("runs as another user")
def test_environment_directory_and_user(store: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("# none\nA=from file\nB=file\nTAKEN\nABSENT\n")
    done = store.run(
        *(
            "run",
            "--env-file",
            str(tmp_path / "vars"),
            "-e",
            "B=option",
            "-e",
            "OWN",
            "-u",
            "1000:7",
            "-w",
            "/made/here",
        ),
        *("--hostname", "box", "--add-host", "db:10.0.0.7", "busybox", "sh", "-c"),
        'echo "$A|$B|$TAKEN|${ABSENT-none}|$OWN|$HOME|$HOSTNAME|$(hostname)"; id -u; id -g; pwd; stat -c %u:%g .;'
        " grep -c db /etc/hosts; echo $PATH",
        env={"TAKEN": "t", "OWN": "mine"},
    )
    assert done.stdout.splitlines() == [
        "from file|option|t|none|mine|/|box|box",
        "1000",
        "7",
        "/made/here",
        "1000:7",
        "1",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]


def test_entrypoint_and_command(store: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM busybox\nENTRYPOINT ["echo", "entry"]\nCMD ["cmd"]\n')
    store.run("build", "-t", "entry", tmp_path)
    for words, shown in (
        (["entry"], "entry cmd"),
        (["entry", "given"], "entry given"),
        (["--entrypoint", "printf", "entry", "%s-", "a", "b"], "a-b-"),
        (["--entrypoint", "", "entry", "echo", "-n", "bare"], "bare"),
    ):
        assert store.run("run", *words).stdout.strip() == shown


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--entrypoint", "", "busybox"], 2, '--entrypoint "" leaves no program, and no command was given'),
        (["-u", "nobody-here", "busybox"], 2, "-u nobody-here: user 'nobody-here' is not in /etc/passwd of the image"),
        (["busybox", "missing"], 127, 'command could not be run: error executing "missing": no such file or directory'),
        (["busybox", "/etc"], 126, 'command could not be run: error executing "/etc": permission denied'),
        (["-w", "/etc/passwd", "busybox", "true"], 125, 'error entering "/etc/passwd": ENOTDIR (not a directory)'),
        (["-w", "here", "busybox", "true"], 2, "-w: expected an absolute path, got 'here'"),
        (["-it", "busybox"], 2, "-t: stdin is no terminal"),
        (["--cap-add", "NONSENSE", "busybox", "true"], 2, "unknown capability 'NONSENSE'"),
    ],
)
def test_mistakes_are_told(store: Pybuild, words: list[str], status: int, message: str) -> None:
    done = store.attempt("run", *words)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert active(store) == []


def test_privileges(store: Pybuild) -> None:
    def mask(*options: str) -> int:
        return int(store.run("run", *options, "busybox", "grep", "CapEff", "/proc/self/status").stdout.split()[1], 16)

    usual = mask()
    assert mask("--cap-drop", "ALL", "--cap-add", "CHOWN") & ~usual == 0
    assert mask("--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD") == (usual | 1 << 12) & ~(1 << 27)
    assert mask("--privileged") & usual == usual
    assert mask("--privileged") & 1 << 21


def test_union_server_that_is_killed_ends_the_command(store: Pybuild) -> None:
    with start(store, "busybox", "sh", "-c", "echo ready; while true; do :; done") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (server,) = (pid for pid in children if b"unionfs" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(int(server), signal.SIGKILL)
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert b"error: the command lost its root: the union server was killed by signal 9" in said
    assert active(store) == []
