"""The pybuild command, killed at an instant of its life that can be named: before its n-th change of a file system.

What is on disk changes at system calls only, so these instants are all that differ; the interpreter announces most of
them (sys.addaudithook). What it does not announce (single writes, SQLite) is met by a kill after a time.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from harness.leaks import TOKEN
from harness.pybuild import Pybuild
from harness.waiting import wait_until

EVENTS = (
    "open", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.posix_spawn", "os.remove", "os.rename", "os.rmdir",
    "os.setxattr", "os.symlink", "os.truncate", "os.utime", "fcntl.flock", "socket.connect", "sqlite3.connect",
    "subprocess.Popen",
)  # fmt: skip
PRELUDE = f"""
import itertools, os, signal, sys
def watch(last, path, events={frozenset(EVENTS)}, imported=(".py", ".pyc", ".so")):
    count = itertools.count(1)
    counted = os.open(path, os.O_WRONLY | os.O_CREAT)
    def see(event, arguments):
        if event in events and not str(arguments[0] if arguments else "").endswith(imported):
            number = next(count)
            if number == last:
                os.kill(os.getpid(), signal.SIGKILL)
            os.pwrite(counted, b"%9d" % number, 0)
    sys.addaudithook(see)
"""
ENTRY = "from builder.cli.main import run; run()"


class Life(NamedTuple):
    """How long a command lives that nobody kills: in instants, and in seconds."""

    instants: int
    seconds: float


class Mortal(NamedTuple):
    """The command on one store, with files of its own beside it; ``word`` is in the environment of all it starts."""

    pybuild: Pybuild
    word: str

    def _start(self, words: tuple[str, ...], last: int) -> subprocess.Popen[bytes]:
        code = f"{PRELUDE}\nwatch({last}, {str(self._counted)!r})\n{ENTRY}"
        command = self.pybuild.command(*words)
        command[2] = code
        environment = self.pybuild.environment({TOKEN: f"{os.environ.get(TOKEN, '')}-{self.word}"})
        return subprocess.Popen(
            command,
            env=environment,
            cwd=self.pybuild.root.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def _counted(self) -> Path:
        return self.pybuild.root.parent / "counted"

    def live(self, *words: str) -> Life:
        """Runs the command to its good end."""
        begun = time.monotonic()
        with self._start(words, 0) as process:
            assert process.stderr
            said = process.stderr.read().decode()
        assert process.returncode == 0, said
        life = Life(int(self._counted.read_bytes()), time.monotonic() - begun)
        self._counted.unlink()
        return life

    def die(self, words: tuple[str, ...], life: Life, chance: random.Random) -> str:
        """Kills the command somewhere in its life and waits for what it started; where that was."""
        timed = chance.random() < 1 / 3
        last = 0 if timed else chance.randint(1, life.instants)
        after = chance.uniform(0, life.seconds)
        with self._start(words, last) as process:
            if timed:
                time.sleep(after)
                process.kill()
            assert process.stderr
            said = process.stderr.read().decode()
        assert process.returncode in {0, -signal.SIGKILL}, said
        wait_until(lambda: not self._remaining(), "what a killed command had started to end")
        self._counted.unlink(missing_ok=True)
        return f"after {after:.3f} s of {life.seconds:.3f}" if timed else f"before instant {last} of {life.instants}"

    def _remaining(self) -> list[str]:
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if f"-{self.word}\0".encode() in Path(f"/proc/{name}/environ").read_bytes():
                    found.append(name)
            except OSError:
                continue
        return found
