"""Repositories behind a real sshd: as ADD and as the context, with the user's agent and the hosts he knows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.pybuild import Pybuild
from harness.sshd import Sshd, make_key, running_agent, running_sshd
from harness.web import Repository


class Place(NamedTuple):
    """A server with a repository, an agent that may enter, and the home of a user who knows the server."""

    sshd: Sshd
    repository: Repository
    agent: str
    home: Path

    @property
    def address(self) -> str:
        return f"{self.sshd.address}{self.repository.bare}"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    repository = Repository(tmp_path, "project")
    repository.commit({"a": "A\n", "sub/b": "B\n", "Dockerfile": "FROM scratch\nCOPY a /copied\n"})
    home = tmp_path / "a home"
    (home / ".ssh").mkdir(parents=True)
    with running_sshd(tmp_path / "sshd") as sshd, running_agent(tmp_path / "agent", sshd.key) as agent:
        (home / ".ssh" / "known_hosts").write_text(sshd.known)
        yield Place(sshd, repository, agent, home)


def build(
    pybuild: Pybuild, place: Place, context: str | Path, *arguments: str | Path, own: str = ""
) -> subprocess.CompletedProcess[str]:
    """``own`` is the agent of the user's own session."""
    environment = {"HOME": str(place.home), "SSH_AUTH_SOCK": own}
    return pybuild.attempt("build", *arguments, context, env=environment)


@pytest.fixture
def context(tmp_path: Path, place: Place) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(f"FROM scratch\nADD {place.address}#main:sub /from/\n")
    return directory


def test_add_takes_the_agent_of_the_build(pybuild: Pybuild, place: Place, context: Path, tmp_path: Path) -> None:
    for agent in (place.agent, ""):
        # the second time by $SSH_AUTH_SOCK
        asked = f"default={agent}" if agent else "default"
        done = build(pybuild, place, context, "--ssh", asked, "-o", tmp_path / "out", own="" if agent else place.agent)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out" / "from" / "b").read_text() == "B\n"
    without = build(pybuild, place, context, own=place.agent)
    assert without.returncode == 1
    assert "the build was given no agent" in without.stderr


def test_a_context_takes_the_users_own_agent(pybuild: Pybuild, place: Place, tmp_path: Path) -> None:
    done = build(pybuild, place, f"{place.address}#main", "-o", tmp_path / "out", own=place.agent)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "copied").read_text() == "A\n"


def test_a_host_that_is_not_known_is_not_believed(pybuild: Pybuild, place: Place, context: Path) -> None:
    known = place.home / ".ssh" / "known_hosts"
    known.unlink()
    done = build(pybuild, place, context, "--ssh", f"default={place.agent}")
    assert done.returncode == 1
    assert "the key of the host is not known" in done.stderr
    assert "ssh-keyscan" in done.stderr
    assert not known.exists(), "nor remembered"


def test_another_key_of_a_known_host_is_told(pybuild: Pybuild, place: Place, context: Path, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    (place.home / ".ssh" / "known_hosts").write_text(f"{place.sshd.known.split()[0]} {other}")
    done = build(pybuild, place, context, "--ssh", f"default={place.agent}")
    assert done.returncode == 1
    assert "the host has another key than the known one" in done.stderr


def test_who_may_not_enter_is_told(pybuild: Pybuild, place: Place, context: Path, tmp_path: Path) -> None:
    with running_agent(tmp_path / "empty", make_key(tmp_path / "stranger")) as agent:
        done = build(pybuild, place, context, "--ssh", f"default={agent}")
    assert done.returncode == 1
    assert "no key of the agent is accepted" in done.stderr


def test_a_repository_that_is_not_there_is_told(pybuild: Pybuild, place: Place, tmp_path: Path) -> None:
    done = build(pybuild, place, f"{place.sshd.address}{tmp_path}/none.git", own=place.agent)
    assert done.returncode == 1
    assert "does not appear to be a git repository" in done.stderr
