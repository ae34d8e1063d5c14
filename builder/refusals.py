"""What the system refuses while files are put in place, as errors for people: COPY, ADD and WORKDIR alike.

On the cached-build path. Invariant: an error says what was to be done, what was in the way and why, in one line.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from builder.errors import BuildError


@contextmanager
def explained(undone: str, owner: str, whole: str = "") -> Generator[None]:
    """What is refused inside of the block is a BuildError.

    ``undone`` says what can't be done, ``whole`` says it with all that took part, for reasons that lie elsewhere;
    ``owner`` is where the user and group come from that nobody may have.
    """
    # not on import: a cached build puts nothing in place
    from builder.identities import UnknownIdentityError
    from builder.trail import ReservedNameError

    try:
        yield
    except UnknownIdentityError as error:
        raise BuildError(f"{owner}: {error}") from error
    except NotADirectoryError as error:
        raise BuildError(f"{undone}: {error.filename!r} is not a directory") from error
    except IsADirectoryError as error:
        raise BuildError(f"{undone}: {error.filename!r} is a directory, not a file") from error
    except ReservedNameError as error:
        raise BuildError(f"{undone}: {error}") from error
    except OSError as error:
        about = f" ({failed_name(error)})" if error.filename else ""
        raise BuildError(f"{whole or undone}: {reason(error)}{about}") from error


def reason(error: OSError) -> str:
    """Why the system refused, in its words."""
    return (error.strerror or str(error)).lower()


def failed_name(error: OSError) -> str:
    """The file ``error`` is about, as far as it says."""
    name = error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes) else "a file"
