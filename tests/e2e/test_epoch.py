"""SOURCE_DATE_EPOCH that names where the time is from, through to the image."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pybuild import Pybuild, step_outcomes
from harness.web import Page, Repository, Web, serving

DATE = "Thu, 02 Jan 2020 03:04:05 GMT"
OF_DATE = "2020-01-02T03:04:05Z"
NEWEST = 1234567890
OF_NEWEST = "2009-02-13T23:31:30Z"
DOCKERFILE = (
    "ARG HOST\nFROM scratch AS file\nARG HOST\nADD $HOST/dated /\nFROM scratch AS packed\nARG HOST\nADD $HOST/x.tar /\n"
    "FROM scratch AS plain\nARG HOST\nADD $HOST/plain /\nFROM scratch AS repo\nARG HOST\nADD $HOST/project.git /\n"
    "FROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL epoch=$SOURCE_DATE_EPOCH\nCOPY <<E /f\nx\nE\n"
)


def archive(**times: int) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, seconds in times.items():
            member = tarfile.TarInfo(name)
            content = DOCKERFILE.encode() if name == "Dockerfile" else b""
            member.size, member.mtime = len(content), seconds
            tar.addfile(member, io.BytesIO(content))
        directory = tarfile.TarInfo("later")
        directory.type, directory.mtime = tarfile.DIRTYPE, NEWEST + 1
        tar.addfile(directory)
    return raw.getvalue()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with serving() as web:
        web.repositories = tmp_path
        packed = archive(Dockerfile=5, newest=NEWEST)
        web.pages |= {"/dated": Page(b"x", DATE), "/plain": Page(b"x"), "/x.tar": Page(packed)}
        Repository(tmp_path, "project").commit({"Dockerfile": DOCKERFILE})
        yield web


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


def build(pybuild: Pybuild, web: Web, *arguments: str | Path) -> tuple[str, str, list[str]]:
    """When the image was made, the epoch its label has, and how the steps ended."""
    given = ("--progress", "plain", "-t", "x", "--build-arg", f"HOST={web.url}")
    done = pybuild.run("build", *given, *arguments)
    config = json.loads(pybuild.run("inspect", "x").stdout)[0]
    return config["created"], config["config"]["Labels"]["epoch"], list(step_outcomes(done.stderr).values())


@pytest.mark.parametrize(
    ("name", "created", "epoch"),
    [
        ("file", OF_DATE, "1577934245"),
        ("repo", OF_DATE, "1577934245"),
        ("packed", OF_NEWEST, str(NEWEST)),
    ],
)
def test_time_of_a_stage(pybuild: Pybuild, web: Web, context: Path, name: str, created: str, epoch: str) -> None:
    given = ("--build-arg", f"SOURCE_DATE_EPOCH={name}", context)
    assert build(pybuild, web, *given) == (created, epoch, ["DONE"])
    if name == "repo":
        assert build(pybuild, web, *given)[2] == ["CACHED"]


def test_sources_without_a_time(pybuild: Pybuild, web: Web, context: Path) -> None:
    for name in ("plain", "context"):
        created, epoch, _ = build(pybuild, web, "--build-arg", f"SOURCE_DATE_EPOCH={name}", context)
        assert created[:4] >= "2025"
        assert epoch == ""


def test_time_of_a_context(pybuild: Pybuild, web: Web, context: Path, tmp_path: Path) -> None:
    given = ("--build-arg", "SOURCE_DATE_EPOCH=context")
    assert build(pybuild, web, *given, f"{web.url}/project.git")[:2] == (OF_DATE, "1577934245")
    assert build(pybuild, web, *given, f"{web.url}/x.tar")[:2] == (OF_NEWEST, str(NEWEST))
    (tmp_path / "context.tar").write_bytes(archive(Dockerfile=NEWEST))
    assert build(pybuild, web, *given, tmp_path / "context.tar")[:2] == (OF_NEWEST, str(NEWEST))
    named = ("--build-arg", "SOURCE_DATE_EPOCH=src", "--build-context", f"src={web.url}/project.git", context)
    assert build(pybuild, web, *named)[:2] == (OF_DATE, "1577934245")


def test_name_in_the_environment_and_in_the_file(pybuild: Pybuild, web: Web, context: Path) -> None:
    (context / "Dockerfile").write_text("ARG SOURCE_DATE_EPOCH=file\n" + DOCKERFILE)
    assert build(pybuild, web, context)[:2] == (OF_DATE, "1577934245")
    given = ("build", "--build-arg", f"HOST={web.url}", context)
    pybuild.run(*given, "-t", "y", env={"SOURCE_DATE_EPOCH": "packed"})
    assert json.loads(pybuild.run("inspect", "y").stdout)[0]["created"] == OF_NEWEST
    refused = pybuild.attempt(*given, env={"SOURCE_DATE_EPOCH": "flie"})
    assert refused.returncode == 1
    assert "SOURCE_DATE_EPOCH='flie' is neither" in refused.stderr
    assert "hint: did you mean file?" in refused.stderr
