"""kill -9 of every command that changes a store, at instants of its life: nothing that is reported is missing or wrong.

After each kill all that is reported is there with its digests, repeating the command succeeds, and pruning leaves what
images need and nothing else, before the repetition or after it. More instants, spread over the commands:
``STORE_KILLS=300 SEED=7 pytest -o faulthandler_timeout=0 tests/e2e/test_kill_everything.py``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.holdings import assert_nothing_else, assert_reported_is_there, names
from harness.inside import as_root, remove_tree, validate
from harness.instants import Mortal
from harness.pybuild import Pybuild
from layers.registry import transfer
from layers.registry.settings import RegistrySettings
from layers.store import Store
from layers.testing.images import random_image

KILLS = int(os.environ.get("STORE_KILLS", "3"))
SEED = int(os.environ.get("SEED", "1"))
EPOCH = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
DOCKERFILE = """\
FROM busybox AS a
ARG N
COPY big /big
RUN echo a$N >/a; for i in $(seq 50); do echo $i >/f$i; done
FROM busybox AS b
ARG N
RUN echo b$N >/b
FROM a
COPY --from=b /b /
RUN rm /f1 /f2; mv /a /moved
"""


class World(NamedTuple):
    """A store, and files beside it; ``registry`` serves all worlds, ``fresh`` is a repository of this one alone."""

    place: Path
    registry: str
    fresh: str

    @property
    def pybuild(self) -> Pybuild:
        return Pybuild(self.place / "store")

    def images(self) -> dict[str, str]:
        return names(self.pybuild.root)

    def text(self, template: str) -> str:
        return template.format(registry=self.registry, fresh=self.fresh)


class Command(NamedTuple):
    """``outside``: what it makes elsewhere than in the store, None while it is not there.

    ``again``: the status of the command when all is done already.
    """

    words: tuple[str, ...]
    outside: Callable[[World], bytes | None] = lambda _: None
    again: int = 0


def file(name: str) -> Callable[[World], bytes | None]:
    def look(world: World) -> bytes | None:
        path = world.place / name
        return path.read_bytes() if path.exists() else None

    return look


def registry(name: str) -> Callable[[World], bytes | None]:
    """The manifest that skopeo sees, all of whose blobs are there."""

    def look(world: World) -> bytes | None:
        return _copied(world, f"docker://{world.text(name)}")

    return look


def layout(name: str) -> Callable[[World], bytes | None]:
    """The manifest of the one image in a layout, all of whose blobs are there."""

    def look(world: World) -> bytes | None:
        where = world.place / name
        if not (where / "oci-layout").exists() or not json.loads((where / "index.json").read_bytes())["manifests"]:
            return None
        return _copied(world, f"oci:{where}:1")

    return look


def _copied(world: World, place: str) -> bytes | None:
    copied = world.place / "copied"
    words = ["skopeo", "copy", "-q", "--src-tls-verify=false", place, f"dir:{copied}"]
    try:
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode == 0:
            return (copied / "manifest.json").read_bytes()
    finally:
        shutil.rmtree(copied)
    assert b"manifest unknown" in done.stderr or b"name unknown" in done.stderr, done.stderr
    return None


MAKE = ("build", "-q", *EPOCH, "--build-arg", "N=2", "-t", "made:1", "-o", "type=image", "-o", "type=oci,dest=made.tar")
COMMANDS = {
    "pull": Command(("pull", "-q", "{registry}/there/app:1")),
    "load": Command(("load", "-i", "two.tar")),
    "prune": Command(("cache prune", "--all")),
    "build": Command((*MAKE, "context"), file("made.tar")),
    "push": Command(("push", "-q", "app:1", "{registry}/{fresh}:1"), registry("{registry}/{fresh}:1")),
    "save": Command(("save", "-o", "saved.tar", "app:1", "kept:1"), file("saved.tar")),
    "save over another file": Command(("save", "--format", "oci", "-o", "two.tar", "app:1"), file("two.tar")),
    "copy to a layout": Command(("copy", "app:1", "oci:layout:1"), layout("layout")),
    "copy to a registry": Command(
        ("copy", "docker://{registry}/there/app:1", "docker://{registry}/{fresh}:1"), registry("{registry}/{fresh}:1")
    ),
    "copy to the store": Command(("copy", "docker://{registry}/there/app:1", "copied:1")),
    "tag": Command(("tag", "app:1", "again:1")),
    "rmi": Command(("rmi", "app:1"), again=1),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, docker_registry: str) -> Iterator[World]:
    """A store with images, results of builds that nothing needs any more, and an archive of two more images."""
    place = tmp_path_factory.mktemp("template")
    world = World(place, docker_registry, "")
    with Store(place / "other") as other:
        for number, name in enumerate(("one:1", "two:1", "app:1")):
            random_image(other, name, number, layers=3)
        transfer.push(other, "app:1", f"{docker_registry}/there/app:1", settings=RegistrySettings())
    Pybuild(place / "other").run("save", "-o", place / "two.tar", "one:1", "two:1")
    with Store(place / "other") as other:
        random_image(other, "kept:1", 7)
        random_image(other, "app:1", 8, layers=3)
    Pybuild(place / "other").run("save", "-o", place / "kept.tar", "kept:1", "app:1")
    world.pybuild.run("load", "-i", place / "kept.tar")
    (place / "kept.tar").unlink()
    remove_tree(place / "other")
    context = place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "big").write_bytes(random.Random(SEED).randbytes(3 << 20))
    world.pybuild.load_base("busybox")
    for number in range(2):
        world.pybuild.run("build", *EPOCH, "--build-arg", f"N={number}", "-t", "old:1", context)
    world.pybuild.run("rmi", "old:1")
    yield world
    remove_tree(place)


class Outcome(NamedTuple):
    """What a world is like: images by name, what is elsewhere, which files lie beside the store."""

    images: dict[str, str]
    outside: bytes | None
    files: frozenset[str]

    @classmethod
    def of(cls, world: World, command: Command) -> Outcome:
        beside = frozenset(
            os.path.relpath(os.path.join(directory, name), world.place)
            for directory, _, files in os.walk(world.place)
            for name in files
            if not directory.startswith(str(world.pybuild.root))
        )
        return cls(world.images(), command.outside(world), beside)


def begin(template: World, place: Path, number: int) -> World:
    """A world like the template, in the place of the one before."""
    remove_tree(place)
    subprocess.run(as_root("cp", "-a", template.place, place), check=True)
    return World(place, template.registry, f"kills/{place.parent.name.lower()}/n{number}")


def assert_between(now: Outcome, before: Outcome, after: Outcome) -> None:
    """Of each thing there is what was before or what shall be; nothing that is in both is gone."""
    assert now.outside in {before.outside, after.outside}
    for name in now.images.keys() | before.images.keys() | after.images.keys():
        assert now.images.get(name) in {before.images.get(name), after.images.get(name)}, name


@pytest.mark.parametrize("name", list(COMMANDS)[:KILLS])
def test_kill(template: World, tmp_path: Path, name: str) -> None:
    command = COMMANDS[name]
    chance = random.Random(f"{name} {SEED}")
    world = begin(template, tmp_path / "world", 0)
    before = Outcome.of(world, command)
    words = tuple(map(world.text, command.words))
    life = Mortal(world.pybuild, "unharmed").live(*words)
    after = Outcome.of(world, command)
    for number in range(KILLS)[list(COMMANDS).index(name) :: len(COMMANDS)]:
        world = begin(template, tmp_path / "world", number + 1)
        pybuild, words = world.pybuild, tuple(map(world.text, command.words))
        print(f"{name}: {Mortal(pybuild, f'{name}{number}').die(words, life, chance)}")
        assert_between(Outcome.of(world, command), before, after)
        assert assert_reported_is_there(pybuild, world.place) == world.images()
        validate(pybuild.root)
        is_done = Outcome.of(world, command) == after
        if chance.random() < 0.5:
            pybuild.run("cache prune", "--all")
            assert_nothing_else(pybuild.root)
        done = subprocess.run(
            pybuild.command(*words), env=pybuild.environment(), cwd=world.place, capture_output=True, check=False
        )
        assert done.returncode in ({0, command.again} if is_done else {0}), done.stderr.decode()
        assert Outcome.of(world, command) == after
        pybuild.run("cache prune", "--all")
        assert_nothing_else(pybuild.root)
        assert assert_reported_is_there(pybuild, world.place) == after.images
        assert Outcome.of(world, command) == after
