"""The contexts of a build: the main one, and those that ``--build-context`` gives a name.

    given as                                     becomes
    DIR                                          that directory
    -                                            stdin: an archive is unpacked; anything else is the Dockerfile itself
    FILE, http(s)://…                            an archive is unpacked; of a URL, anything else is the Dockerfile
    REPOSITORY[#REF[:SUBDIR]]                    a checkout; also git://, ssh://, user@host:path, file://, github.com/…
    docker-image://REF, oci-layout://DIR[:TAG]   an image            (with a name only)
    target:STAGE                                 a stage of the Dockerfile   (with a name only)

On the cached-build path: directories need nothing of `builder.remote`.  Invariants: what is fetched or unpacked lies in
directories of the caller's, who removes them, and no link in it leads to anything else of this machine; a directory of
the user's is only read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from builder.convert.named import DIRECTORY, IMAGE, LAYOUT, STAGE, NamedContext
from builder.errors import ContextError, UsageError
from builder.options import BuildOptions
from builder.paths import host_path_inside
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from builder.remote.cancellation import Cancellation

STDIN = "-"
_PREFIXES = {"docker-image://": IMAGE, "oci-layout://": LAYOUT, "target:": STAGE}
NO_NAMES: Mapping[str, NamedContext] = {}


class Text(NamedTuple):
    """A Dockerfile that is in no directory."""

    name: str
    content: bytes


class Contexts(NamedTuple):
    """Where files come from.

    ``main`` is a directory; ``dockerfile`` a path, ``-`` for stdin, or None for the usual names in ``main``; ``text``
    is the Dockerfile itself where it came as the context. ``origin`` is what main was fetched from, empty for a
    directory of the user's; builds of one origin are builds of the same thing. ``seconds`` is the time of what was
    fetched (of a commit, or Last-Modified), None where it has none of its own.
    """

    main: str
    dockerfile: str | None
    named: Mapping[str, NamedContext] = NO_NAMES
    text: Text | None = None
    origin: str = ""
    seconds: int | None = None


def open_contexts(
    options: BuildOptions, root: str, make: Callable[[], Path], cancel: Cancellation | None = None
) -> Contexts:
    """The contexts of ``options``; ``make`` gives a new, empty directory for each that must be fetched or unpacked.

    ``root`` is the store directory. May block for long where something is remote, until ``cancel`` is set.

    Raises:
        UsageError: a context makes no sense.
        ContextError, FetchError: it is not there or cannot be had.
        Interrupted: ``cancel`` was set.
    """
    named = {name: _open_named(name, value, options, root, make, cancel) for name, value in options.contexts.items()}
    if is_directory(options.context):
        return Contexts(options.context, options.dockerfile, named)
    from builder.remote import opening

    if options.context == STDIN and options.dockerfile == STDIN:
        raise UsageError("stdin is to be both the context and the Dockerfile", hints=("-f PATH names a file in it",))
    opened = opening.open_context(options.context, options, root, make, cancel)
    dockerfile = options.dockerfile
    if opened.text is not None and dockerfile not in {None, STDIN}:
        raise UsageError(f"context {opened.shown} is a Dockerfile, and there is -f {dockerfile} as well")
    if dockerfile not in {None, STDIN}:
        dockerfile = host_path_inside(opened.directory, dockerfile or "")
    return Contexts(opened.directory, dockerfile, named, opened.text, opened.shown, opened.seconds)


def are_local(options: BuildOptions) -> bool:
    """Whether all contexts of ``options`` are there as they are. Raises ContextError: one is nothing at all."""
    plain = [value for value in options.contexts.values() if not value.startswith(tuple(_PREFIXES))]
    return all(is_directory(context) for context in (options.context, *plain))


def is_directory(context: str) -> bool:
    """Whether ``context`` is a directory of this machine rather than something to be fetched or unpacked.

    Raises ContextError: it is nothing at all.
    """
    if os.path.isdir(context):
        return True
    if context == STDIN or os.path.lexists(context) or looks_remote(context):
        return False
    raise ContextError(f"context {context!r} does not exist")


def looks_remote(text: str) -> bool:
    """Whether ``text`` is written as a URL, as ``user@host:path``, or as ``github.com/…``."""
    return "://" in text or text.startswith("github.com/") or ("@" in text and ":" in text.partition("@")[2])


def _open_named(
    name: str, value: str, options: BuildOptions, root: str, make: Callable[[], Path], cancel: Cancellation | None
) -> NamedContext:
    for prefix, kind in _PREFIXES.items():
        if value.startswith(prefix):
            rest = value.removeprefix(prefix)
            if not rest:
                raise UsageError(f"build context {name}={value}: nothing follows {prefix}")
            return NamedContext(kind, os.path.abspath(rest) if kind == LAYOUT else rest)
    if value == STDIN:
        raise UsageError(f"build context {name!r} cannot be stdin")
    if is_directory(value):
        return NamedContext(DIRECTORY, value)
    from builder.remote import opening

    opened = opening.open_context(value, options, root, make, cancel)
    if opened.text is not None:
        raise ContextError(f"build context {name!r}: {opened.shown} is no archive")
    return NamedContext(DIRECTORY, opened.directory, fetched=True, seconds=opened.seconds)
