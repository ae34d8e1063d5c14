"""Git repositories: a reference becomes a commit, a commit becomes a directory of files.

::

    remote ── ls-remote ──▶ commit     decides the key of the step; a commit in full needs no question
       └───── fetch ──────▶ <root>/git/<SHA-256 of the remote>    bare, fetched commits as refs/pybuild/<commit>
                                └── checkout ──▶ the caller's directory, submodules included

Invariants: a commit is in the bare repository with all its files once it has its reference; what the user's own
configuration says of line ends, filters or hooks has no say, so that a commit gives the same files everywhere; files
have mode 0644 or 0755 and the time of the commit; nothing is asked on a terminal; only the protocols of the remote's
kind are spoken, whatever submodules say.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from builder import paths
from builder.errors import FetchError
from builder.graph import GitSource
from builder.remote.cancellation import Cancellation
from builder.remote.http import shown

DIRECTORY = "git"
CHECKOUT = "checkout"
"""The ``mtime`` with which files keep the time at which they were checked out."""
TOKEN_SECRET = "GIT_AUTH_TOKEN"  # noqa: S105 - the name under which a build is given one
HEADER_SECRET = "GIT_AUTH_HEADER"  # noqa: S105 - as above
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_KEPT = "refs/pybuild/"
_LONGEST_MESSAGE = 400
_POLL_SECONDS = 0.2
_SETTINGS = (
    ("core.autocrlf", "false"),
    ("core.hooksPath", "/dev/null"),
    ("core.logAllRefUpdates", "false"),
    ("core.symlinks", "true"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("init.defaultBranch", "main"),
    ("safe.directory", "*"),
    ("protocol.version", "2"),
)


class GitAccess(NamedTuple):
    """What a build may use to reach repositories.

    ``agent`` is the socket of an SSH agent, ``token`` and ``header`` are what is said to https hosts in
    ``Authorization``. ``local``: whether repositories on this machine may be read by path.
    """

    agent: str | None = None
    token: str | None = None
    header: str | None = None
    local: bool = False


class GitCommit(NamedTuple):
    """A commit of a remote; ``tag`` is the full name of the tag that was asked for, empty for anything else."""

    commit: str
    tag: str = ""


def resolve_commit(source: GitSource, access: GitAccess, *, cancel: Cancellation) -> GitCommit:
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
        listing = _Git(access, remote, cancel).run("ls-remote", "--", remote, wanted, f"{wanted}^{{}}")
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
    source: GitSource, found: GitCommit, root: str, directory: Path, access: GitAccess, *, cancel: Cancellation
) -> Path:
    """The files of the commit, in ``directory`` (empty at first); the subdirectory that ``source`` names.

    Raises FetchError, Interrupted: see `resolve_commit`.
    """
    remote = _checked(source, access)
    git = _Git(access, remote, cancel)
    name = hashlib.sha256(remote.encode("utf-8", "surrogateescape")).hexdigest()
    bare = Path(root) / DIRECTORY / name
    with cancel.locked(root, f"git-{name}"):
        _fetch(git, bare, remote, found)
        _populate(git, bare, remote, directory, source, found)
    seconds = int(git.run("show", "--no-patch", "--format=%ct", "HEAD", directory=directory).strip())
    if not source.keep_git_dir:
        _drop_git(directory)
    _even(directory, None if source.mtime == CHECKOUT else seconds)
    return _subdirectory(directory, source)


def shown_remote(remote: str) -> str:
    """``remote`` for people, without credentials."""
    return shown(remote) if "://" in remote else remote


def _checked(source: GitSource, access: GitAccess) -> str:
    """The remote, when it may be asked."""
    remote = source.remote
    scheme = _scheme(remote)
    if source.ref.startswith("-") or remote.startswith("-"):
        raise FetchError(f"git repository {shown_remote(remote)}: the reference {source.ref!r} is none")
    if scheme == "file" and not access.local:
        raise FetchError(f"git repository {remote}: a Dockerfile cannot name files of this machine")
    if scheme == "ssh" and access.agent is None:
        message = f"git repository {shown_remote(remote)} is reached by ssh, and the build was given no agent"
        raise FetchError(message, hints=("--ssh default gives it yours",))
    return remote


def _scheme(remote: str) -> str:
    return remote.partition("://")[0] if "://" in remote else "file" if remote.startswith("/") else "ssh"


class _Git:
    """Runs the ``git`` program for one remote."""

    def __init__(self, access: GitAccess, remote: str, cancel: Cancellation) -> None:
        self._remote = remote
        self._cancel = cancel
        self._environment = _environment(access, remote)

    def run(self, *arguments: str, directory: Path | None = None, local: bool = False) -> str:
        """What ``git arguments`` printed; ``local``: it speaks to a repository of this store alone.

        Raises FetchError, Interrupted.
        """
        command = ["git", *(() if directory is None else ("-C", str(directory))), *arguments]
        try:
            process = subprocess.Popen(
                command,
                env={**self._environment, "GIT_ALLOW_PROTOCOL": "file"} if local else self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                umask=0o022,
            )
        except FileNotFoundError as error:
            message = f"git repository {shown_remote(self._remote)}: there is no program 'git' on this machine"
            raise FetchError(message, hints=("the package is called git",)) from error
        with process, self._cancel.breaking(lambda: _kill(process)):
            try:
                output, errors = process.communicate()
            except BaseException:
                _kill(process)
                raise
        self._cancel.check()
        if process.returncode:
            raise FetchError(f"git repository {shown_remote(self._remote)}: {_reason(errors)}")
        return output.decode("utf-8", "surrogateescape")

    def succeeds(self, *arguments: str, directory: Path) -> bool:
        """Whether ``git arguments`` ends well."""
        try:
            self.run(*arguments, directory=directory)
        except FetchError:
            return False
        return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The program and those it started are gone."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _reason(errors: bytes) -> str:
    """The line of git's complaint that says most."""
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    for prefix in ("fatal: ", "error: ", "ERROR: ", "remote: "):
        for line in lines:
            if line.startswith(prefix):
                text = "".join(character for character in line.removeprefix(prefix) if character.isprintable())
                return text[:_LONGEST_MESSAGE]
    return lines[-1][:_LONGEST_MESSAGE] if lines else "git failed"


