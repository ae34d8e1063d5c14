from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from layers.registry.settings import Patience, RegistrySettings
from layers.store import Store
from layers.testing.registry import FaultyRegistry
from layers.testing.simple import store_image

QUICK = Patience(
    connect_seconds=2.0,
    read_seconds=5.0,
    tries=3,
    first_delay_seconds=0.01,
    longest_delay_seconds=0.02,
    retry_after_limit_seconds=2.0,
    helper_seconds=5.0,
)
LARGE = bytes(range(251)) * 5_000


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, without credentials, in which helpers can be put onto the PATH."""
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
    return home


@pytest.fixture
def settings(environ: Path) -> RegistrySettings:
    return RegistrySettings(patience=QUICK)


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "empty") as opened:
        yield opened


@pytest.fixture
def image(store: Store) -> str:
    """An image of two layers, one of them some megabytes long."""
    store_image(store, "sample:1", [LARGE, b"small"])
    return "sample:1"
