"""ADD of URLs and repositories: what lies in the layer, what makes a miss, what the messages say."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cleaning import prune
from builder.session import Session
from harness.pybuild import Pybuild, step_outcomes
from harness.web import Page, Repository, Web, serving, sha256

DATE, LATER = "Thu, 02 Jan 2020 03:04:05 GMT", "Fri, 03 Jan 2020 03:04:05 GMT"
SECONDS = 1577934245


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with serving() as web:
        web.repositories = tmp_path
        web.pages["/dir/file"] = Page(b"content\n", DATE, '"1"')
        yield web


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path, "project")
    repository.commit({"a": "A\n", "sub/b": "B\n"})
    return repository


class Builder:
    """Builds Dockerfiles FROM scratch in a context of its own."""

    def __init__(self, pybuild: Pybuild, directory: Path, web: Web) -> None:
        self.pybuild = pybuild
        self.directory = directory / "context"
        self.directory.mkdir()
        self.web = web

    def write(self, *lines: str) -> Path:
        text = "\n".join(["FROM scratch", *lines, ""]).replace("URL", self.web.url)
        (self.directory / "Dockerfile").write_text(text)
        return self.directory

    def __call__(self, *lines: str) -> list[str]:
        """How the steps ended."""
        log = self.pybuild.run("build", "--progress", "plain", "-t", "added", self.write(*lines)).stderr
        return list(step_outcomes(log).values())

    def refused(self, *lines: str) -> str:
        done = self.pybuild.attempt("build", "--progress", "plain", self.write(*lines))
        assert done.returncode == 1, done.stderr
        return done.stderr

    def members(self) -> dict[str, tarfile.TarInfo]:
        """All members of all layers but directories; the content is the attribute of that name."""
        archive = self.directory.parent / "image.tar"
        self.pybuild.run("save", "-o", archive, "added")
        found: dict[str, tarfile.TarInfo] = {}
        with tarfile.open(archive) as image:
            manifest = image.extractfile("manifest.json")
            assert manifest is not None
            for name in json.load(manifest)[0]["Layers"]:
                layer = image.extractfile(name)
                assert layer is not None
                with tarfile.open(fileobj=layer) as tar:
                    found |= {one.name: one for one in tar if not one.isdir()}
        return found


@pytest.fixture
def build(pybuild: Pybuild, tmp_path: Path, web: Web) -> Builder:
    return Builder(pybuild, tmp_path, web)


def archive(**files: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return raw.getvalue()


@pytest.mark.ids("gives a file away")
def test_file_has_its_name_mode_and_time(build: Builder) -> None:
    assert build("ADD URL/dir/file /d/", "ADD --chmod=751 --chown=5:6 URL/dir/file /other") == ["DONE", "DONE"]
    found = build.members()
    assert sorted(found) == ["d/file", "other"]
    assert [(one.mode, one.uid, one.gid, one.mtime) for _, one in sorted(found.items())] == [
        (0o600, 0, 0, SECONDS),
        (0o751, 5, 6, SECONDS),
    ]


def test_archive_is_unpacked_only_where_it_is_asked_for(build: Builder, web: Web) -> None:
    web.pages["/x.tgz"] = Page(archive(inner="x"), DATE)
    build(
        "ADD URL/x.tgz /packed",
        "ADD --unpack=false URL/x.tgz /kept/",
        "ADD --unpack URL/x.tgz /u/",
        "ADD --unpack=true URL/dir/file /plain/",
    )
    assert sorted(build.members()) == ["kept/x.tgz", "packed", "plain/file", "u/inner"]


def test_sources_of_all_kinds_in_one_instruction(build: Builder, repository: Repository) -> None:
    (build.directory / "local").write_text("L\n")
    line = "ADD local URL/dir/file URL/project.git /all/"
    assert build(line) == ["DONE"]
    assert sorted(build.members()) == ["all/a", "all/file", "all/local", "all/sub/b"]
    assert build(line) == ["CACHED"]
    (build.directory / "local").write_text("changed\n")
    assert build(line) == ["DONE"]


@pytest.mark.parametrize(
    ("page", "line", "outcome"),
    [
        (Page(b"content\n", DATE, '"1"'), "ADD URL/dir/file /d/", "CACHED"),
        (Page(b"content\n", DATE, '"new"'), "ADD URL/dir/file /d/", "CACHED"),
        (Page(b"content\n", DATE), "ADD URL/elsewhere/file /d/", "CACHED"),
        (Page(b"content.\n", DATE), "ADD URL/dir/file /d/", "DONE"),
        (Page(b"content\n", LATER), "ADD URL/dir/file /d/", "DONE"),
        (Page(b"content\n"), "ADD URL/dir/file /d/", "DONE"),
        (Page(b"content\n", DATE), "ADD URL/dir/other /d/", "DONE"),
        (Page(b"content\n", DATE), "ADD URL/dir/file /e/", "DONE"),
        (Page(b"content\n", DATE), "ADD --chmod=644 URL/dir/file /d/", "DONE"),
        pytest.param(
            Page(b"content\n", DATE),
            "ADD --chown=5 URL/dir/file /d/",
            "DONE",
            marks=pytest.mark.ids("gives a file away"),
        ),
        (Page(b"content\n", DATE), "ADD --unpack URL/dir/file /d/", "DONE"),
        (
            Page(b"content\n", DATE),
            f"ADD --checksum={sha256(b'content' + chr(10).encode())} URL/dir/file /d/",
            "CACHED",
        ),
    ],
)
def test_what_makes_another_file(build: Builder, web: Web, page: Page, line: str, outcome: str) -> None:
    build("ADD URL/dir/file /d/")
    web.pages.clear()
    web.pages.update({f"/{path}": page for path in ("dir/file", "dir/other", "elsewhere/file")})
    assert build(line) == [outcome]


def test_unchanged_file_is_asked_for_and_not_sent(build: Builder, web: Web) -> None:
    build("ADD URL/dir/file /d/", "COPY Dockerfile /")
    build("ADD URL/dir/file /d/", "COPY Dockerfile /")
    assert web.statuses() == [200, 304]


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("ADD URL/project.git /r/", "CACHED"),
        ("ADD URL/project.git#main /r/", "CACHED"),
        ("ADD URL/project.git#same /r/", "CACHED"),
        ("ADD URL/project.git?branch=same /r/", "CACHED"),
        ("ADD URL/project.git#COMMIT /r/", "CACHED"),
        ("ADD --checksum=COMMIT URL/project.git /r/", "CACHED"),
        ("ADD URL/mirror.git /r/", "CACHED"),
        ("ADD URL/project.git#other /r/", "DONE"),
        ("ADD URL/project.git#main:sub /r/", "DONE"),
        ("ADD --keep-git-dir URL/project.git /r/", "DONE"),
        ("ADD --exclude=a URL/project.git /r/", "DONE"),
        pytest.param("ADD --chown=7 URL/project.git /r/", "DONE", marks=pytest.mark.ids("gives a file away")),
        ("ADD URL/project.git?submodules=false /r/", "DONE"),
        ("ADD URL/project.git /elsewhere/", "DONE"),
    ],
)
def test_what_makes_another_checkout(build: Builder, repository: Repository, line: str, outcome: str) -> None:
    commit = repository.git("rev-parse", "HEAD")
    repository.git("branch", "same")
    mirror = Repository(build.directory.parent, "mirror")
    repository.git("push", "-q", str(mirror.bare), "main")
    repository.git("checkout", "-q", "-b", "other")
    repository.commit({"other": "O\n"})
    repository.publish("same", "other", f"{commit}:refs/heads/main")
    assert build("ADD URL/project.git /r/") == ["DONE"]
    assert build(line.replace("COMMIT", commit)) == [outcome]


def test_kept_git_directories_of_two_remotes_differ(build: Builder, repository: Repository) -> None:
    mirror = Repository(build.directory.parent, "mirror")
    repository.git("push", "-q", str(mirror.bare), "main")
    build("ADD --keep-git-dir URL/project.git /r/")
    assert build("ADD --keep-git-dir URL/project.git /r/") == ["CACHED"]
    assert build("ADD --keep-git-dir URL/mirror.git /r/") == ["DONE"]


def test_new_commit_is_another_checkout(build: Builder, repository: Repository) -> None:
    build("ADD URL/project.git#main /r/")
    repository.commit({"a": "changed\n"})
    assert build("ADD URL/project.git#main /r/") == ["DONE"]
    assert build.members()["r/a"].size == len("changed\n")


def test_checkout_has_its_modes_and_excludes(build: Builder, repository: Repository) -> None:
    (repository.work / "tool").write_text("#!/bin/sh\n")
    (repository.work / "tool").chmod(0o700)
    repository.commit({"notes.md": "n\n", "sub/notes.md": "n\n"})
    build("ADD --exclude=**/*.md URL/project.git /r")
    found = build.members()
    assert {name: (one.mode, one.mtime) for name, one in found.items()} == {
        "r/a": (0o644, SECONDS),
        "r/sub/b": (0o644, SECONDS),
        "r/tool": (0o755, SECONDS),
    }
    assert not any((build.pybuild.root / "layers" / "active").iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ADD URL/none /x", "answers 404"),
        ("ADD http://no-such-host.invalid/x /x", "leads to no address"),
        (f"ADD --checksum=sha256:{'0' * 64} URL/dir/file /x", f"expected sha256:{'0' * 64}"),
        ("ADD URL/none.git /x", "git repository"),
        ("ADD URL/project.git#absent /x", "has no branch or tag 'absent'"),
        ("ADD --checksum=1234567 URL/project.git /x", "expected 1234567"),
        ("ADD git@127.0.0.1:x/y.git /x", "--ssh default gives it yours"),
    ],
)
def test_errors_show_the_line(build: Builder, repository: Repository, line: str, message: str) -> None:
    assert repository.bare.is_dir()
    shown = build.refused("COPY Dockerfile /", line)
    assert message in shown
    assert f">>> {line.replace('URL', build.web.url)}" in shown


def test_what_the_checksum_names_needs_no_network_again(build: Builder, web: Web) -> None:
    line = f"ADD --checksum={sha256(b'content' + chr(10).encode())} URL/dir/file /d/"
    build(line)
    web.pages.clear()
    assert build(line) == ["CACHED"]
    assert "answers 404" in build.refused("ADD URL/dir/file /d/")


def test_pruning_takes_what_was_fetched(build: Builder, repository: Repository) -> None:
    build("ADD URL/dir/file URL/project.git /d/")
    assert repository.bare.is_dir()
    root = build.pybuild.root
    kept = [*(root / "downloads").iterdir(), *(root / "git").iterdir()]
    assert len(kept) == 2
    with Session(str(root)) as session:
        prune(session, unused_seconds=3600)
        assert all(place.exists() for place in kept)
        with session.cache.lock(f"git-{kept[1].name}"):
            prune(session, everything=True)
        assert [place.exists() for place in kept] == [False, True]
        assert prune(session, everything=True, dry_run=True).freed_bytes > 0
        assert prune(session, everything=True).freed_bytes > 0
    assert not any(place.exists() for place in kept)
    assert build("ADD URL/dir/file URL/project.git /d/") == ["DONE"]
