"""Cache mounts travel between stores with ``mode=max,mounts=true``, and never in the way of what is there."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from harness.inside import is_there, write
from harness.pybuild import COMMAND, Pybuild
from harness.waiting import wait_until
from layers.manifest import Manifest
from layers.store import Store
from layers.testing.faults import Stall
from layers.testing.registry import FaultyRegistry

pytestmark = pytest.mark.ids("gives caches to others")
# with its mode and owner a cache is another one than that of the id alone
NAME, SECOND = "kept 750 7:8", "second 750 7:8"
MOUNT = "RUN --mount=type=cache,target=/k,id=kept,uid=7,gid=8,mode=0750"
FILL = f"{MOUNT} mkdir /k/d && echo kept >/k/d/file && chmod 600 /k/d/file && chown 9:9 /k/d/file && ln -s d/file /k/link\n"
SEE = f"{MOUNT} stat -c %a:%u:%g /k /k/d/file && cat /k/link && echo more >/k/own\n"
LOOK = f"{MOUNT} ls -A /k | wc -l >/count; echo found $(cat /count) names\n"
IMPORTED = "750:7:8\n600:9:9\nkept\n"


@pytest.fixture
def store(pybuild: Pybuild) -> Pybuild:
    pybuild.load_base("busybox")
    return pybuild


@pytest.fixture
def other(tmp_path: Path) -> Pybuild:
    other = Pybuild(tmp_path / "other")
    other.load_base("busybox")
    return other


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    return directory


def build(store: Pybuild, context: Path, steps: str, *arguments: str) -> str:
    """What the build told and its steps wrote."""
    (context / "Dockerfile").write_text(f"FROM busybox\n{steps}")
    return store.run("build", "--network", "none", "--progress", "plain", *arguments, context).stderr


def command(store: Pybuild, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "cache", words[0], "--root", str(store.root), *words[1:]],
        env=store.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip


def output(log: str) -> str:
    """Lines that steps wrote, without what stands before them."""
    words = [line.split(" ", 2) for line in log.splitlines()]
    return "".join(f"{parts[2]}\n" for parts in words if len(parts) == 3 and parts[1].replace(".", "").isdigit())


def mount_directory(store: Pybuild, name: str = NAME) -> Path:
    return store.root / "cache-mounts" / hashlib.sha256(name.encode()).hexdigest()


def mounts_of(results: Path) -> tuple[list[dict[str, object]], Manifest]:
    with Store(results) as kept:
        [entry] = kept.entries()
        manifest = kept.read_manifest(entry)
        assert isinstance(manifest, Manifest)
        return json.loads(kept.blobs.read(manifest.config.digest)).get("mounts", []), manifest


def is_archive(blob: Path) -> bool:
    """Whether the blob is what FILL leaves in the cache mount, compressed or not."""
    content = blob.read_bytes()
    plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    return plain.startswith(b"d/\0")


@pytest.mark.parametrize("kind", ["local", "registry"])
def test_content_is_there_before_the_step(
    store: Pybuild, other: Pybuild, context: Path, tmp_path: Path, kind: str
) -> None:
    with FaultyRegistry() as registry:
        name = f"{registry.host}/results/mounts:1"
        target = f"type=local,dest={tmp_path / 'results'}" if kind == "local" else f"type=registry,ref={name}"
        source = f"type=local,src={tmp_path / 'results'}" if kind == "local" else name
        log = build(store, context, FILL, "--cache-to", f"{target},mode=max,mounts=true")
        assert "1 results and 1 cache mounts" in log
        registry.requests.clear()
        log = build(other, context, FILL, "--cache-from", source)
        assert not mount_directory(other).exists(), "the step did not run: nothing is fetched"
        assert len(registry.seen("GET", "/blobs/")) == (2 if kind == "registry" else 0), "the list and the layer"
        log = build(other, context, SEE, "--cache-from", source)
        assert IMPORTED in output(log)
        assert "WARN" not in log
        build(store, context, FILL, "--cache-to", f"{target},mode=max,mounts=true")
        assert not any(is_archive(path) for root in (store.root, other.root) for path in root.glob("blobs/sha256/*"))
        # a cache that holds something stays as it is
        write(mount_directory(other) / "0" / "d" / "file", "own\n")
        assert "own\n" in output(build(other, context, SEE.replace("more", "less"), "--cache-from", source))
    assert sorted(path.name for path in mount_directory(other).iterdir()) == ["0", "0.lock", "id"]


def test_not_without_being_asked(store: Pybuild, other: Pybuild, context: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    build(store, context, FILL, "--cache-to", f"type=local,dest={results},mode=max")
    assert mounts_of(results)[0] == []
    assert "found 0 names" in build(other, context, LOOK, "--cache-from", f"type=local,src={results}")


@pytest.mark.parametrize("sharing", ["shared", "private", "locked"])
def test_an_empty_one_is_filled(store: Pybuild, other: Pybuild, context: Path, tmp_path: Path, sharing: str) -> None:
    results = tmp_path / "results"
    build(store, context, FILL, "--cache-to", f"type=local,dest={results},mode=max,mounts=true")
    look = LOOK.replace("id=kept", f"id=kept,sharing={sharing}")
    assert "found 0 names" in build(other, context, look)
    again = look.replace("found", "then")
    assert "then 2 names" in build(other, context, again, "--cache-from", f"type=local,src={results}")


@pytest.mark.parametrize("damage", ["other bytes", "gone", "another layer"])
def test_what_is_damaged_is_a_warning(
    store: Pybuild, other: Pybuild, context: Path, tmp_path: Path, damage: str
) -> None:
    results = tmp_path / "results"
    build(store, context, FILL, "--cache-to", f"type=local,dest={results},mode=max,mounts=true")
    [mount], manifest = mounts_of(results)
    assert isinstance(mount["layer"], int)
    layer = manifest.layers[mount["layer"]]
    blob = results / "blobs" / "sha256" / layer.digest.hex
    if damage == "gone":
        blob.unlink()
    elif damage == "other bytes":
        blob.write_bytes(b"x" * layer.size)
    else:
        with Store(results) as kept:
            changed = Manifest.create(manifest.config, manifest.layers[::-1])
            kept.blobs.put(changed.raw)
            kept.tag("cache:latest", changed.descriptor())
    log = build(other, context, LOOK, "--cache-from", f"type=local,src={results}")
    assert f"cache mount {NAME!r} is not taken from" in log
    assert "found 0 names" in log
    assert sorted(path.name for path in mount_directory(other).iterdir()) == ["0", "0.lock", "id"]
    assert list(other.root.rglob("cache")) == [], "nothing half made is left"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_end_while_it_is_fetched(store: Pybuild, other: Pybuild, context: Path, number: signal.Signals) -> None:
    """Nobody waits for a registry that hangs; the next build takes what this one could not."""
    with FaultyRegistry() as registry:
        name = f"{registry.host}/results/slow:1"
        build(store, context, FILL, "--cache-to", f"type=registry,ref={name},mode=max,mounts=true")
        registry.requests.clear()
        registry.fail("GET", "/blobs/", Stall(10), skip=1)
        (context / "Dockerfile").write_text(f"FROM busybox\n{LOOK}")
        words = other.command("build", "--progress", "plain", "--cache-from", name, context)
        with subprocess.Popen(words, env=other.environment(), stderr=subprocess.PIPE, text=True) as stopped:
            wait_until(lambda: len(registry.seen("GET", "/blobs/")) > 1, "the cache mount is asked for")
            stopped.send_signal(number)
            _, log = stopped.communicate()
        assert stopped.returncode == (130 if number == signal.SIGINT else -number), log
        assert sorted(path.name for path in mount_directory(other).iterdir()) == ["0.lock", "id"]
        registry.heal()
        assert "found 2 names" in build(other, context, LOOK, "--cache-from", name)


def test_commands(store: Pybuild, other: Pybuild, context: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    build(store, context, FILL + FILL.replace("id=kept", "id=second"))
    build(store, context, "RUN --mount=type=cache,target=/k,id=third true\n")
    done = command(store, "export", f"type=local,dest={results},mode=max,mounts=true")
    assert done.stdout.endswith(" results and 2 cache mounts written\n")
    first, _ = mounts_of(results)
    assert [mount["id"] for mount in first] == sorted(mount_directory(store, name).name for name in (NAME, SECOND))
    command(store, "export", f"type=local,dest={results},mode=max,mounts=true")
    assert mounts_of(results)[0] == first, "equal content gives equal bytes"
    held = mount_directory(other, SECOND)
    held.mkdir(parents=True)
    with open(held / "0.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = command(other, "import", f"type=local,src={results}")
    assert " results and 1 cache mounts taken" in done.stdout, "one is in use"
    assert not (held / "0").exists()
    assert IMPORTED in output(build(other, context, SEE))
    done = command(other, "import", f"type=local,src={results}")
    assert " and 1 cache mounts taken" in done.stdout
    assert is_there(mount_directory(other) / "0" / "own"), "what was here stays"


def test_a_locked_one_is_packed_when_its_step_has_ended(store: Pybuild, context: Path, tmp_path: Path) -> None:
    """The export waits for an exclusive lock, and not for a shared one."""
    results = tmp_path / "results"
    build(store, context, FILL)
    words = [*COMMAND, "cache", "export", "--root", str(store.root), f"type=local,dest={results},mode=max,mounts=true"]
    with open(mount_directory(store) / "0.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        subprocess.run(words, env=store.environment(), check=True, stdout=subprocess.DEVNULL)
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(words, env=store.environment(), stdout=subprocess.PIPE, text=True)
        write(mount_directory(store) / "0" / "late", "late\n")
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.communicate()[0].endswith("1 cache mounts written\n")
    assert waiting.returncode == 0
    [mount], manifest = mounts_of(results)
    assert isinstance(mount["layer"], int)
    content = (results / "blobs" / "sha256" / manifest.layers[mount["layer"]].digest.hex).read_bytes()
    assert b"late\n" in content


def test_what_a_kill_left_is_replaced_and_pruned(store: Pybuild, context: Path) -> None:
    half = mount_directory(store) / "0.new"
    half.mkdir(parents=True)
    (half / "part").write_text("part\n")
    assert "found 0 names" in build(store, context, LOOK)
    assert not half.exists()
    half.mkdir()
    os.utime(mount_directory(store) / "0.lock", (1, 1))
    command(store, "prune", "--all")
    assert sorted(path.name for path in mount_directory(store).iterdir()) == ["0.lock", "id"]


def test_they_are_listed_and_pruned_by_what_they_are(store: Pybuild, context: Path) -> None:
    build(store, context, FILL + FILL.replace("id=kept", "id=second"))

    def listed(*words: str) -> dict[str, object]:
        lines = command(store, "ls", "--format", "json", *words).stdout.splitlines()
        return {entry["id"]: entry for entry in map(json.loads, lines) if entry["type"] == "exec.cachemount"}

    found = listed()
    assert list(found) == sorted(found, key=lambda name: mount_directory(store, name).name)
    assert {NAME, SECOND} == found.keys()
    assert found[NAME]["name"] == mount_directory(store).name
    table = command(store, "ls", "--filter", "type=exec.cachemount").stdout.splitlines()
    assert table[0].split() == ["ID", "TYPE", "SIZE", "LAST", "USED", "DESCRIPTION"]
    assert {line.split("   ")[-1].strip() for line in table[1:]} == {f"cache mount {NAME}", f"cache mount {SECOND}"}
    assert listed("--filter", "type=regular") == {}
    assert listed("--filter", "until=1h") == {}
    assert list(listed("--filter", f"id={mount_directory(store).name[:9]}")) == [NAME]
    pruned = command(store, "prune", "--filter", "type=exec.cachemount", "--filter", "description=second").stdout
    assert pruned.startswith("0 results, 0 layers, 1 cache mounts, ")
    assert list(listed()) == [NAME]
    assert command(store, "prune", "--filter", "type=regular").stdout.startswith("2 results")
    assert list(listed()) == [NAME]
    assert command(store, "prune", "--all", "--dry-run").stdout.startswith("0 results, 0 layers, 1 cache mounts, ")
    assert command(store, "prune", "--filter", "type=exec.cachemount").stdout.startswith("0 results, 0 layers, 1 cache")
    assert listed() == {}
