"""Which descriptors a process that was forked off the server keeps."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence


def close_all_but(kept: Sequence[int]) -> None:
    """This process has stdio and ``kept`` of the server: nothing of other steps, no way to pybuild."""
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
