"""pybuild as a plain user runs it: as nobody, in a directory of its own, with the subordinate ids that a test gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness.abilities import AS_NOBODY, NOBODY, plain_interpreter
from harness.portable import place_packages
from harness.pybuild import ENTRY_POINT

SUBORDINATE = "nobody:200000:65536\n"
# the device for everybody and the ids of nobody, in a mount namespace of their own
PREPARE = """set -e
mknod "$1/fuse" c 10 229; chmod 666 "$1/fuse"; mount --bind "$1/fuse" /dev/fuse
mount --bind "$1/subids" /etc/subuid; mount --bind "$1/subids" /etc/subgid
shift; exec "$@"
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of nobody, with what it needs to run pybuild."""
    place = Path(tempfile.mkdtemp(prefix="pyb-user-", dir="/tmp"))
    try:
        place.chmod(0o755)
        place_packages(place)
        (place / "home").mkdir()
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", place], check=True)
        yield place
    finally:
        shutil.rmtree(place)


def user(place: Path, subordinate: str) -> Run:
    """Runs pybuild as nobody with these lines of /etc/subuid; ``status`` is what it must end with."""
    run_program = program_of_user(place, subordinate)

    def run(*arguments: str, status: int = 0, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        done = run_program(plain_interpreter(), "-c", ENTRY_POINT, *arguments, before=before)
        assert done.returncode == status, done.stderr
        return done

    return run


def program_of_user(place: Path, subordinate: str) -> Run:
    """As `user`, for any program, whatever it ends with; ``cwd`` is where, ``variables`` are in its environment."""
    (place / "subids").write_text(subordinate)
    environment = (f"HOME={place}/home", f"PYTHONPATH={place}/lib", f"PATH={os.defpath}", "PYTHONDONTWRITEBYTECODE=1")

    def run(
        *words: str, before: Sequence[str] = (), cwd: str | Path = "/", variables: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        program = [*before, *AS_NOBODY, "env", "-i", *environment, *variables, *words]
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", PREPARE, "sh", place, *program]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL)
        (place / "fuse").unlink()
        return done

    return run


def write(place: Path, dockerfile: str) -> str:
    context = place / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    (context / "file").write_text("content\n")
    return str(context)
