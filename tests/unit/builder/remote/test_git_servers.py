"""Repositories behind each kind of server: http and https by git's own CGI program, git://, ssh."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.errors import FetchError
from builder.graph import GitSource
from builder.remote.access import Access
from builder.remote.cancellation import Cancellation
from builder.remote.git import check_out, resolve_commit
from harness.web import Repository, serving
from layers.testing.docker_registry import free_port, make_certificates

FILES = {"a": "A\n", "sub/b": "B\n", "vendor/library/lib": "L\n", ".gitmodules": ""}
SSH = """#!/bin/sh
# a host where git may be used and nothing else: what is asked for is run here
echo "$SSH_AUTH_SOCK $*" >>"$0.log"
while [ "${1#-}" != "$1" ]; do
    case $1 in -[Fop]) shift ;; esac
    shift
done
shift
case $* in git-upload-pack*) exec sh -c "$*" ;; *) exit 1 ;; esac
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """With a tag, a branch, and a submodule that is named relative to it."""
    library = Repository(tmp_path, "library")
    library.commit({"lib": "L\n"})
    repository = Repository(tmp_path, "project")
    repository.commit({"a": "A\n", "sub/b": "B\n"})
    repository.git("submodule", "add", "-q", f"../{library.bare.name}", "vendor/library")
    repository.git("config", "-f", ".gitmodules", "submodule.vendor/library.url", f"../{library.bare.name}")
    repository.commit({})
    repository.git("tag", "-a", "v1", "-m", "one")
    repository.publish("v1", "main:refs/heads/topic")
    return repository


@contextmanager
def git_daemon(directory: Path) -> Iterator[str]:
    """The address of a server of git's own protocol, for what is in ``directory``."""
    programs = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    port = free_port()
    command = [f"{programs}/git-daemon", "--listen=127.0.0.1", f"--port={port}", f"--base-path={directory}"]
    with subprocess.Popen([*command, "--export-all", str(directory)], stderr=subprocess.DEVNULL) as daemon:
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                else:
                    break
            yield f"git://127.0.0.1:{port}"
        finally:
            daemon.terminate()


class Client:
    """Checks out of one remote, in directories of its own."""

    def __init__(self, path: Path, remote: str, access: Access) -> None:
        self.path = path
        self.remote = remote
        self.access = access

    def __call__(self, ref: str, subdirectory: str = "") -> dict[str, str]:
        source = GitSource(self.remote, ref, subdirectory, keep_git_dir=False, checksum="")
        found = resolve_commit(source, self.access, cancel=Cancellation())
        self.path.mkdir(exist_ok=True)
        directory = self.path / f"out-{len(list(self.path.iterdir()))}"
        directory.mkdir()
        root = str(self.path / "root")
        place = check_out(source, found, root, directory, self.access, cancel=Cancellation()).directory
        return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}


def takes_all(client: Client, repository: Repository) -> None:
    """A branch, a tag, a commit, a directory and submodules come from the server."""
    modules = (repository.work / ".gitmodules").read_text()
    for ref in ("topic", repository.git("rev-parse", "HEAD")):
        assert client(ref) == {**FILES, ".gitmodules": modules}, ref
    assert client("v1", "sub") == {"b": "B\n"}
    with pytest.raises(FetchError, match="has no branch or tag 'none'"):
        client("none")


def test_http(tmp_path: Path, repository: Repository) -> None:
    with serving() as web:
        web.repositories = tmp_path
        takes_all(Client(tmp_path / "c", f"{web.url}/project.git", Access()), repository)


def test_https_with_an_authority_of_ones_own(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"):
        monkeypatch.delenv(name, raising=False)
    certificates = make_certificates(tmp_path / "certificates")
    with serving(certificates) as web:
        web.repositories = tmp_path
        client = Client(tmp_path / "c", f"{web.url}/project.git", Access())
        with pytest.raises(FetchError, match=r"certificate|SSL|TLS"):
            client("")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        takes_all(client, repository)
        monkeypatch.setenv("GIT_SSL_CAINFO", str(make_certificates(tmp_path / "other").authority))
        with pytest.raises(FetchError, match=r"certificate|SSL|TLS"):
            client("topic")


def test_git_protocol(tmp_path: Path, repository: Repository) -> None:
    with git_daemon(tmp_path) as address:
        takes_all(Client(tmp_path / "c", f"{address}/project.git", Access()), repository)
        with pytest.raises(FetchError, match=r"access denied|not exported|no such"):
            Client(tmp_path / "d", f"{address}/absent", Access())("")


@pytest.mark.parametrize("form", ["git@127.0.0.1:{}", "ssh://git@127.0.0.1:2222{}"])
def test_ssh(tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/the/users/own")
    client = Client(tmp_path / "c", form.format(repository.bare), Access("/agent/of/the/build"))
    takes_all(client, repository)
    asked = (tmp_path / "bin" / "ssh.log").read_text().splitlines()
    assert {line.split()[0] for line in asked} == {"/agent/of/the/build"}
    assert all("BatchMode=yes" in line for line in asked), "nobody is there to be asked for a password"
    client.access = Access()
    with pytest.raises(FetchError, match="is reached by ssh, and the build was given no agent"):
        client("")
