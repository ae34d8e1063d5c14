"""What can go wrong with a build, and how it is told.

    BuildError                      status 1    anything that ends a build; carries the place and hints
    ├── UsageError                  status 2    the command or the call asks for something that makes no sense
    ├── DockerfileError             status 1    the text is not in the language (builder.dockerfile)
    │   ├── UnknownStageError                   a stage or target that is not there, or not there yet
    │   └── ExpansionError                      a variable reference that is malformed or demands a value
    ├── UnsupportedError            status 1    valid language that this builder does not carry out
    ├── ContextError                status 1    the build context: a missing source, a path out of bounds, ignore rules
    ├── BaseImageError              status 1    a base image that cannot be had
    ├── FetchError                  status 1    a file, repository or context from elsewhere that cannot be had
    ├── LostLayerError              status 1    a result elsewhere that is not what was said; the build can do without
    ├── StepFailed                  RUN's own   the command of a step ended badly
    └── Interrupted                 status 130  the person said stop

Invariants: a message is one line, lower case, without full stop; an error knows its exit status; only ``render``
makes text for people of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from builder.dockerfile.source import Source, SourceRange

if TYPE_CHECKING:
    from builder.events import Usage


class BuildError(Exception):
    """A build cannot go on; ``source`` is the place in the Dockerfile, ``hints`` say what may help."""

    exit_status = 1
    findings: tuple[str, ...] = ()
    """Lines that people are shown before the message."""

    def __init__(
        self,
        message: str,
        *,
        source: SourceRange | None = None,
        hints: tuple[str, ...] = (),
        exit_status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.source = source
        self.hints = hints
        if exit_status is not None:
            self.exit_status = exit_status

    def at(self, source: SourceRange) -> BuildError:
        """Return the error itself, placed at ``source`` unless it has a place already."""
        if self.source is None:
            self.source = source
        return self


class UsageError(BuildError):
    """The command line or the arguments of a call make no sense."""

    exit_status = 2


class DockerfileError(BuildError):
    """The text is not a Dockerfile: syntax, an unknown instruction or flag, a value out of range."""


class UnknownStageError(DockerfileError):
    """A stage that is named does not exist, or is defined only later."""


class ExpansionError(DockerfileError):
    """A variable reference is malformed, or ``${name:?message}`` found no value."""


class UnsupportedError(BuildError):
    """The Dockerfile asks for something valid that this builder does not carry out."""


class ContextError(BuildError):
    """The build context does not hold what is asked for, or cannot be read."""


class BaseImageError(BuildError):
    """A base image does not exist or cannot be fetched."""


class FetchError(BuildError):
    """A file, repository or context from elsewhere cannot be had, or is not what it was said to be."""


class LostLayerError(BuildError):
    """The cache ``place`` promised a layer that cannot be had, or is another one; ``reason`` says how."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"cache {place!r}: {reason}")
        self.place = place
        self.reason = reason


class StepFailed(BuildError):  # noqa: N818 - named for what happened; the base class says that it is an error
    """The command of a step ended with ``status``, which is the exit status of the build as well.

    ``output`` holds the last lines the command wrote, ``used`` is what it cost, None where it did not run. ``kept`` is
    the directory in which the step can be walked into, empty where it can't.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        source: SourceRange | None = None,
        hints: tuple[str, ...] = (),
        output: tuple[str, ...] = (),
        used: Usage | None = None,
    ) -> None:
        super().__init__(message, source=source, hints=hints, exit_status=status)
        self.status = status
        self.output = output
        self.used = used
        self.kept = ""


class Interrupted(BuildError):  # noqa: N818 - named for what happened; the base class says that it is an error
    """The build was asked to stop."""

    exit_status = 130

    def __init__(self, message: str = "interrupted") -> None:
        super().__init__(message)


def describe_os_error(error: OSError) -> str:
    """Return the message of an error of the system: what it concerns, quoted, and why it was refused."""
    reason = os.strerror(error.errno).lower() if error.errno is not None else str(error)
    return reason if error.filename is None else f"{_shortened(os.fsdecode(error.filename))!r}: {reason}"


_LONGEST_PATH = 400


def _shortened(path: str) -> str:
    """``path`` as it is, or its beginning and its end where it is longer than anybody reads."""
    if len(path) <= _LONGEST_PATH:
        return path
    return f"{path[: _LONGEST_PATH // 2]}…{path[-_LONGEST_PATH // 4 :]}"


_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
ROOM_HINTS = ("pybuild cache prune --all makes room, --root DIR puts the store on another disk",)


def room_hints(error: BaseException | None) -> tuple[str, ...]:
    """What may help when a full disk is behind ``error``; nothing when it is not."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return ROOM_HINTS
        error = error.__cause__
    return ()


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in b"\t\n"}


def printable(text: str) -> str:
    """The text without characters that a terminal would obey: names in messages may come from anybody."""
    return text.translate(_CONTROLS)


def render(error: BuildError, sources: Mapping[str, Source]) -> str:
    """Return what a person is shown: findings, output kept, the excerpt, the message, the hints; no newline at the end.

    ``sources`` holds the texts by name; without the text of its place an error shows ``file:line`` before its message.
    """
    parts: list[str] = [printable(line) for line in error.findings]
    if isinstance(error, StepFailed) and error.output:
        parts.extend(["------", *(f" > {line}" for line in error.output), "------"])
    place = ""
    if error.source is not None:
        text = sources.get(error.source.file)
        excerpt = text.excerpt(error.source) if text is not None else ""
        if excerpt:
            parts.append(excerpt)
        else:
            place = f"{error.source}: "
    parts.append(f"error: {place}{printable(error.message)}")
    if isinstance(error, StepFailed) and error.used is not None:
        from builder.progress.usage import describe

        parts.append(f"used: {describe(error.used)}")
    parts.extend(f"hint: {printable(hint)}" for hint in error.hints)
    return "\n".join(parts)
