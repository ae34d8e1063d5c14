"""Sources of ADD that are no files of the context: URLs and git repositories.

A repository is ``git://…``, ``ssh://…``, ``user@host:path`` or an ``http(s)`` URL whose path ends in ``.git``, each
with ``#ref:subdirectory`` or a query; any other ``http(s)`` URL is a file. The query of a repository has:

    ref, tag, branch                            what is taken; a tag or branch may leave out refs/tags/, refs/heads/
    subdir                                      the directory of it
    checksum, commit                            the commit it must be, or how that begins
    fetch-by-commit                             that commit is taken, in full, wherever ref has moved to
    keep-git-dir, submodules                    true, false, or nothing for true
    mtime                                       commit or checkout: the time that files get

Source: dfgitutil.ParseGitRef of the reference frontend, 1.26.

Invariant: pure; nothing is fetched.
"""

from __future__ import annotations

import posixpath
import re

from builder.dockerfile.suggest import did_you_mean
from builder.errors import DockerfileError
from builder.graph import GitSource, HttpSource
from builder.switches import read_switch
from unionfs.namedtuple import NamedTuple

_URL = r"(?s)(?P<scheme>https?|git|ssh)://(?P<rest>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?\Z"
_SCP = r"(?s)[A-Za-z0-9_-]+@[A-Za-z0-9.-]+:(?P<rest>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?\Z"
_COMMIT = r"[0-9a-f]{7,64}\Z"
_SHA256 = r"sha256:[0-9a-f]{64}\Z"
_REFS = {"ref": "", "tag": "refs/tags/", "branch": "refs/heads/"}
_SWITCHES = frozenset({"keep-git-dir", "submodules", "fetch-by-commit"})
_QUERY = frozenset({*_REFS, "subdir", "checksum", "commit", "mtime"}) | _SWITCHES
_TIMES = frozenset({"commit", "checkout"})
_FORGE = "github.com/"
UNNAMED = "__unnamed__"


class GitFlags(NamedTuple):
    """What the flags of ADD say about a repository."""

    keep_git_dir: bool | None
    checksum: str


def is_remote(source: str) -> bool:
    """Return whether ``source`` names something to be fetched."""
    return ":" in source and _match(source) is not None


def parse_remote(source: str, flags: GitFlags) -> HttpSource | GitSource:
    """Return what ``source``, for which ``is_remote`` holds, asks to fetch.

    Raises:
        DockerfileError: the checksum or a part of the query is wrong.
    """
    found = _match(source)
    if found is None:
        raise DockerfileError(f"{source!r} is no URL")
    if _is_http(found) and not found.group("rest").endswith(".git"):
        return _parse_file(source, found.group("rest"), flags)
    return _parse_repository(source, found, flags)


def find_repository(source: str) -> GitSource | None:
    """Return the repository that ``source``, given by the user as a context, names; None when it is something else.

    Besides those of ADD these are ``file://`` URLs: users may name what lies on their machine; and ``github.com/…``,
    which stands for https.

    Raises:
        DockerfileError: a part of the query is wrong.
    """
    if source.startswith(_FORGE):
        source = f"https://{source}"
        found = re.match(_URL, source)
    else:
        found = re.match(_URL.replace("https?", "https?|file"), source) or re.match(_SCP, source)
        if found and _is_http(found) and not found.group("rest").endswith(".git"):
            return None
    if found is None:
        return None
    return _parse_repository(source, found, GitFlags(None, ""))


def _match(source: str) -> re.Match[str] | None:
    # not compiled on import: most builds have no remote source
    return re.match(_URL, source) or re.match(_SCP, source)


def _is_http(found: re.Match[str]) -> bool:
    return found.groupdict().get("scheme", "ssh") in {"http", "https"}


def _parse_file(source: str, rest: str, flags: GitFlags) -> HttpSource:
    if flags.checksum and not re.match(_SHA256, flags.checksum):
        raise DockerfileError(f"--checksum: {flags.checksum!r} is not of the form sha256:<64 hexadecimal digits>")
    from urllib.parse import unquote

    _, _, path = rest.partition("/")
    return HttpSource(source, posixpath.basename(unquote(path).rstrip("/")) or UNNAMED, flags.checksum)


def _parse_repository(source: str, found: re.Match[str], flags: GitFlags) -> GitSource:
    ref, _, subdirectory = (found.group("fragment") or "").partition(":")
    remote = source[: found.end("rest")]
    settings = _parse_query(source, found.group("query") or "")
    for key, prefix in _REFS.items():
        if key in settings:
            value = settings[key]
            wanted = value if value.startswith(prefix) else prefix + value
            ref = _agree(source, "ref", ref, wanted)
    if "subdir" in settings:
        subdirectory = _agree(source, "subdir", subdirectory, settings["subdir"])
    checksum = _agree(source, "checksum", flags.checksum, settings.get("checksum", settings.get("commit", "")))
    if checksum and not re.match(_COMMIT, checksum):
        raise DockerfileError(f"--checksum: {checksum!r} is no commit of {remote}")
    keep = flags.keep_git_dir
    if "keep-git-dir" in settings:
        asked = _boolean(source, "keep-git-dir", settings["keep-git-dir"])
        if keep is not None and keep != asked:
            raise DockerfileError(f"{source}: keep-git-dir contradicts --keep-git-dir")
        keep = asked
    submodules = _boolean(source, "submodules", settings.get("submodules", "true"))
    pinned = _boolean(source, "fetch-by-commit", settings.get("fetch-by-commit", "false"))
    mtime = settings.get("mtime", "")
    if mtime and mtime not in _TIMES:
        raise DockerfileError(f"{source}: mtime must be commit or checkout, got {mtime!r}")
    return GitSource(remote, ref, subdirectory, bool(keep), checksum, submodules, mtime, pinned)


def _parse_query(source: str, query: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    settings: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _QUERY:
            raise DockerfileError(f"{source}: unknown query {key!r}", hints=did_you_mean(key, _QUERY))
        if key in settings:
            raise DockerfileError(f"{source}: the query {key!r} is given twice")
        if not value and key not in _SWITCHES:
            raise DockerfileError(f"{source}: the query {key!r} needs a value")
        settings[key] = value
    if "tag" in settings and "branch" in settings:
        raise DockerfileError(f"{source}: tag and branch contradict each other")
    return settings


def _agree(source: str, what: str, first: str, second: str) -> str:
    if first and second and first != second:
        raise DockerfileError(f"{source}: {what} is both {first!r} and {second!r}")
    return first or second


def _boolean(source: str, name: str, value: str) -> bool:
    # a name alone means yes
    found = read_switch(value or "true")
    if found is None:
        raise DockerfileError(f"{source}: {name} must be true or false, got {value!r}")
    return found
