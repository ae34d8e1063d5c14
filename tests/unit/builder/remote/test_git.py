"""Repositories: references become commits, commits become files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import FetchError, Interrupted
from builder.graph import GitSource
from builder.options import SecretSource
from builder.remote.access import Access
from builder.remote.cancellation import Cancellation
from builder.remote.git import GitCommit, check_out, find_seconds, plan_commit, resolve_commit
from harness.web import Repository, Web, serving

SECONDS = 1577934245
FILE_SERVER = """
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.HTTPServer(("127.0.0.1", 0), handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
FILES = {"a": "A\n", "sub/b": "B\n", "sub/deep/c": "C\n"}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with serving() as web:
        web.repositories = tmp_path
        yield web


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path, "project")
    repository.commit(FILES)
    return repository


class Checkout:
    """Takes files of the repository into directories below ``path``."""

    def __init__(self, path: Path, remote: str) -> None:
        self.path = path
        self.remote = remote
        self.access = Access()
        self.count = 0

    def source(self, ref: str = "", subdirectory: str = "", *, keep: bool = False, checksum: str = "") -> GitSource:
        return GitSource(self.remote, ref, subdirectory, keep, checksum)

    def resolve(self, source: GitSource) -> GitCommit:
        return resolve_commit(source, self.access, cancel=Cancellation())

    def __call__(self, source: GitSource) -> Path:
        self.count += 1
        directory = self.path / f"checkout-{self.count}"
        directory.mkdir()
        found = self.resolve(source)
        root = str(self.path / "root")
        return check_out(source, found, root, directory, self.access, cancel=Cancellation()).directory


@pytest.fixture
def checkout(tmp_path: Path, web: Web, repository: Repository) -> Checkout:
    return Checkout(tmp_path, f"{web.url}/{repository.bare.name}")


def tree(place: Path) -> dict[str, str]:
    return {str(path.relative_to(place)): path.read_text() for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("main", GitCommit("c1")),
        ("v1", GitCommit("c2", "refs/tags/v1")),
        ("light", GitCommit("c3", "refs/tags/light")),
        ("both", GitCommit("c4")),
        ("refs/tags/both", GitCommit("c5", "refs/tags/both")),
        ("heads/main", GitCommit("c1")),
        ("HEAD", GitCommit("c0")),
        ("ain", GitCommit("")),
        ("pull/7/head", GitCommit("c6")),
    ],
)
def test_reference_means_a_commit(wanted: str, found: GitCommit) -> None:
    listing = (
        "c0\tHEAD\nc1\trefs/heads/main\nt1\trefs/tags/v1\nc2\trefs/tags/v1^{}\nc3\trefs/tags/light\n"
        "c4\trefs/heads/both\nc5\trefs/tags/both\nc6\trefs/pull/7/head\n"
    )
    assert plan_commit(listing, wanted) == found


def test_files_modes_and_times(checkout: Checkout, repository: Repository) -> None:
    (repository.work / "tool").write_text("#!/bin/sh\n")
    (repository.work / "tool").chmod(0o700)
    (repository.work / "link").symlink_to("sub/b")
    repository.commit({"crlf": "x\r\ny\n"})
    before = os.umask(0o077)
    try:
        place = checkout(checkout.source())
    finally:
        os.umask(before)
    assert tree(place) == {**FILES, "tool": "#!/bin/sh\n", "link": "B\n", "crlf": "x\ny\n"}
    assert (place / "crlf").read_bytes() == b"x\r\ny\n"
    assert [stat.S_IMODE((place / name).stat().st_mode) for name in ("a", "tool", "sub")] == [0o644, 0o755, 0o755]
    assert os.readlink(place / "link") == "sub/b"
    assert {path.lstat().st_mtime for path in place.rglob("*")} == {SECONDS}


