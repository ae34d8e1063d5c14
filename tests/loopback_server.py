"""The union server's program with the loopback double in the union's place: one branch, passed on as it is."""

from __future__ import annotations

import os
import sys

from loopback import Loopback
from unionfs.mountspec import MountSpec
from unionfs.ops import Notifier
from unionfs.server import serve
from unionfs.types import Passthrough

_TESTS = os.path.dirname(os.path.abspath(__file__))
COMMAND = (
    sys.executable,
    *("-I", "-S", "-c"),
    "import sys; sys.path[:0] = sys.argv[1:3]; import loopback_server; loopback_server.main(sys.argv[3])",
    _TESTS,
    os.path.dirname(_TESTS),
)


def make(spec: MountSpec, notifier: Notifier) -> Loopback:
    return Loopback(spec.branches[0].path, pass_through=spec.options.passthrough is not Passthrough.OFF)


def main(fd: str) -> None:
    serve(int(fd), make)
