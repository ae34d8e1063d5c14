"""A file on its way: it appears under its name only when it is whole."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import IO

from builder.errors import BuildError


@contextmanager
def destination(path: str) -> Generator[IO[bytes]]:
    """A stream that becomes the file at ``path`` when the block ends well, and leaves nothing when it does not.

    ``-`` is stdout. A link leads to the file that is replaced; what is no regular file is written to as it lies.
    """
    if path == "-":
        yield sys.stdout.buffer
        return
    target = os.path.realpath(path)
    partial = f"{target}.{os.getpid()}.partial"
    try:
        if _is_special(path):
            with open(path, "wb") as file:
                yield file
            return
        with open(partial, "xb") as file:
            yield file
        os.rename(partial, target)
    except OSError as error:
        raise BuildError(f"output {path!r}: {os.strerror(error.errno or 0).lower()}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def _is_special(path: str) -> bool:
    """Whether what lies at ``path`` is to be written to as it is: /dev/stdout, a device, a FIFO."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
