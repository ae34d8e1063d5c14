"""Other people's programs read what pybuild made: skopeo, umoci, buildah, a registry between two stores."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.inside import as_root
from harness.pybuild import Pybuild


def output_of(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command[0]}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture
def archive(workshop: Pybuild, built: Callable[[str], str], tmp_path: Path) -> Path:
    """The python-app as an OCI archive."""
    path = tmp_path / "python-app.tar"
    workshop.run("save", "--format", "oci", "-o", path, built("python-app"))
    return path


def test_skopeo_inspects_and_copies_the_archive(archive: Path, tmp_path: Path) -> None:
    config = json.loads(output_of("skopeo", "inspect", "--config", f"oci-archive:{archive}"))
    assert config["config"]["Entrypoint"] == ["python3", "-m", "notes"]
    assert config["config"]["User"] == "notes"
    filled = [entry for entry in config["history"] if not entry.get("empty_layer")]
    assert len(filled) == len(config["rootfs"]["diff_ids"])
    output_of("skopeo", "copy", "--quiet", f"oci-archive:{archive}", f"docker-archive:{tmp_path / 'copy.tar'}:copy:1")


def test_skopeo_reads_the_store_as_it_lies(workshop: Pybuild, built: Callable[[str], str], tmp_path: Path) -> None:
    built("hello")
    index = json.loads((workshop.root / "index.json").read_text())
    annotations = [entry.get("annotations", {}) for entry in index["manifests"]]
    names = [each["org.opencontainers.image.ref.name"] for each in annotations if each]
    [name] = [name for name in names if name.rpartition("/")[2] == "hello:latest"]
    config = json.loads(output_of("skopeo", "inspect", "--config", f"oci:{workshop.root}:{name}"))
    assert config["config"]["Cmd"] == ["hello"]
    output_of("skopeo", "copy", "--quiet", f"oci:{workshop.root}:{name}", f"dir:{tmp_path / 'copy'}")


def test_umoci_unpacks_the_archive(archive: Path, tmp_path: Path) -> None:
    output_of("skopeo", "copy", "--quiet", f"oci-archive:{archive}", f"oci:{tmp_path / 'layout'}:app")
    output_of(*as_root("umoci", "unpack", "--image", f"{tmp_path / 'layout'}:app", tmp_path / "bundle"))
    process = json.loads((tmp_path / "bundle" / "config.json").read_text())["process"]
    assert process["args"] == ["python3", "-m", "notes", "serve"]
    assert process["cwd"] == "/app"
    assert process["user"]["uid"] == 1000
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "usr/bin/python3").readlink() == Path("python3.11")
    assert output_of(*as_root("stat", "-c", "%u", root / "data")) == "1000\n"
    assert {path.name for path in (root / "app/notes").iterdir()} == {
        "__init__.py",
        "__main__.py",
        "server.py",
        "store.py",
    }


def test_buildah_starts_the_image(archive: Path, buildah: list[str]) -> None:
    name = f"app-{uuid.uuid4().hex[:8]}"
    output_of(*buildah, "from", "--name", name, f"oci-archive:{archive}")
    printed = output_of(
        *buildah, "run", "--isolation", "chroot", "--user", "notes", name, "--", "python3", "-m", "notes", "selftest"
    )
    assert printed.startswith("self-test passed: 1 note(s), uid 1000")
    output_of(*buildah, "rm", name)


def test_push_pull_and_run(
    workshop: Pybuild, built: Callable[[str], str], docker_registry: str, tmp_path: Path
) -> None:
    target = f"{docker_registry}/tests/python-app:1.0"
    workshop.run("push", built("python-app"), target)
    config = json.loads(output_of("skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{target}"))
    assert config["config"]["User"] == "notes"
    empty = Pybuild(tmp_path / "store")
    empty.run("pull", target)
    assert empty.run("run", target, "selftest").stdout.startswith("self-test passed: 1 note(s), uid 1000")


def test_a_base_comes_from_a_registry_and_the_result_goes_there(
    workshop: Pybuild, docker_registry: str, tmp_path: Path
) -> None:
    base, result = f"{docker_registry}/bases/busybox:1", f"{docker_registry}/results/one:1"
    workshop.run("push", "busybox", base)
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nRUN echo made here >/made\n")
    fresh = Pybuild(tmp_path / "store")
    fresh.run("build", "-t", result, "--push", tmp_path)
    output_of("skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{result}", f"oci:{tmp_path}/copy:one")
    output_of(*as_root("umoci", "unpack", "--image", f"{tmp_path}/copy:one", tmp_path / "bundle"))
    assert (tmp_path / "bundle" / "rootfs" / "made").read_text() == "made here\n"


def test_archives_of_both_kinds_are_loaded_again(
    workshop: Pybuild, built: Callable[[str], str], examples: Path, tmp_path: Path
) -> None:
    built("hello")
    for kind in ("oci", "docker"):
        archive = tmp_path / f"{kind}.tar"
        workshop.run("build", "-t", f"hello-{kind}", "-o", f"type={kind},dest={archive}", examples / "hello")
        other = Pybuild(tmp_path / f"store-{kind}")
        other.run("load", "-i", archive)
        assert other.run("run", f"hello-{kind}").stdout == "Hello from a container that runs as uid 0\n"
