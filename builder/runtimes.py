"""The OCI runtime that ``--runtime`` names: found, and asked whether it can do what steps need.

Invariants: a runtime is known by what it says of itself, not by the name of its file; one that is missing or too old is
refused before anything is built.
"""

from __future__ import annotations

import os
import re

from builder.dockerfile.suggest import did_you_mean
from builder.errors import BuildError
from builder.sandbox.spec import Runtime

KNOWN = ("runc", "crun")
_FIRST = {"runc": (1, 0, 0), "crun": (0, 18)}
"""The first versions that answer a refused system call with a number of the caller's choice."""
_NAMED = re.compile(r"^(\S+) version v?(\d+(?:\.\d+)*)", re.MULTILINE)
_SPEC = re.compile(r"^spec: v?(\d+)\.(\d+)", re.MULTILINE)
_SECONDS = 20


def find_runtime(name: str) -> Runtime:
    """The runtime ``name``: a program in PATH, or a path.

    Raises:
        BuildError: there is none, it is none, or it is too old.
    """
    import shutil

    program = shutil.which(name)
    if program is None:
        if "/" in name:
            raise BuildError(f"runtime {name!r}: {'not executable' if os.path.exists(name) else 'no such file'}")
        there = ", ".join(known for known in KNOWN if shutil.which(known)) or "none that is known"
        near = did_you_mean(name, KNOWN)
        raise BuildError(f"runtime {name!r} is not in PATH; installed: {there}", hints=() if name in KNOWN else near)
    program = os.path.abspath(program)
    said = _ask(program)
    named, spec = _NAMED.search(said), _SPEC.search(said)
    if named is None or spec is None:
        first = said.strip().partition("\n")[0][:80]
        raise BuildError(f"runtime {program!r} is no OCI runtime: --version says {first!r}")
    kind, version = named[1], tuple(map(int, named[2].split(".")))
    least = _FIRST.get(kind, ())
    if version < least or int(spec[1]) < 1:
        needed = f"{kind} {'.'.join(map(str, least))}" if least else "one of runtime-spec 1.0"
        raise BuildError(f"runtime {program!r} is {kind} {named[2]}, too old: it takes {needed} or newer")
    return Runtime(program, joins_groups=kind == "crun")


def _ask(program: str) -> str:
    """What the program says of its version."""
    import subprocess

    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else "it does not answer"
        raise BuildError(f"runtime {program!r} can't be asked for its version: {reason}") from error
    return done.stdout