def _environment(access: GitAccess, remote: str) -> dict[str, str]:
    """What git finds around it: the way to hosts, and none of the user's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "SSH_"))}
    settings = [*_SETTINGS, *_authorization(access, remote)]
    local = _scheme(remote) == "file"
    environment = {
        **kept,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": "https:http:git:ssh" + (":file" if local else ""),
        "GIT_SSH_COMMAND": "ssh -F none -o BatchMode=yes -o IdentityFile=none",
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for number, (name, value) in enumerate(settings):
        environment[f"GIT_CONFIG_KEY_{number}"] = name
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    if access.agent is not None:
        environment["SSH_AUTH_SOCK"] = access.agent
    return environment


def _authorization(access: GitAccess, remote: str) -> list[tuple[str, str]]:
    """The setting that makes git say who asks, to the remote's own host."""
    parts = urlsplit(remote)
    if parts.scheme not in {"http", "https"}:
        return []
    header = access.header
    if header is None and access.token is not None:
        header = "basic " + base64.b64encode(f"x-access-token:{access.token}".encode()).decode()
    if header is None:
        return []
    host = parts.netloc.rpartition("@")[2]
    return [(f"http.{parts.scheme}://{host}/.extraheader", f"Authorization: {header}")]


def _fetch(git: _Git, bare: Path, remote: str, found: GitCommit) -> None:
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


def _populate(git: _Git, bare: Path, remote: str, directory: Path, source: GitSource, found: GitCommit) -> None:
    """``directory`` is a repository with the commit checked out, as one that was cloned from the remote."""
    git.run("init", "--quiet", "--template=", str(directory))
    wanted = [_KEPT + found.commit, *((f"+{found.tag}:{found.tag}",) if found.tag else ())]
    fetching = ("fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head")
    git.run(*fetching, bare.as_uri(), *wanted, directory=directory, local=True)
    git.run("remote", "add", "origin", without_credentials(remote), directory=directory)
    git.run("checkout", "--quiet", "--force", "--detach", found.commit, directory=directory)
    if source.submodules and (directory / ".gitmodules").is_file():
        git.run("submodule", "--quiet", "update", "--init", "--recursive", directory=directory)


def without_credentials(remote: str) -> str:
    """``remote`` as it may stand in an image."""
    if _scheme(remote) not in {"http", "https"}:
        return remote
    parts = urlsplit(remote)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _drop_git(directory: Path) -> None:
    """What git keeps for itself is gone, in submodules as well."""
    shutil.rmtree(directory / ".git")
    for place, names, files in os.walk(directory):
        if ".git" in files:
            os.unlink(os.path.join(place, ".git"))
        if ".git" in names:
            shutil.rmtree(os.path.join(place, ".git"))
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
