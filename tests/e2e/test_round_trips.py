"""A real Debian image through every other program and back: the same bytes; and what these programs make, as they made it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.bases import made
from harness.dockerd import Dockerd
from harness.pybuild import Pybuild

NAME = "debian:bookworm"


class Way(NamedTuple):
    """What a way needs: our store with the image, a directory for files, the peers."""

    pybuild: Pybuild
    place: Path
    dockerd: Callable[[], Dockerd]
    registry: str
    buildah: list[str]


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture
def way(
    workshop: Pybuild, tmp_path: Path, docker_registry: str, buildah: list[str], request: pytest.FixtureRequest
) -> Way:
    made("debian")
    return Way(workshop, tmp_path, lambda: request.getfixturevalue("dockerd"), docker_registry, buildah)


def identity(pybuild: Pybuild, name: str) -> tuple[str, list[str]]:
    """Image id and diff ids."""
    [told] = json.loads(pybuild.run("inspect", name).stdout)
    return told["Id"], told["rootfs"]["diff_ids"]


def saved(way: Way, form: str) -> Path:
    archive = way.place / f"{form}.tar"
    way.pybuild.run("save", "--format", form, "-o", archive, NAME)
    return archive


def by_skopeo(way: Way) -> Path:
    back = way.place / "back.tar"
    run("skopeo", "copy", "-q", f"oci-archive:{saved(way, 'oci')}", f"docker-archive:{back}:{NAME}")
    return back


def by_dockerd(way: Way) -> Path:
    dockerd = way.dockerd()
    dockerd.run("rmi", "--force", NAME)
    dockerd.run("load", "--input", saved(way, "docker"))
    [told] = json.loads(dockerd.run("image", "inspect", NAME).stdout)
    assert (told["Id"], told["RootFS"]["Layers"]) == identity(way.pybuild, NAME)
    back = way.place / "back.tar"
    dockerd.run("save", "--output", back, NAME)
    return back


def by_buildah(way: Way) -> Path:
    run(*way.buildah, "pull", "-q", f"oci-archive:{saved(way, 'oci')}")
    back = way.place / "back.tar"
    run(*way.buildah, "push", "-q", NAME, f"docker-archive:{back}:{NAME}")
    return back


def by_umoci(way: Way) -> str:
    layout = way.place / "layout"
    digest = way.pybuild.run("copy", NAME, f"oci:{layout}:one").stdout.strip()
    run("umoci", "tag", "--image", f"{layout}:one", "two")
    index = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert {entry["digest"] for entry in index} == {digest}
    return f"oci:{layout}:two"


def by_registry_and_skopeo(way: Way) -> str:
    name = f"{way.registry}/round/debian:1"
    digest = way.pybuild.run("push", "-q", NAME, name).stdout.strip()
    layout = way.place / "layout"
    run("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{layout}:one")
    [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == digest
    again = f"docker://{way.registry}/round/again:1"
    run("skopeo", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:one", again)
    return again


@pytest.mark.parametrize(
    "through", [by_skopeo, by_dockerd, by_buildah, by_umoci, by_registry_and_skopeo], ids=lambda one: one.__name__
)
def test_debian_comes_back_as_it_was(way: Way, through: Callable[[Way], str | Path]) -> None:
    """The configuration and all files of all layers, bit by bit: the archive that is saved from them is the same."""
    came = through(way)
    other = Pybuild(way.place / "other")
    if isinstance(came, Path):
        other.run("load", "-i", came)
    else:
        other.run("copy", came, NAME)
    assert identity(other, NAME) == identity(way.pybuild, NAME)
    assert _digest(_save_again(other, way.place / "theirs.tar")) == _digest(
        _save_again(way.pybuild, way.place / "ours.tar")
    )


def _save_again(pybuild: Pybuild, archive: Path) -> Path:
    pybuild.run("save", "-o", archive, NAME)
    return archive


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("form", ["oci", "docker"])
@pytest.mark.parametrize("place", ["oci-archive", "docker-archive", "docker"])
def test_what_buildah_commits_is_read(way: Way, form: str, place: str) -> None:
    content = way.place / "content"
    content.mkdir()
    (content / "file").write_text("of buildah\n")
    os.link(content / "file", content / "link")
    container = run(*way.buildah, "from", "scratch").strip()
    run(*way.buildah, "copy", "-q", container, content, "/d")
    run(*way.buildah, "config", "--env", "A=b", "--cmd", "/d/file", container)
    made = run(*way.buildah, "commit", "-q", "--format", form, container, f"made-{form}").strip()
    name = f"{way.registry}/buildah/{form}:1"
    target = f"docker://{name}" if place == "docker" else f"{place}:{way.place}/made.tar:made:1"
    run(*way.buildah, "push", "-q", "--tls-verify=false", "--digestfile", way.place / "digest", f"made-{form}", target)
    other = Pybuild(way.place / "other")
    if place == "docker":
        digest = other.run("pull", "-q", name).stdout.strip()
        assert digest == (way.place / "digest").read_text()
    else:
        other.run("load", "-i", way.place / "made.tar")
    row, *more = map(json.loads, other.run("images", "--format", "json").stdout.splitlines())
    assert {one["id"] for one in more} <= {row["id"]}
    # these two are converted on the way
    if (form, place) not in {("oci", "docker-archive"), ("docker", "oci-archive")}:
        assert row["id"] == f"sha256:{made}"
    out = way.place / "out"
    (way.place / "Dockerfile").write_text(f"FROM {row['repository']}:{row['tag']}\n")
    other.run("build", "-o", f"type=local,dest={out}", way.place)
    assert (out / "d/file").read_text() == "of buildah\n"
    assert (out / "d/file").samefile(out / "d/link")


def test_dockerd_takes_what_is_built(way: Way, examples: Path) -> None:
    """Several layers, whiteouts, links, owners: the id and the layers that docker computes are ours."""
    dockerd, context = way.dockerd(), way.place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir /d && echo content > /d/f && ln /d/f /d/g && chown -h 3:4 /d/g && rm /bin/yes\n"
        "RUN rm -r /d && mkdir /d && ln -s f /d/s\n"
    )
    archive = way.place / "built.tar"
    way.pybuild.run("build", "-t", "built", "-o", "type=image", "-o", f"type=docker,dest={archive}", context)
    dockerd.run("load", "--input", archive)
    [told] = json.loads(dockerd.run("image", "inspect", "built").stdout)
    assert (told["Id"], told["RootFS"]["Layers"]) == identity(way.pybuild, "built")
    dockerd.export_tree("built", way.place / "tree")
    assert os.readlink(way.place / "tree/d/s") == "f"
    assert os.listdir(way.place / "tree/d") == ["s"]
    assert not (way.place / "tree/bin/yes").exists()
    dockerd.run("rmi", "--force", "built")
