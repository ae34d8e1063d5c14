"""Why the kernel would not execute a program: it is for another machine, or no program.

Invariants: the root is only read; what cannot be told is not guessed. Source of the numbers: elf(5), binfmt_misc.rst.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

from layers.platform import host

_REFUSED = re.compile(r'error executing "(?P<path>[^"]+)": exec format error')
_HEADER_BYTES = 20
_MACHINES = {
    3: "386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "amd64",
    183: "arm64",
    243: "riscv64",
    258: "loong64",
}
_BINFMT = Path("/proc/sys/fs/binfmt_misc")

ReadHead = Callable[[str, int], bytes]
"""Path inside the root and a number of bytes to the beginning of that file."""


def explain_refusal(error: str, read_head: ReadHead) -> tuple[str, tuple[str, ...]]:
    """What follows the message ``error``, and hints, where it says that a program cannot be executed; else nothing."""
    match = _REFUSED.search(error)
    if match is None:
        return "", ()
    try:
        head = read_head(match["path"], _HEADER_BYTES)
    except OSError:
        return "", ()
    if head[:4] != b"\x7fELF":
        return "", (f"{match['path']} is no program: a script begins with #! and its interpreter",)
    machine = find_machine(head)
    here = host().architecture
    if machine is None or machine == here:
        return "", ()
    return f": it is for {machine}, this machine is {here} and has no emulator for it", (
        f"qemu-user-static and binfmt-support bring one (Debian packages); {_BINFMT} lists those that are registered",
    )


def find_machine(head: bytes) -> str | None:
    """The architecture, in Go's words, that an ELF file with this beginning is for; None for one not known here."""
    if len(head) < _HEADER_BYTES:
        return None
    order = ">" if head[5] == 2 else "<"  # noqa: PLR2004 - ELFDATA2MSB
    (number,) = struct.unpack_from(f"{order}H", head, 18)
    found = _MACHINES.get(number)
    little = order == "<"
    return {"ppc64": "ppc64le", "mips": "mipsle"}.get(found, found) if little and found is not None else found
