"""The real registry behind a bad line: whatever goes wrong, a push, a pull or a copy ends, and never in a wrong image.

``REGISTRY_FAULTS=200`` makes that many runs, ``REGISTRY_FAULTS_SEED`` chooses others.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layers.copying.addresses import parse
from layers.copying.copy import Sides, copy
from layers.digest import Digest
from layers.errors import LayersError
from layers.layoutdir import LayoutDirectory
from layers.manifest import Manifest
from layers.registry import errors, transfer
from layers.registry.settings import Patience, RegistrySettings
from layers.store import Store
from layers.testing.docker_registry import DockerRegistry
from layers.testing.faults import (
    Corrupt,
    Delay,
    Drop,
    DropRequest,
    Extend,
    Fault,
    IgnoreRange,
    Stall,
    Status,
    Trickle,
    Truncate,
)
from layers.testing.registry import FaultyRegistry
from layers.testing.registry_content import Upstream
from layers.testing.simple import store_image
from layers.validate import validate_image

RUNS = int(os.environ.get("REGISTRY_FAULTS", "5"))
SEED = int(os.environ.get("REGISTRY_FAULTS_SEED", "1"))
LAYER_BYTES = 700_000
LONGEST_SECONDS = 60.0
PLACES = ["/blobs/sha256", "/blobs/uploads/", "/manifests/", "/v2/"]
METHODS = ["*", "GET", "PUT", "POST", "HEAD", "PATCH"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path_factory.mktemp("faults")) as registry:
        yield registry


@pytest.fixture
def line(plain: DockerRegistry) -> Iterator[FaultyRegistry]:
    with FaultyRegistry(Upstream(plain.host)) as proxy:
        yield proxy


def some_fault(chance: random.Random) -> Fault:
    at = chance.choice([0, 1, 1000, 65_536, 400_000])
    return chance.choice(
        [
            Drop(),
            Drop(at),
            DropRequest(at),
            Truncate(at),
            Corrupt(at),
            Extend(b"more"),
            Stall(at),
            Delay(0.2),
            Delay(2.0),
            Trickle(50_000, 0.05),
            Trickle(1, 0.05),
            IgnoreRange(),
            Status(429, {"Retry-After": "0"}),
            Status(429, {"Retry-After": "100000"}),
            Status(500),
            Status(502, {}, b"<html>bad gateway</html>"),
            Status(503),
        ]
    )


def disturb(line: FaultyRegistry, chance: random.Random) -> None:
    """The line has other faults from now on."""
    line.heal()
    for _ in range(chance.randint(1, 4)):
        times = chance.choice([1, 1, 2, 3, None])
        line.fail(
            chance.choice(METHODS), chance.choice(PLACES), some_fault(chance), times=times, skip=chance.randint(0, 3)
        )


def settings_for(chance: random.Random, tmp_path: Path) -> RegistrySettings:
    patience = Patience(
        read_seconds=1.0,
        tries=chance.choice([2, 4]),
        first_delay_seconds=0.02,
        longest_delay_seconds=0.05,
        retry_after_limit_seconds=2.0,
    )
    return RegistrySettings(
        patience=patience,
        auth_files=(tmp_path / "auth.json",),
        connections=chance.choice([1, 4]),
        part_bytes=chance.choice([0, 0, 200_000]),
    )


def assert_whole(store: Store, name: str, expected: Manifest) -> None:
    validate_image(store, name)
    assert store.image(name).manifest.raw == expected.raw


def assert_nothing(store: Store, *, names: int = 0) -> None:
    assert len(store.entries()) == names
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize("run", range(RUNS))
def test_every_run_ends_well_or_clearly(plain: DockerRegistry, line: FaultyRegistry, tmp_path: Path, run: int) -> None:
    chance = random.Random(SEED * 100_003 + run)
    there, here = f"{line.host}/run{SEED}/n{run}:1", f"{plain.host}/run{SEED}/n{run}:1"
    careful = RegistrySettings(auth_files=(tmp_path / "auth.json",))
    with Store(tmp_path / "store") as store, Store(tmp_path / "direct") as direct, Store(tmp_path / "back") as back:
        made = store_image(store, "made:1", [chance.randbytes(LAYER_BYTES), chance.randbytes(1000)])

        disturb(line, chance)
        settings = settings_for(chance, tmp_path)
        pushed = _attempt(lambda: transfer.push(store, "made:1", there, settings=settings, compression="none"))
        assert_nothing(store, names=1)
        try:
            transfer.pull(direct, here, settings=careful)
        except errors.ManifestUnknownError:
            assert pushed is None, "a push that said it succeeded"
            transfer.push(store, "made:1", here, settings=careful, compression="none")
        else:
            assert_whole(direct, here, made)
        assert pushed in {None, made.digest}

        disturb(line, chance)
        settings = settings_for(chance, tmp_path)
        pulled = _attempt(lambda: transfer.pull(back, there, settings=settings).digest)
        if pulled is None:
            assert_nothing(back)
        else:
            assert_whole(back, there, made)

        disturb(line, chance)
        settings = settings_for(chance, tmp_path)
        layout = f"oci:{tmp_path}/layout:1"
        copied = _attempt(
            lambda: copy(back, parse(f"docker://{there}"), parse(layout), sides=Sides(settings, settings))
        )
        entries = LayoutDirectory(f"{tmp_path}/layout").entries()
        assert [entry.digest for entry in entries] == ([] if copied is None else [made.digest])
        assert os.listdir(tmp_path / "layout/blobs") == ["sha256"]
    read_back = _skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{here}")
    assert read_back == made.raw
    if copied is not None:
        _skopeo("copy", "-q", layout, f"oci:{tmp_path}/checked:1")


def _attempt(call: object) -> Digest | None:
    """What the call returns, None when it ended in one clear line."""
    assert callable(call)
    begun = time.monotonic()
    try:
        done = call()
    except LayersError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 1000
        done = None
    assert time.monotonic() - begun < LONGEST_SECONDS
    assert done is None or isinstance(done, Digest)
    return done


def _skopeo(*arguments: str) -> bytes:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
