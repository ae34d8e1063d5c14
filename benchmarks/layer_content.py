"""What layers of benchmarks hold: a Debian root, programs, text that compresses well, and data that does not.

Equal on every run of one machine. Files are made where the benchmark works and go with it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import measure  # noqa: F401 - makes tests/harness importable

from harness.bases import unpacked

TEXT_BYTES = 160 << 20
NOISE_BYTES = 160 << 20
FILE_BYTES = 4 << 20


def fill(directory: Path, total_bytes: int) -> int:
    """The directory, absent before, holds about ``total_bytes`` in files; exactly how many."""
    subprocess.run(["cp", "-a", unpacked("debian"), directory], check=True)
    made = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    made += _text(directory / "var/log/made", TEXT_BYTES)
    made += _noise(directory / "var/lib/made", NOISE_BYTES)
    return made + _programs(directory / "opt/made", total_bytes - made)


def _text(directory: Path, size: int) -> int:
    """Lines of a log."""
    directory.mkdir(parents=True)
    number = made = 0
    while made < size:
        with open(directory / f"{number}.log", "w", encoding="ascii") as file:
            while file.tell() < FILE_BYTES:
                line = hashlib.md5(b"%d" % (made + file.tell()), usedforsecurity=False).hexdigest()
                file.write(f"2025-01-01T00:{number % 60:02}:00Z host service[{number}]: request {line[:12]} served\n")
            made += file.tell()
        number += 1
    return made


def _noise(directory: Path, size: int) -> int:
    """Bytes that no compressor makes less of."""
    directory.mkdir(parents=True)
    for number in range(size // FILE_BYTES):
        (directory / str(number)).write_bytes(hashlib.shake_128(b"%d" % number).digest(FILE_BYTES))
    return size


def _programs(directory: Path, size: int) -> int:
    """Programs, libraries and their data, as they are on this machine."""
    made = 0
    for top in ("/usr/lib", "/usr/share", "/usr/bin"):
        for path in sorted(Path(top).rglob("*")):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > size - made:
                continue
            target = directory / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
            made += os.path.getsize(target)
            if size - made < FILE_BYTES:
                return made
    return made
