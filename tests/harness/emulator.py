"""The machine runs programs for arm64, by an emulator that is registered for as long as a test session needs it.

binfmt_misc is one for the whole machine: what is registered here is taken back, and an emulator that was there before is
left alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.abilities import is_root_of_the_machine, refuse, required_markers

BINFMT = Path("/proc/sys/fs/binfmt_misc")
_NAME = "pybuild-test-arm64"
_MAGIC = "7f454c460201010000000000000000000200b700"
_MASK = "ffffffffffffff00fffffffffffffffffeffffff"


def _escaped(digits: str) -> str:
    return "".join(f"\\x{digits[at : at + 2]}" for at in range(0, len(digits), 2))


def _is_there() -> bool:
    """Whether something runs files that begin as those of arm64 do."""
    return any(
        f"magic {_MAGIC}" in entry.read_text(encoding="ascii")
        for entry in BINFMT.iterdir()
        if entry.name not in {"register", "status"}
    )


@pytest.fixture(scope="session")
def arm64_programs() -> Iterator[None]:
    """Programs for arm64 can be executed; on a machine of that kind they can anyway."""
    if os.uname().machine == "aarch64":
        yield
        return
    program = shutil.which("qemu-aarch64-static")
    if program is None:
        _give_up("qemu-aarch64-static is not installed (Debian package qemu-user-static)")
    registered = not _is_there()
    if registered and not is_root_of_the_machine():
        refuse("has the machine run programs for another")
    mounted = False
    if not (BINFMT / "register").exists():
        done = subprocess.run(
            ["mount", "-t", "binfmt_misc", "none", BINFMT], capture_output=True, text=True, check=False
        )
        if done.returncode:
            _give_up(f"binfmt_misc cannot be mounted: {done.stderr.strip()}")
        mounted = True
        registered = not _is_there()
    if registered:
        # F: the emulator is opened now, so that it needs not be in the roots of steps
        line = f":{_NAME}:M::{_escaped(_MAGIC)}:{_escaped(_MASK)}:{program}:F"
        (BINFMT / "register").write_text(line, encoding="ascii")
    try:
        yield
    finally:
        if registered:
            (BINFMT / _NAME).write_text("-1", encoding="ascii")
        if mounted:
            subprocess.run(["umount", BINFMT], check=True)


def _give_up(reason: str) -> None:
    if "e2e" in required_markers():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
