"""The remote sources of one ADD: what decides its key, then the files themselves.

    resolve ──▶ Resolved: bodies of URLs are here, references of repositories are commits ──▶ parts of the key
    open    ──▶ Content: repositories are checked out besides                             ──▶ what is copied

Invariants: what `Resolved` names is what `Content` holds, whatever changes at the remote meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from builder.context import BuildContext
from builder.finished import Material
from builder.graph import Copy, GitSource
from builder.remote import git, http
from builder.remote.access import Access
from builder.remote.cancellation import Cancellation
from builder.remote.content import FILE_MODE, Content, FetchedFile, Tell
from builder.remote.git import GitCommit
from builder.remote.gitprogram import shown_remote, without_credentials
from builder.selection import SourceTree
from cache.framing import Value
from unionfs.namedtuple import NamedTuple


class Resolved(NamedTuple):
    """What the remote sources of ``operation`` are now. `close` it."""

    operation: Copy
    files: tuple[FetchedFile, ...]
    commits: tuple[GitCommit, ...]

    def key_parts(self) -> list[tuple[str, Value]]:
        """What of them decides the result: not the URL, not the name of a reference."""
        parts: list[tuple[str, Value]] = [
            (f"downloaded file {number}", (file.sha256, file.name, file.mtime, FILE_MODE))
            for number, file in enumerate(self.files)
        ]
        for number, (source, found) in enumerate(zip(self.operation.git, self.commits, strict=True)):
            # a repository that is kept tells where it is from
            kept = (without_credentials(source.remote), found.tag) if source.keep_git_dir else None
            parts.append((f"git commit {number}", found.commit))
            dated = (git.CHECKOUT,) if source.mtime == git.CHECKOUT else ()
            parts.append((f"git details {number}", (source.subdirectory, kept, source.submodules, *dated)))
        if self.operation.git:
            parts.append(("git excludes", self.operation.excludes))
        return parts

    def materials(self) -> list[Material]:
        """What they are, for who asks what a result was made of; no credentials are in it."""
        files = zip(self.operation.http, self.files, strict=True)
        commits = zip(self.operation.git, self.commits, strict=True)
        return [
            *(Material(without_credentials(source.url), "sha256", file.sha256) for source, file in files),
            *(Material(_git_uri(source), "sha1", found.commit) for source, found in commits),
        ]

    def close(self) -> None:
        """No file is open."""
        for file in self.files:
            os.close(file.descriptor)

    def open(self, root: str, access: Access, *, make: Callable[[], Path], cancel: Cancellation) -> Content:
        """The files; repositories are checked out in empty directories that ``make`` gives and its owner removes."""
        trees: list[SourceTree] = []
        for source, found in zip(self.operation.git, self.commits, strict=True):
            place = git.check_out(source, found, root, make(), access, cancel=cancel).directory
            # .dockerignore has no say in it
            trees.append(BuildContext(place, title=f"the git repository {shown_remote(source.remote)}"))
        return Content(self.files, tuple(trees))


def resolve(operation: Copy, root: str, access: Access, *, cancel: Cancellation, tell: Tell) -> Resolved:
    """The remote sources of ``operation`` as they are now. Blocks its thread.

    Raises FetchError, Interrupted.
    """
    with ExitStack() as undo:
        files: list[FetchedFile] = []
        for source in operation.http:
            file = http.fetch_file(source, root, access.for_file(source.url), cancel=cancel, tell=tell)
            undo.callback(os.close, file.descriptor)
            files.append(file)
        commits = [git.resolve_commit(source, access, cancel=cancel) for source in operation.git]
        undo.pop_all()
    return Resolved(operation, tuple(files), tuple(commits))


def _git_uri(source: GitSource) -> str:
    remote = without_credentials(source.remote)
    return f"{remote}#{source.ref}" if source.ref else remote
