"""One store for the examples of a session: they are built once and looked at by many tests."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.abilities import missing_for_ids
from harness.bases import made
from harness.laboratory import laboratory
from harness.pybuild import Pybuild
from layers.testing.docker_registry import DockerRegistry

__all__ = ["laboratory"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory needs what the marker e2e says."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def examples(project_root: Path) -> Path:
    return project_root / "examples" / "Dockerfiles"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Pybuild:
    """pybuild with a store that holds both bases, as far as they can be made here, and lasts for the session."""
    pybuild = Pybuild(tmp_path_factory.mktemp("workshop") / "store")
    for base in ("busybox", "debian") if missing_for_ids() is None else ("busybox",):
        pybuild.load_base(base)
    return pybuild


@pytest.fixture(scope="session")
def built(workshop: Pybuild, examples: Path) -> Callable[[str], str]:
    """``built("hello")``: the example is in the workshop's store; its name there."""

    @functools.cache
    def build(example: str) -> str:
        if "debian" in (examples / example / "Dockerfile").read_text():
            made("debian")
        workshop.run("build", "--progress", "plain", "-t", example, examples / example)
        return example

    return build


@pytest.fixture
def small(pybuild: Pybuild) -> Pybuild:
    """pybuild with an own store that holds busybox."""
    pybuild.load_base("busybox")
    return pybuild


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``127.0.0.1:PORT`` of a registry without authentication that serves the whole session."""
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry.host


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[list[str]]:
    """The buildah command with its own storage, which is gone at the end."""
    base = ["buildah", "--root", f"{tmp_path}/buildah", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs"]
    yield base
    subprocess.run([*base, "rm", "--all"], capture_output=True, check=False)
    subprocess.run([*base, "rmi", "--all", "--force"], capture_output=True, check=False)
