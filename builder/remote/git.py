"""Git repositories: a reference becomes a commit, a commit becomes a directory of files.

::

    remote ── ls-remote ──▶ commit     decides the key of the step; a commit in full needs no question
       └───── fetch ──────▶ <root>/git/<SHA-256 of the remote>    bare, fetched commits as refs/pybuild/<commit>
                                └── checkout ──▶ the caller's directory, submodules included

Invariants: a commit is in the bare repository with all its files once it has its reference; it gives the same files
everywhere, with mode 0644 or 0755 and, unless the source says otherwise, the time of the commit.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder import paths
from builder.errors import FetchError
from builder.graph import GitSource
from builder.remote.access import Access
from builder.remote.cancellation import Cancellation
from builder.remote.gitprogram import GitProgram, scheme_of, shown_remote, without_credentials
from unionfs.namedtuple import NamedTuple
from unionfs.removal import remove_tree

DIRECTORY = "git"
CHECKOUT = "checkout"
"""The ``mtime`` with which files keep the time at which they were checked out."""
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_KEPT = "refs/pybuild/"


class GitCommit(NamedTuple):
    """A commit of a remote; ``tag`` is the full name of the tag that was asked for, empty for anything else."""

    commit: str
    tag: str = ""


class Checkout(NamedTuple):
    """Files of a commit, and when that was made, in seconds."""

    directory: Path
    seconds: int


def resolve_commit(source: GitSource, access: Access, *, cancel: Cancellation) -> GitCommit:
    """The commit that ``source`` means now.

    Raises:
        FetchError: there is no such reference, no such repository, no ``git``, or the commit is not the one that
            ``source.checksum`` begins.
        Interrupted: ``cancel`` was set.
    """
    remote = _checked(source, access)
    if _COMMIT.fullmatch(source.ref):
        found = GitCommit(source.ref)
    elif source.fetch_by_commit:
        # what the reference leads to by now does not matter: the server is not asked
        if not _COMMIT.fullmatch(source.checksum):
            message = f"git repository {shown_remote(remote)}: fetch-by-commit needs a checksum with all digits"
            raise FetchError(message, hints=("?checksum=COMMIT names the commit by its 40 digits",))
        found = GitCommit(source.checksum)
    else:
        wanted = source.ref or "HEAD"
        listing = GitProgram(access, remote, cancel).run("ls-remote", "--", remote, wanted, f"{wanted}^{{}}")
        found = plan_commit(listing, wanted)
        if not found.commit:
            hints = ("a commit is named by all of its 40 digits",) if re.fullmatch(r"[0-9a-f]{4,39}", wanted) else ()
            what = f"has no branch or tag {source.ref!r}" if source.ref else "is empty"
            raise FetchError(f"git repository {shown_remote(remote)} {what}", hints=hints)
    if source.checksum and not found.commit.startswith(source.checksum):
        message = f"git repository {shown_remote(remote)}: {source.ref or 'HEAD'} is commit {found.commit}"
        raise FetchError(f"{message}, expected {source.checksum}")
    return found


def plan_commit(listing: str, wanted: str) -> GitCommit:
    """The commit for ``wanted`` in what ``git ls-remote`` printed; empty when there is none.

    A name in full wins, then branches, then tags (as other builders have it); a tag's commit is what it leads to.
    """
    refs: dict[str, str] = {}
    for line in listing.splitlines():
        digest, _, name = line.partition("\t")
        refs[name] = digest
    for name in (wanted, f"refs/heads/{wanted}", f"refs/tags/{wanted}", f"refs/{wanted}"):
        if name in refs:
            return GitCommit(refs.get(f"{name}^{{}}", refs[name]), name if name.startswith("refs/tags/") else "")
    return GitCommit("")


def check_out(
    source: GitSource, found: GitCommit, root: str, directory: Path, access: Access, *, cancel: Cancellation
) -> Checkout:
    """The files of the commit, in ``directory`` (empty at first) or in the subdirectory of it that ``source`` names.

    Raises FetchError, Interrupted: see `resolve_commit`.
    """
    remote = _checked(source, access)
    git = GitProgram(access, remote, cancel)
    with _fetched(git, root, remote, found, cancel) as bare:
        _populate(git, bare, remote, directory, source, found)
    seconds = _seconds(git, directory, "HEAD")
    if not source.keep_git_dir:
        _drop_git(directory)
    _even(directory, None if source.mtime == CHECKOUT else seconds)
    return Checkout(_subdirectory(directory, source), seconds)


def find_seconds(source: GitSource, root: str, access: Access, *, cancel: Cancellation) -> int:
    """When the commit that ``source`` means now was made, in seconds. Raises FetchError, Interrupted."""
    remote = _checked(source, access)
    found = resolve_commit(source, access, cancel=cancel)
    git = GitProgram(access, remote, cancel)
    with _fetched(git, root, remote, found, cancel) as bare:
        return _seconds(git, bare, found.commit)


def _checked(source: GitSource, access: Access) -> str:
    """The remote, when it may be asked."""
    remote = source.remote
    scheme = scheme_of(remote)
    if source.ref.startswith("-") or remote.startswith("-"):
        raise FetchError(f"git repository {shown_remote(remote)}: the reference {source.ref!r} is none")
    if scheme == "file" and not access.local:
        raise FetchError(f"git repository {remote}: a Dockerfile cannot name files of this machine")
    if scheme == "ssh" and access.agent is None:
        message = f"git repository {shown_remote(remote)} is reached by ssh, and the build was given no agent"
        raise FetchError(message, hints=("--ssh default gives it yours",))
    return remote


@contextmanager
def _fetched(git: GitProgram, root: str, remote: str, found: GitCommit, cancel: Cancellation) -> Generator[Path]:
    """The bare repository of ``remote`` that holds the commit, for this build alone until the block is left."""
    name = hashlib.sha256(remote.encode("utf-8", "surrogateescape")).hexdigest()
    bare = Path(root) / DIRECTORY / name
    with cancel.locked(root, f"git-{name}"):
        _fetch(git, bare, remote, found)
        yield bare


def _seconds(git: GitProgram, directory: Path, commit: str) -> int:
    return int(git.run("show", "--no-patch", "--format=%ct", commit, directory=directory).strip())


def _fetch(git: GitProgram, bare: Path, remote: str, found: GitCommit) -> None:
    """The commit with all its files is in the bare repository, the tag as well.

    Servers differ in what they let go: a single commit is asked for first, then the reference, then everything.
    """
    kept = _KEPT + found.commit
    if not (bare / "HEAD").exists():
        shutil.rmtree(bare, ignore_errors=True)
        bare.mkdir(mode=0o700, parents=True)
        git.run("init", "--quiet", "--bare", "--template=", str(bare))
    os.utime(bare)
    if git.succeeds("rev-parse", "--quiet", "--verify", kept, directory=bare) and (
        not found.tag or git.succeeds("rev-parse", "--quiet", "--verify", found.tag, directory=bare)
    ):
        return
    attempts: list[Sequence[str]] = [
        ("--depth=1", "--no-tags", "--", remote, found.commit),
        ("--no-tags", "--", remote, "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"),
    ]
    if found.tag:
        attempts.insert(0, ("--depth=1", "--no-tags", "--", remote, f"+{found.tag}:{found.tag}"))
    for last, attempt in enumerate(attempts, start=1 - len(attempts)):
        try:
            git.run("fetch", "--quiet", "--force", "--no-write-fetch-head", *attempt, directory=bare)
        except FetchError:
            if not last:
                raise
            continue
        if git.succeeds("update-ref", kept, f"{found.commit}^{{commit}}", directory=bare):
            return
    raise FetchError(f"git repository {shown_remote(remote)} does not hold the commit {found.commit}")


def _populate(git: GitProgram, bare: Path, remote: str, directory: Path, source: GitSource, found: GitCommit) -> None:
    """``directory`` is a repository with the commit checked out, as one that was cloned from the remote."""
    git.run("init", "--quiet", "--template=", str(directory))
    wanted = [_KEPT + found.commit, *((f"+{found.tag}:{found.tag}",) if found.tag else ())]
    fetching = ("fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head")
    git.run(*fetching, bare.as_uri(), *wanted, directory=directory, local=True)
    git.run("remote", "add", "origin", without_credentials(remote), directory=directory)
    git.run("checkout", "--quiet", "--force", "--detach", found.commit, directory=directory)
    if source.submodules and (directory / ".gitmodules").is_file():
        git.run("submodule", "--quiet", "update", "--init", "--recursive", directory=directory)


def _drop_git(directory: Path) -> None:
    """What git keeps for itself is gone, in submodules as well."""
    remove_tree(directory / ".git")
    for place, names, files in os.walk(directory):
        if ".git" in files:
            os.unlink(os.path.join(place, ".git"))
        if ".git" in names:
            remove_tree(os.path.join(place, ".git"))
            names.remove(".git")


def _even(directory: Path, seconds: int | None) -> None:
    """Modes and times are those of the commit, not of the moment or of this machine's umask; None leaves the times."""
    dated = None if seconds is None else (seconds, seconds)
    for place, names, files in os.walk(directory, topdown=False):
        for name in files:
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                os.chmod(path, 0o755 if mode & stat.S_IXUSR else 0o644)
        for name in (*files, *names) if dated else ():
            os.utime(os.path.join(place, name), dated, follow_symlinks=False)
        os.chmod(place, 0o755)  # noqa: S103 - the mode of every directory in a repository
    if dated:
        os.utime(directory, dated)


def _subdirectory(directory: Path, source: GitSource) -> Path:
    """The directory ``source`` names inside of ``directory``, links followed inside of it."""
    place = Path(paths.host_path_inside(str(directory), source.subdirectory))
    if not place.is_dir():
        raise FetchError(f"git repository {shown_remote(source.remote)} has no directory {source.subdirectory!r}")
    return place