def test_branches_tags_commits_and_subdirectories(checkout: Checkout, repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "-a", "v1", "-m", "one")
    repository.git("tag", "light")
    repository.publish("v1", "light")
    second = repository.commit({"a": "changed\n"})
    repository.git("push", "-q", str(repository.bare), "main:refs/heads/topic/x")
    for ref, commit in (
        ("", second),
        ("main", second),
        ("topic/x", second),
        ("v1", first),
        ("light", first),
        ("refs/tags/v1", first),
        (first, first),
    ):
        source = checkout.source(ref)
        assert checkout.resolve(source).commit == commit
        assert tree(checkout(source)) == {**FILES, "a": "A\n" if commit == first else "changed\n"}
    assert tree(checkout(checkout.source("v1", "sub"))) == {"b": "B\n", "deep/c": "C\n"}
    assert tree(checkout(checkout.source("v1", "/sub/deep/"))) == {"c": "C\n"}


def test_a_commit_that_is_here_needs_no_server(checkout: Checkout, repository: Repository, web: Web) -> None:
    commit = repository.git("rev-parse", "HEAD")
    checkout(checkout.source(commit))
    web.seen.clear()
    assert tree(checkout(checkout.source(commit))) == FILES
    assert web.seen == []


def test_server_that_only_hands_out_files(checkout: Checkout, repository: Repository, web: Web) -> None:
    repository.git("tag", "-a", "v1", "-m", "one")
    repository.publish("v1")
    old = repository.git("rev-parse", "HEAD")
    repository.commit({"a": "changed\n"})
    with subprocess.Popen(
        [sys.executable, "-c", FILE_SERVER, str(repository.bare.parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            checkout.remote = f"http://127.0.0.1:{int(server.stdout.readline())}/{repository.bare.name}"
            assert tree(checkout(checkout.source("v1"))) == FILES
            assert tree(checkout(checkout.source(old))) == FILES
            assert tree(checkout(checkout.source("main"))) == {**FILES, "a": "changed\n"}
        finally:
            server.kill()


def test_server_that_gives_no_single_commits(checkout: Checkout, repository: Repository) -> None:
    old = repository.git("rev-parse", "HEAD")
    repository.commit({"a": "changed\n"})
    repository.git("config", "uploadpack.allowAnySHA1InWant", "false", at=repository.bare)
    repository.git("config", "protocol.version", "0", at=repository.bare)
    assert tree(checkout(checkout.source(old))) == FILES


def test_git_directory_is_dropped_or_kept(checkout: Checkout, repository: Repository) -> None:
    commit = repository.git("rev-parse", "HEAD")
    repository.git("tag", "-a", "v1", "-m", "one")
    repository.publish("v1")
    assert not (checkout(checkout.source()) / ".git").exists()
    checkout.remote = checkout.remote.replace("://", "://me:secret@")
    place = checkout(checkout.source("v1", keep=True))
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(place), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert git("rev-parse", "HEAD") == commit
    assert git("status", "--porcelain") == ""
    assert git("describe") == "v1"
    assert git("remote", "get-url", "origin") == checkout.remote.replace("me:secret@", "")
    assert subprocess.run(["grep", "-r", "secret", str(place)], check=False).returncode == 1


def test_submodules_come_along(checkout: Checkout, repository: Repository, tmp_path: Path) -> None:
    library = Repository(tmp_path, "library")
    library.commit({"lib": "L\n"})
    repository.git("submodule", "add", "-q", f"../{library.bare.name}", "vendor/library", at=repository.work)
    repository.git("config", "-f", ".gitmodules", "submodule.vendor/library.url", f"../{library.bare.name}")
    repository.commit({})
    place = checkout(checkout.source())
    assert tree(place / "vendor") == {"library/lib": "L\n"}
    assert not list(place.rglob(".git"))
    assert tree(checkout(checkout.source()._replace(submodules=False)) / "vendor") == {}


def test_submodule_on_this_machine_is_not_read(checkout: Checkout, repository: Repository, tmp_path: Path) -> None:
    private = Repository(tmp_path, "private")
    private.commit({"key": "K\n"})
    repository.git("submodule", "add", "-q", str(private.bare), "stolen", at=repository.work)
    repository.commit({})
    with pytest.raises(FetchError, match="transport 'file' not allowed"):
        checkout(checkout.source())


def test_checksum_is_the_beginning_of_the_commit(checkout: Checkout, repository: Repository) -> None:
    commit = repository.git("rev-parse", "HEAD")
    assert checkout.resolve(checkout.source("main", checksum=commit[:9])).commit == commit
    assert checkout.resolve(checkout.source(commit, checksum=commit)).commit == commit
    with pytest.raises(FetchError, match=rf"main is commit {commit}, expected 1234567$"):
        checkout.resolve(checkout.source("main", checksum="1234567"))


def test_fetching_by_commit_does_not_ask_where_the_branch_is(
    checkout: Checkout, repository: Repository, web: Web
) -> None:
    old = repository.git("rev-parse", "HEAD")
    repository.commit({"a": "changed\n"})
    pinned = checkout.source("main", checksum=old)._replace(fetch_by_commit=True)
    assert checkout.resolve(pinned) == GitCommit(old)
    assert web.seen == []
    assert tree(checkout(pinned)) == FILES
    with pytest.raises(FetchError, match="fetch-by-commit needs a checksum with all digits"):
        checkout.resolve(checkout.source("main", checksum=old[:12])._replace(fetch_by_commit=True))


def test_times_of_the_checkout_where_they_are_asked_for(checkout: Checkout) -> None:
    place = checkout(checkout.source()._replace(mtime="checkout"))
    assert SECONDS not in {path.lstat().st_mtime for path in place.rglob("*")}


def test_errors_name_the_repository_and_the_reason(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FetchError, match=r"has no branch or tag 'absent'$"):
        checkout.resolve(checkout.source("absent"))
    with pytest.raises(FetchError) as short:
        checkout.resolve(checkout.source("0123abc"))
    assert short.value.hints == ("a commit is named by all of its 40 digits",)
    with pytest.raises(FetchError, match=r"does not hold the commit|not our ref|remote error"):
        checkout(checkout.source("0" * 39 + "1"))
    with pytest.raises(FetchError, match=r"has no directory 'none'"):
        checkout(checkout.source("main", "none"))
    with pytest.raises(FetchError, match="the reference '--upload-pack=x' is none"):
        checkout.resolve(checkout.source("--upload-pack=x"))
    empty = Repository(tmp_path, "empty")
    checkout.remote = checkout.remote.replace("project", "empty")
    with pytest.raises(FetchError, match=r"empty\.git is empty$"):
        checkout.resolve(checkout.source())
    assert empty.bare.is_dir()
    for remote, reason in (
        ("http://127.0.0.1:9/x.git", "project|unable to access|refused|connect"),
        (checkout.remote.replace("empty", "none"), "not found|500|error"),
        ("git@127.0.0.1:x.git", "is reached by ssh, and the build was given no agent"),
        (str(empty.bare), "a Dockerfile cannot name files of this machine"),
        (empty.bare.as_uri(), "a Dockerfile cannot name files of this machine"),
    ):
        checkout.remote = remote
        with pytest.raises(FetchError, match=reason):
            checkout.resolve(checkout.source())
    monkeypatch.setenv("PATH", str(tmp_path))
    checkout.remote = "http://127.0.0.1:9/x.git"
    with pytest.raises(FetchError, match="there is no program 'git' on this machine"):
        checkout.resolve(checkout.source())


def test_local_repository_where_the_user_names_it(checkout: Checkout, repository: Repository) -> None:
    checkout.access = Access(local=True)
    for remote in (repository.bare.as_uri(), str(repository.bare), str(repository.work)):
        checkout.remote = remote
        assert tree(checkout(checkout.source())) == FILES


def test_settings_of_the_user_change_nothing(
    checkout: Checkout, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit({".gitattributes": "*.txt text\n*.up filter=up\n", "x.txt": "1\n", "y.up": "low\n"})
    (tmp_path / ".gitconfig").write_text('[core]\nautocrlf = true\n[filter "up"]\nsmudge = tr a-z A-Z\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    place = checkout(checkout.source())
    assert (place / "x.txt").read_bytes() == b"1\n"
    assert (place / "y.up").read_bytes() == b"low\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"GIT_AUTH_TOKEN": "very-secret"}, "basic eC1hY2Nlc3MtdG9rZW46dmVyeS1zZWNyZXQ="),
        ({"GIT_AUTH_TOKEN": "very-secret", "GIT_AUTH_HEADER": "Bearer x"}, "Bearer x"),
        ({"GIT_AUTH_TOKEN.HOST": "very-secret", "GIT_AUTH_HEADER": "no"}, "basic eC1hY2Nlc3MtdG9rZW46dmVyeS1zZWNyZXQ="),
        ({"GIT_AUTH_HEADER.HOST": "Bearer y", "GIT_AUTH_TOKEN.HOST": "no"}, "Bearer y"),
        ({"GIT_AUTH_TOKEN.elsewhere": "very-secret"}, None),
        ({}, None),
    ],
)
def test_secrets_are_said_to_the_host_of_the_remote(
    checkout: Checkout, web: Web, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str | None
) -> None:
    secrets: dict[str, SecretSource] = {}
    for number, (name, value) in enumerate(given.items()):
        monkeypatch.setenv(f"SECRET_{number}", value)
        secrets[name.replace("HOST", web.url.removeprefix("http://"))] = SecretSource(None, f"SECRET_{number}")
    checkout.access = Access(secrets=secrets)
    assert tree(checkout(checkout.source())) == FILES
    assert {seen.headers.get("Authorization") for seen in web.seen} == {said}


def test_secret_that_cannot_be_read(checkout: Checkout) -> None:
    checkout.access = Access(secrets={"GIT_AUTH_TOKEN": SecretSource("/no/such/file", None)})
    with pytest.raises(FetchError, match="secret 'GIT_AUTH_TOKEN' cannot be read"):
        checkout.resolve(checkout.source())


def test_time_of_a_commit(checkout: Checkout, repository: Repository, tmp_path: Path) -> None:
    repository.git("tag", "v1")
    repository.publish("v1")
    for ref in ("", "v1", repository.git("rev-parse", "HEAD")):
        source = checkout.source(ref)
        assert find_seconds(source, str(tmp_path / "root"), checkout.access, cancel=Cancellation()) == SECONDS


def test_cancelled_before_it_runs(checkout: Checkout) -> None:
    cancel = Cancellation()
    cancel.set()
    with pytest.raises(Interrupted):
        resolve_commit(checkout.source(), checkout.access, cancel=cancel)


@pytest.mark.parametrize("stalled", ["info/refs", "git-upload-pack"])
def test_cancelled_while_it_runs(checkout: Checkout, web: Web, tmp_path: Path, stalled: str) -> None:
    """The server is silent at the first question, and while a commit is fetched."""
    cancel = Cancellation()
    source = checkout.source()
    found = checkout.resolve(source)
    web.silent = stalled
    directory = tmp_path / "cancelled"
    directory.mkdir()
    ended: list[type[BaseException] | None] = []

    def work() -> None:
        try:
            check_out(source, found, str(tmp_path / "root"), directory, checkout.access, cancel=cancel)
        except BaseException as error:
            ended.append(type(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert web.stalled.wait(20)
    cancel.set()
    thread.join(20)
    assert ended == [Interrupted]
    assert list(directory.iterdir()) == []
    web.silent = ""
    web.resume.set()
    assert tree(checkout(source)) == FILES, "what was half fetched is in nobody's way"
