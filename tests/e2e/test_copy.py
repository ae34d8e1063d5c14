"""``pybuild copy`` and its kin as commands, with the real registry, and what skopeo, umoci and podman make of it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.pybuild import COMMAND
from layers.manifest import Index
from layers.platform import Platform
from layers.snapshotter import Snapshotter
from layers.store import Store
from layers.testing.docker_registry import DockerRegistry, make_certificates
from layers.testing.images import random_image
from layers.testing.simple import store_image

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
USERS = {"alice": "correct-horse"}
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def pybuild(tmp_path: Path, project_root: Path) -> Command:
    """Runs ``pybuild`` with a home of its own."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "DOCKER_", "REGISTRY_"))
    }
    environ |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(project_root)}

    def run(*words: str, given: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *words], capture_output=True, text=True, input=given, env=environ, cwd=tmp_path, check=False
        )
        assert done.returncode == status, done.stderr
        return done

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "home/.local/share/pybuild"


@pytest.fixture
def index(root: Path) -> Index:
    """A small image for two platforms is in the store as ``multi:1``, a random one as ``sample:1``."""
    with Store(root) as store:
        images = [store_image(store, None, [str(one).encode() * 999], platform=one) for one in (AMD64, ARM64)]
        made = Index.create([image.descriptor(one) for image, one in zip(images, (AMD64, ARM64), strict=True)])
        store.blobs.put(made.raw)
        store.tag("multi:1", made.descriptor())
        random_image(store, "sample:1", seed=5)
    return made


def peer(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_every_place_and_what_peers_read(
    registry: DockerRegistry, pybuild: Command, index: Index, tmp_path: Path
) -> None:
    first, second = f"docker://{registry.host}/copy/a:1", f"docker://{registry.host}/copy/b:1"
    ways = [
        ("multi:1", first),
        (first, second),
        (second, "oci:layout:1"),
        ("oci:layout:1", "oci-archive:x.tar:m:1"),
        ("oci-archive:x.tar", "back:1"),
    ]
    for source, target in ways:
        assert pybuild("copy", source, target).stdout == f"{index.digest}\n"
    for place in (first, second):
        assert peer("skopeo", "inspect", "--raw", "--tls-verify=false", place).encode() == index.raw
    layout = f"oci:{tmp_path}/layout:1"
    assert peer("skopeo", "inspect", "--raw", layout).encode() == index.raw
    peer(
        "skopeo",
        "copy",
        "-q",
        "--all",
        "--preserve-digests",
        "--dest-tls-verify=false",
        layout,
        f"docker://{registry.host}/copy/c:1",
    )
    assert pybuild("copy", f"docker://{registry.host}/copy/c:1", "oci:again:1").stdout == f"{index.digest}\n"
    # umoci takes no index with several images
    pybuild("copy", "--platform", "linux/amd64", second, "oci:single:1")
    assert json.loads(peer("umoci", "stat", "--image", f"{tmp_path}/single:1", "--json"))["history"]
    one = pybuild("copy", "--platform", "linux/arm64", second, "docker-archive:y.tar:m:1").stdout
    assert one == f"{index.manifests[1].digest}\n"
    seen = json.loads(peer("skopeo", "inspect", f"docker-archive:{tmp_path}/y.tar:m:1"))
    assert seen["Architecture"] == "arm64"


def test_push_of_an_index_and_pull_of_all(
    registry: DockerRegistry, pybuild: Command, index: Index, root: Path, tmp_path: Path
) -> None:
    names = [f"{registry.host}/push/multi:1", f"{registry.host}/push/multi:2"]
    digest = pybuild("push", "--digestfile", "digest", "multi:1", *names).stdout.strip()
    assert (tmp_path / "digest").read_text() == digest
    for name in names:
        listed = json.loads(peer("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"))
        assert [entry["platform"]["architecture"] for entry in listed["manifests"]] == ["amd64", "arm64"]
    shutil.rmtree(root)
    assert pybuild("pull", "--all-platforms", names[0]).stdout.strip() == digest
    with Store(root) as store:
        assert store.image(names[0], ARM64).config.architecture == "arm64"


def test_pull_leaves_a_root(registry: DockerRegistry, pybuild: Command, index: Index, root: Path) -> None:
    name = f"{registry.host}/push/sample:1"
    pybuild("push", "sample:1", name)
    with Store(root) as store:
        chain = store.image("sample:1").config.rootfs.chain_ids[-1]
    shutil.rmtree(root)
    pybuild("pull", "-q", name)
    with Store(root) as store:
        assert Snapshotter(store).has(chain)


def test_a_registry_of_our_own_authority(pybuild: Command, index: Index, tmp_path: Path) -> None:
    """Options, podman's directory of certificates, login and logout; no secret is said."""
    made = make_certificates(tmp_path / "certificates")
    with DockerRegistry(tmp_path / "registry", users=USERS, certificates=made) as registry:
        name = f"{registry.host}/own/multi:1"
        said = pybuild("push", "multi:1", name, status=1).stderr
        assert "certificate refused" in said
        pybuild(
            "login", "--tls-verify=false", "-u", "alice", "--password-stdin", registry.host, given="wrong\n", status=1
        )
        authfile = tmp_path / "auth.json"
        login = ["login", "--authfile", str(authfile), "-u", "alice", "--password-stdin", registry.host]
        pybuild(*login, "--tls-verify=false", given=f"{USERS['alice']}\n")
        assert stat.S_IMODE(authfile.stat().st_mode) == 0o600
        pybuild("push", "--tls-verify=false", "--authfile", str(authfile), "multi:1", name)
        trusted = tmp_path / "trusted"
        trusted.mkdir()
        shutil.copy(made.authority, trusted / "ca.crt")
        own = ["--dest-cert-dir", str(trusted), "--dest-authfile", str(authfile)]
        pybuild("copy", *own, "multi:1", f"docker://{registry.host}/own/copied:1")
        directory = tmp_path / "home/.config/containers/certs.d" / registry.host
        directory.parent.mkdir(parents=True)
        trusted.rename(directory)
        said = pybuild("pull", name, status=1).stderr
        assert "unauthorized: no credentials" in said
        assert pybuild("pull", "--authfile", str(authfile), name).stdout.startswith("sha256:")
        pybuild("logout", "--authfile", str(authfile), registry.host)
        assert USERS["alice"] not in authfile.read_text()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("copy", "multi:1", "dir:x"), 1, '"dir:x" is no place that images are copied from or to'),
        (("copy", "multi:1", "multi:1"), 2, "source and target are both 'multi:1'"),
        (("copy", "oci:gone:1", "x:1"), 1, 'layout "gone": it is no image layout'),
        (("copy", "--platform", "linux/s390x", "multi:1", "oci:l:1"), 1, "there is no image for linux/s390x"),
        (("push", "--creds", "a:b", "multi:1"), 2, "--creds: everybody may see it"),
        (("login", "-p", "x", "r.example"), 2, "-p: everybody may see it"),
        (("pull", "--tls-verify=no", "x"), 2, "expected true or false, got 'no'"),
        (("pull", "--cert-dir", "gone", "x"), 2, "there is no directory 'gone'"),
        (("pull", "--platform", "linux/arm64", "--all-platforms", "x"), 2, "they exclude each other"),
    ],
)
def test_what_makes_no_sense(pybuild: Command, index: Index, words: tuple[str, ...], status: int, said: str) -> None:
    done = pybuild(*words, status=status)
    assert said in done.stderr
    assert done.stdout == ""
