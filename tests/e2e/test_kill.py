"""kill -9 of pybuild at any instant: nothing runs on, the store is whole, the next build works and is right.

The instant is a line of the progress, drawn anew for each kill. More of them:
``KILLS=200 SEED=7 pytest -o faulthandler_timeout=0 tests/e2e/test_kill.py``.
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from harness.inside import validate
from harness.pybuild import Pybuild
from harness.waiting import processes_with, wait_until

KILLS = int(os.environ.get("KILLS", "4"))
SEED = int(os.environ.get("SEED", "1"))
DOCKERFILE = """\
FROM busybox AS a
ARG N
COPY big /big
RUN echo a$N >/a; cat /big >/copy
RUN for i in $(seq 50); do echo $i >/f$i; done
FROM busybox AS b
ARG N
RUN echo b$N >/b; (setsid sleep 1000{word} &)
FROM a
COPY --from=b /b /
RUN rm /f1 /f2; mv /a /moved
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "big").write_bytes(random.Random(SEED).randbytes(3 << 20))
    return directory


def start(pybuild: Pybuild, context: Path, number: int) -> subprocess.Popen[bytes]:
    """A build that no cache knows, whose progress is on stderr, one JSON object a line."""
    arguments = ("--progress", "rawjson", "--build-arg", f"N={number}", "-t", "image", context)
    return subprocess.Popen(
        pybuild.command("build", *arguments),
        env=pybuild.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_kill_at_any_instant_loses_nothing(small: Pybuild, context: Path) -> None:
    word = "000042"  # sleep takes it for a part of the number, and no other process has it
    (context / "Dockerfile").write_text(DOCKERFILE.replace("{word}", word))
    instants = random.Random(SEED)
    with start(small, context, -1) as whole:
        assert whole.stderr
        lines = len(whole.stderr.readlines())
    assert whole.returncode == 0
    for number in range(KILLS):
        with start(small, context, number) as process:
            assert process.stderr
            for _ in range(instants.randrange(lines)):
                process.stderr.readline()
            process.kill()
        wait_until(lambda: not processes_with(f"1000{word}"), "the processes of the steps to end")
        validate(small.root)
        small.run("build", "--build-arg", f"N={number}", "-t", "image", context)
        seen = small.run("run", "image", "sh", "-c", "cat /moved /b; cmp /big /copy; ls / | grep -c ^f")
        assert seen.stdout == f"a{number}\nb{number}\n48\n"
    # one in which something is run clears away what the killed ones left
    small.run("build", "--build-arg", f"N={KILLS}", context)
    assert os.listdir(small.root / "tmp") == os.listdir(small.root / "layers" / "active") == []
