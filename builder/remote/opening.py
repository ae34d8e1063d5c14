"""A context that is no directory becomes one: archives are unpacked, URLs fetched, repositories checked out.

Invariants: files in an archive belong to root whatever it says, as those of every context; a member never leaves the
directory; nothing that was opened stays open; a cancellation ends all of it soon.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from builder.contexts import STDIN, Text, looks_remote
from builder.convert.remote import UNNAMED, find_repository
from builder.errors import ContextError, DockerfileError, UsageError
from builder.graph import GitSource, HttpSource
from builder.options import BuildOptions
from builder.remote import git, http
from builder.remote.access import Access
from builder.remote.cancellation import Cancellation
from builder.remote.gitprogram import shown_remote
from builder.steps.extract import Extraction, is_archive
from builder.switches import read_switch
from builder.upper import Upper
from layers.errors import ArchiveError
from unionfs.namedtuple import NamedTuple

_KEEP_GIT = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
_LARGEST_TEXT_BYTES = 16 << 20
_ROOT = (0, 0)
_POLL_MILLISECONDS = 100
_CHUNK_BYTES = 1 << 20


class Opened(NamedTuple):
    """A context: ``directory`` holds its files, or ``text`` is the Dockerfile it consists of. ``shown`` names it.

    ``seconds`` is its time: of the commit, or when the server says that the file was modified; None without either.
    """

    directory: str
    shown: str
    text: Text | None = None
    seconds: int | None = None


def open_context(
    context: str, options: BuildOptions, root: str, make: Callable[[], Path], cancel: Cancellation | None = None
) -> Opened:
    """What ``context`` (``-``, a file, a URL, a repository) holds, in a directory that ``make`` gives.

    Raises ContextError, FetchError, UsageError; Interrupted when ``cancel`` is set.
    """
    cancel = cancel or Cancellation()
    repository = _repository(context)
    if repository is not None:
        return _check_out(repository, context, options, root, make, cancel)
    if context == STDIN:
        with tempfile.TemporaryFile(dir=root) as file:
            _copy_stdin(file, cancel)
            return _open_file(file, STDIN, make(), cancel)
    if looks_remote(context):
        return _download(context, options, root, make, cancel)
    try:
        with open(context, "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                opened = _open_file(file, os.path.abspath(context), make(), cancel)
                if opened.text is None:
                    return opened
    except OSError as error:
        raise ContextError(f"context {context!r}: {(error.strerror or '').lower()}") from error
    raise ContextError(
        f"context {context!r} is neither a directory nor an archive",
        hints=("the context is the directory with the files to copy; -f PATH names the Dockerfile",),
    )


def _copy_stdin(file: IO[bytes], cancel: Cancellation) -> None:
    """All that comes on stdin is in ``file``. A thread that waits in a read could not be told to stop."""
    descriptor = sys.stdin.fileno()
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    while True:
        cancel.check()
        if readable.poll(_POLL_MILLISECONDS):
            chunk = os.read(descriptor, _CHUNK_BYTES)
            if not chunk:
                return
            file.write(chunk)


def _repository(context: str) -> GitSource | None:
    try:
        return None if context == STDIN or os.path.lexists(context) else find_repository(context)
    except DockerfileError as error:
        raise UsageError(f"context {error.message}") from error


def _check_out(
    source: GitSource,
    context: str,
    options: BuildOptions,
    root: str,
    make: Callable[[], Path],
    cancel: Cancellation,
) -> Opened:
    agents = dict(options.agents)
    if "SSH_AUTH_SOCK" in os.environ:
        # the user names the repository himself: his agent may be asked
        agents.setdefault("default", os.environ["SSH_AUTH_SOCK"])
    access = Access(agents.get("default"), options.secrets, local=True)
    keep = source.keep_git_dir or read_switch(options.build_args.get(_KEEP_GIT) or "") or False
    source = source._replace(keep_git_dir=keep)
    found = git.resolve_commit(source, access, cancel=cancel)
    place = git.check_out(source, found, root, make(), access, cancel=cancel)
    return Opened(str(place.directory), shown_remote(context), None, place.seconds)


def _download(context: str, options: BuildOptions, root: str, make: Callable[[], Path], cancel: Cancellation) -> Opened:
    scheme = context.partition("://")[0]
    if scheme not in {"http", "https"}:
        raise UsageError(f"context {context!r} is a URL of an unknown kind", hints=("known are http, https and git",))
    authorization = Access(secrets=options.secrets).for_file(context)
    file = http.fetch_file(HttpSource(context, UNNAMED, ""), root, authorization, cancel=cancel)
    with open(file.descriptor, "rb") as body:
        return _open_file(body, http.shown(context), make(), cancel)._replace(seconds=file.mtime or None)


def _open_file(file: IO[bytes], shown: str, directory: Path, cancel: Cancellation) -> Opened:
    """The archive ``file``, in ``directory``; or what it says, when it is none."""
    file.seek(0)
    if is_archive(file):
        file.seek(0)
        try:
            with Upper(directory, None) as layer:
                Extraction(layer, b"", _ROOT, cancel.check).extract(file)
        except (ArchiveError, OSError) as error:
            raise ContextError(f"context {shown} cannot be unpacked: {error}") from error
        return Opened(str(directory), shown)
    file.seek(0)
    content = file.read(_LARGEST_TEXT_BYTES + 1)
    if len(content) > _LARGEST_TEXT_BYTES or b"\0" in content:
        raise ContextError(f"context {shown} is neither an archive nor a Dockerfile")
    if not content.strip():
        raise ContextError(f"context {shown} is empty")
    return Opened(str(directory), shown, Text(shown, content))
