"""``pybuild cache explain``, and what du and prune say of things that are no results."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from builder.api import build_or_reuse
from builder.cachemounts import CACHE_MOUNTS
from builder.cleaning import prune
from builder.cli.main import main
from builder.diskuse import disk_use
from builder.options import BuildOptions
from builder.session import Session

DOCKERFILE = "FROM scratch AS one\nARG WHO=a\nCOPY a /files/\nWORKDIR /w-$WHO\nFROM scratch\nCOPY --from=one / /\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "a").write_text("a")
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


def build(context: Path, store: Path) -> None:
    build_or_reuse(BuildOptions(context=str(context)), root=str(store), emit=lambda _event: None, sources={})


def explained(context: Path, store: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[tuple[str, str]]:
    assert main(["cache", "explain", "--root", str(store), "--format", "json", *words, str(context)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [(line["state"], line["reason"]) for line in lines]


def test_explain(context: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    [first, second, third] = explained(context, store, capsys)
    assert first == ("miss", "this step has not been run before, or its result is gone")
    assert second[0] == "unknown"
    assert second[1].startswith("it needs [one 1/2] COPY a /files/")
    assert third[0] == "unknown"
    build(context, store)
    assert explained(context, store, capsys) == [("hit", "")] * 3
    changed = explained(context, store, capsys, "--build-arg", "WHO=b")
    assert changed[:2] == [("hit", ""), ("miss", "path was /w-a, now /w-b")]
    (context / "a").write_text("b")
    state, reason = explained(context, store, capsys)[0]
    assert state == "miss"
    assert reason.startswith("sources was ")


def test_explain_runs_and_remembers_nothing(context: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    explained(context, store, capsys)
    with Session(str(store)) as session:
        assert session.cache.records() == ()
        assert list(session.store.blobs) == []


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("FROM nothing:1\nCOPY a /\n", "base image nothing:1 is not in the store"),
        ("FROM scratch\nCOPY none /\n", "source 'none' does not exist in the build context"),
        ("NONE\n", "unknown instruction NONE"),
    ],
)
def test_explain_refuses(
    context: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dockerfile: str, message: str
) -> None:
    (context / "Dockerfile").write_text(dockerfile)
    assert main(["cache", "explain", "--root", str(tmp_path / "store"), str(context)]) == 1
    assert message in capsys.readouterr().err


def test_filters(context: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    build(context, store)

    def call(*words: str) -> str:
        assert main(["cache", *words[:1], "--root", str(store), *words[1:]]) == 0
        return capsys.readouterr().out

    def listed(*words: str) -> list[str]:
        return [json.loads(line)["description"] for line in call("ls", "--format", "json", *words).splitlines()]

    assert len(listed()) == 3
    [only] = listed("--filter", "description=WORKDIR")
    assert "WORKDIR" in only
    assert listed("--filter", "until=1h") == []
    assert listed("--filter", "description=COPY", "--filter", "id=none") == []
    assert call("prune", "--filter", "description=COPY a").startswith("0 results"), "WORKDIR stands on it"
    assert call("prune", "--filter", "description=WORKDIR").startswith("1 results")
    assert len(listed()) == 2
    assert len(listed("--filter", "type=regular")) == 2
    for wrong, message in (
        ("state=x", "expected id=, description=, until= or type="),
        ("type=x", "expected type=regular"),
    ):
        assert main(["cache", "ls", "--root", str(store), "--filter", wrong]) == 2
        assert message in capsys.readouterr().err


def test_du_adds_up_to_what_the_disk_says(context: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    build(context, store)
    mount = store / CACHE_MOUNTS / "d" / "0"
    mount.mkdir(parents=True)
    (mount / "one").write_bytes(b"x" * 100_000)
    os.link(mount / "one", mount / "two")
    with Session(str(store)) as session:
        session.cache.results()
        use = disk_use(session.root)
        done = subprocess.run(["du", "-s", "-B1", store], capture_output=True, text=True, check=True)
        assert use.total == int(re.split(r"\s", done.stdout)[0])
    assert sum(use[:-1]) == use.total
    assert use.cache_mounts >= 100_000


def test_prune_takes_cache_mounts_that_nobody_uses(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Session(str(store)) as session:
        session.store.claim()
        for name in ("0", "1", "2"):
            place = store / CACHE_MOUNTS / "d" / name
            (place / "deep").mkdir(parents=True)
            (place / "deep" / "x.lock").write_bytes(b"of somebody else")
            place.with_name(f"{name}.lock").touch()
            os.utime(place.with_name(f"{name}.lock"), (1, 1))
        os.utime(store / CACHE_MOUNTS / "d" / "2.lock")
        held = store / CACHE_MOUNTS / "d" / "1.lock"
        with open(held, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            assert prune(session, unused_seconds=3600, dry_run=True).freed_bytes > 0
            assert sorted(os.listdir(store / CACHE_MOUNTS / "d")) == ["0", "0.lock", "1", "1.lock", "2", "2.lock"]
            prune(session, unused_seconds=3600)
            assert sorted(os.listdir(store / CACHE_MOUNTS / "d")) == ["0.lock", "1", "1.lock", "2", "2.lock"]
        prune(session, everything=True)
        assert sorted(os.listdir(store / CACHE_MOUNTS / "d")) == ["0.lock", "1.lock", "2.lock"]


@pytest.mark.parametrize("damage", [b"no database", b""])
def test_prune_takes_indexes_that_were_put_aside(context: Path, tmp_path: Path, damage: bytes) -> None:
    store = tmp_path / "store"
    build(context, store)
    (store / "cache.db").write_bytes(damage or (store / "cache.db").read_bytes()[:5000])
    build(context, store)
    [aside] = store.glob("cache.db.unusable-*")
    with Session(str(store)) as session:
        prune(session, unused_seconds=3600)
        assert aside.exists(), "it may be looked at"
        assert prune(session, everything=True, dry_run=True).freed_bytes > 0
        assert aside.exists()
        prune(session, everything=True)
    assert not aside.exists()
