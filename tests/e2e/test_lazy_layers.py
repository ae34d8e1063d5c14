"""Layers come when they are needed: what a build with ``--cache-from`` asks a registry for, and what it does not.

Each `Pybuild` is a machine of its own. The registry counts.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pybuild import Pybuild, step_outcomes
from layers.testing.faults import Stall, Status
from layers.testing.registry import FaultyRegistry

FIXED = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
DOCKERFILE = """\
FROM {host}/bases/busybox:1 AS build
COPY a /made/by/build
FROM {host}/bases/busybox:1
COPY a /one
COPY --chown=root:root d /d/
WORKDIR /w
COPY --from=build /made/by/build /usr/local/made
COPY b last
LABEL org.example.last=yes
"""
STEPS = 6


class Place:
    """A registry with a base, the results of a build of it and its image; and the project."""

    def __init__(self, directory: Path, registry: FaultyRegistry, first: Pybuild) -> None:
        self.context = directory / "project"
        (self.context / "d").mkdir(parents=True)
        for name in ("a", "b", "d/f"):
            (self.context / name).write_text(f"{name}\n")
        (self.context / "Dockerfile").write_text(DOCKERFILE.format(host=registry.host))
        self.registry = registry
        self.results = f"{registry.host}/results/app:1"
        self.image = f"{registry.host}/images/app"
        self.first = first
        first.load_base("busybox")
        first.run("push", "busybox", f"{registry.host}/bases/busybox:1")
        first.run(
            *("build", "-t", f"{self.image}:1", "--push", *FIXED),
            *("--cache-to", f"type=registry,ref={self.results},mode=max", self.context),
        )
        self._others = 0
        self._directory = directory

    def machine(self) -> Pybuild:
        """A new one, after which nothing has been asked."""
        self._others += 1
        self.registry.requests.clear()
        return Pybuild(self._directory / f"machine-{self._others}" / "store")

    def build(self, machine: Pybuild, *arguments: str | Path, results: str | None = "") -> str:
        """The progress of a build with the results elsewhere, or those at ``results``, or with none."""
        asked = () if results is None else ("--cache-from", results or self.results)
        return machine.run("build", "--progress", "plain", *FIXED, *asked, *arguments, self.context).stderr

    def layers_fetched(self) -> int:
        """How many blobs were fetched that are not JSON."""
        asked = {seen.target.rpartition("/")[2] for seen in self.registry.seen("GET", "/blobs/")}
        blobs = self.registry.memory.blobs
        contents = {digest: content for (_, digest), content in blobs.items() if digest in asked}
        return sum(not content.startswith(b"{") for content in contents.values())

    def id_of(self, machine: Pybuild, name: str) -> str:
        return json.loads(machine.run("inspect", name).stdout)[0]["Id"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("lazy")
    with FaultyRegistry() as registry:
        yield Place(directory, registry, Pybuild(directory / "first" / "store"))


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Iterator[Place]:
    """The one place, with a project of its own for each test."""
    project = made.context
    made.context = tmp_path / "project"
    shutil.copytree(project, made.context)
    yield made
    made.context = project
    made.registry.heal()


def unpacked(machine: Pybuild) -> list[str]:
    return sorted(path.name for path in (machine.root / "layers").iterdir() if path.name != "active")


def test_an_image_that_is_pushed_where_its_layers_are_takes_no_layer(place: Place) -> None:
    machine = place.machine()
    log = place.build(machine, "-t", f"{place.image}:2", "--push")
    assert list(step_outcomes(log).values()) == ["CACHED"] * (STEPS + 1)
    assert place.layers_fetched() == 0, log
    assert unpacked(machine) == []
    assert not place.registry.seen("PATCH")
    assert "is pushed only" in log
    assert machine.run("images", "-q").stdout == ""
    machine.run("pull", f"{place.image}:2")
    assert place.id_of(machine, f"{place.image}:2") == place.id_of(place.first, f"{place.image}:1")


def test_another_repository_takes_them_from_where_they_are(place: Place) -> None:
    machine = place.machine()
    log = place.build(machine, "-t", f"{place.registry.host}/new/app:1", "--push")
    assert place.layers_fetched() == 0, log
    assert len(place.registry.seen("POST", "mount=")) == 6, "the base's, and five of the steps"
    machine.run("pull", f"{place.registry.host}/new/app:1")


def test_another_registry_gets_them(place: Place) -> None:
    machine = place.machine()
    with FaultyRegistry() as other:
        name = f"{other.host}/app:1"
        log = place.build(machine, "-t", name, "--push")
        assert "is pushed only" in log
        assert place.layers_fetched() == 6
        assert unpacked(machine) == []
        machine.run("pull", name)
        assert place.id_of(machine, name) == place.id_of(place.first, f"{place.image}:1")


@pytest.mark.parametrize("push", [False, True])
def test_an_image_that_is_kept_is_whole_and_not_unpacked(place: Place, push: bool) -> None:
    machine = place.machine()
    name = f"{place.image}:2"
    log = place.build(machine, "-t", name, *(("--push", "--load") if push else ()))
    assert set(step_outcomes(log).values()) == {"CACHED"}
    assert "pushed only" not in log
    assert place.layers_fetched() == 6, "but not that of the stage that is no part of the image"
    assert unpacked(machine) == []
    archive = place.context.parent / "image.tar"
    machine.run("save", "-o", archive, name)
    with tarfile.open(archive) as tar:
        assert "manifest.json" in tar.getnames()
    log = place.build(machine, "-t", name, results=None)
    ends = {
        title: end for title, end in step_outcomes(log).items() if title.startswith("[stage-1 ") and "FROM" not in title
    }
    assert list(ends.values()) == ["CACHED"] * 5, "what came is of this machine now"


def test_files_that_are_wanted_are_fetched(place: Place, tmp_path: Path) -> None:
    machine = place.machine()
    place.build(machine, "-o", tmp_path / "files")
    assert (tmp_path / "files" / "usr/local/made").read_text() == "a\n"
    assert (tmp_path / "files" / "w" / "last").read_text() == "b\n"
    assert (tmp_path / "files" / "bin" / "busybox").is_file()


def test_a_step_that_is_run_gets_what_it_stands_on(place: Place) -> None:
    (place.context / "b").write_text("changed\n")
    machine = place.machine()
    log = place.build(machine, "-t", "changed")
    ends = step_outcomes(log)
    assert [title for title, end in ends.items() if end == "DONE"] == ["[stage-1 6/6] COPY b last"]
    assert "pulling " in log
    assert "fetching results from" in log
    place.build(place.first, "-t", "changed", "--no-cache", results=None)
    assert place.id_of(machine, "changed") == place.id_of(place.first, "changed")


def test_results_that_are_not_here_are_passed_on(place: Place) -> None:
    further = f"{place.registry.host}/further/app:1"
    to = f"type=registry,ref={further},mode=max"
    log = place.build(place.machine(), "-t", f"{place.image}:2", "--push", "--cache-to", to)
    assert place.layers_fetched() == 0, log
    directory = place.context.parent / "results"
    log = place.build(place.machine(), "--cache-to", f"type=local,dest={directory},mode=max", results=further)
    assert set(step_outcomes(log).values()) == {"CACHED"}
    log = place.build(place.machine(), results=f"type=local,src={directory}")
    assert set(step_outcomes(log).values()) == {"CACHED"}


@pytest.mark.parametrize("push", [False, True])
def test_a_layer_that_is_gone_is_made_here(place: Place, push: bool) -> None:
    """It comes to light after the last step, and the build begins again."""
    machine = place.machine()
    place.registry.fail("*", "/results/app/blobs/", Status(404), skip=1)
    with FaultyRegistry() as other:
        name = f"{other.host}/app:1"
        log = place.build(machine, "-t", name, *(("--push",) if push else ()))
        assert "is not used any more" in log
        assert "pulling " in log
        assert place.id_of(machine, name) == place.id_of(place.first, f"{place.image}:1")


def test_a_base_alone_is_not_unpacked(place: Place) -> None:
    (place.context / "Dockerfile").write_text(f"FROM {place.registry.host}/bases/busybox:1\nLABEL a=b\n")
    machine = place.machine()
    place.build(machine, "-t", "labelled", results=None)
    assert place.layers_fetched() == 1
    assert unpacked(machine) == []
    log = place.build(machine, "-t", "labelled", results=None)
    assert list(step_outcomes(log).values()) == ["CACHED"]
    assert unpacked(machine) == []


def test_a_signal_ends_a_fetch(place: Place) -> None:
    (place.context / "b").write_text("changed\n")
    machine = place.machine()
    with FaultyRegistry(place.registry.backend) as stalling:
        stalling.fail("GET", "/bases/busybox/blobs/", Stall(100), skip=1)
        (place.context / "Dockerfile").write_text(DOCKERFILE.format(host=stalling.host))
        results = place.results.replace(place.registry.host, stalling.host)
        command = machine.command("build", "--progress", "plain", *FIXED, "--cache-from", results, place.context)
        with subprocess.Popen(command, env=machine.environment(), stderr=subprocess.PIPE, text=True) as build:
            assert build.stderr is not None
            for line in build.stderr:
                if "pulling" in line:
                    break
            build.send_signal(signal.SIGINT)
            log = build.communicate(timeout=20)[1]
    assert build.returncode == 130
    assert "interrupted" in log
    assert not list((machine.root / "tmp").glob("*"))
