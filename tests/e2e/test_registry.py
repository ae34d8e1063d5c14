"""Push and pull against the real registry, directly and through a bad line, read back by skopeo."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from layers import media
from layers.registry import auth, errors, transfer
from layers.registry.progress import TransferProgress
from layers.registry.settings import Patience, RegistrySettings
from layers.store import Store, StoredImage
from layers.testing.docker_registry import DockerRegistry, free_port, make_certificates
from layers.testing.faults import Corrupt, Drop, DropRequest, Fault, Status, Truncate
from layers.testing.images import random_image
from layers.testing.registry import FaultyRegistry
from layers.testing.registry_access import Access
from layers.testing.registry_content import Upstream
from layers.testing.simple import store_image
from layers.testing.tokens import Signer
from layers.validate import validate_image

QUICK = Patience(tries=4, first_delay_seconds=0.05, longest_delay_seconds=0.1, read_seconds=20)
USERS = {"alice": "correct-horse"}
LARGE = bytes(range(253)) * 20_000


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path_factory.mktemp("plain")) as registry:
        yield registry


@pytest.fixture
def settings(tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(patience=QUICK, auth_files=(tmp_path / "auth.json",))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "empty") as opened:
        yield opened


@pytest.fixture
def image(store: Store) -> StoredImage:
    return random_image(store, "sample:1", seed=7, layers=3)


def skopeo(*arguments: str) -> str:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_same_content(first: Store, image: StoredImage, second: Store, name: str) -> None:
    pulled = second.image(name)
    assert pulled.id == image.id
    assert pulled.config == image.config
    assert second.blobs.read(pulled.id) == first.blobs.read(image.id)
    validate_image(second, name)


@pytest.mark.parametrize("compression", ["gzip", "gzip:zlib", "zstd", "none"])
def test_there_and_back(
    plain: DockerRegistry, store: Store, empty: Store, image: StoredImage, settings: RegistrySettings, compression: str
) -> None:
    name = f"{plain.host}/round/{compression.replace(':', '-')}:1"
    digest = transfer.push(store, "sample:1", name, settings=settings, compression=compression)
    assert transfer.pull(empty, name, settings=settings).digest == digest
    assert_same_content(store, image, empty, name)
    for layer in empty.image(name).manifest.layers:
        assert media.layer_compression(layer.media_type) == compression.partition(":")[0]


def test_skopeo_reads_what_was_pushed(
    plain: DockerRegistry, store: Store, image: StoredImage, settings: RegistrySettings, tmp_path: Path
) -> None:
    name = f"{plain.host}/team/app:1"
    digest = transfer.push(store, "sample:1", name, tags=["latest"], settings=settings)
    seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{plain.host}/team/app:latest"))
    assert seen["Digest"] == digest
    assert sorted(seen["RepoTags"]) == ["1", "latest"]
    assert seen["Architecture"] == image.config.architecture
    assert seen["Env"] == list(image.config.env)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    assert json.loads(raw)["config"]["digest"] == image.id
    skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path}/copy:1")
    copied = json.loads((tmp_path / "copy/index.json").read_text())
    assert copied["manifests"][0]["digest"] == digest


def test_what_skopeo_pushed_is_pulled(
    plain: DockerRegistry, store: Store, empty: Store, image: StoredImage, settings: RegistrySettings
) -> None:
    """As OCI and as docker's schema 2, from our store as it lies; and the store we pulled into is read by skopeo."""
    for kind in ("oci", "v2s2"):
        name = f"{plain.host}/skopeo/{kind}:1"
        skopeo("copy", "--format", kind, "--dest-tls-verify=false", f"oci:{store.root}:sample:1", f"docker://{name}")
        transfer.pull(empty, name, settings=settings)
        pulled = empty.image(name)
        assert pulled.config.rootfs == image.config.rootfs
        validate_image(empty, name)
        expected = media.DOCKER_MANIFEST if kind == "v2s2" else media.OCI_MANIFEST
        assert pulled.manifest.media_type == expected
        if kind == "oci":  # skopeo takes no docker manifest from a layout
            assert json.loads(skopeo("inspect", f"oci:{empty.root}:{name}"))["Layers"]


def test_a_second_push_sends_nothing(
    plain: DockerRegistry, store: Store, image: StoredImage, settings: RegistrySettings
) -> None:
    states: dict[str, str] = {}

    def note(progress: TransferProgress) -> None:
        states[progress.digest] = progress.state

    first = transfer.push(store, "sample:1", f"{plain.host}/twice:1", settings=settings, progress=note)
    assert set(states.values()) == {"done"}
    assert transfer.push(store, "sample:1", f"{plain.host}/twice:2", settings=settings, progress=note) == first
    assert set(states.values()) == {"exists"}
    # another repository of the same registry takes the layers over
    store.tag(f"{plain.host}/twice:1", image.descriptor)
    assert transfer.push(store, "sample:1", f"{plain.host}/thrice:1", settings=settings, progress=note) == first
    assert sorted(states.values()) == ["done", "mounted", "mounted", "mounted"]


def test_unknown_names(plain: DockerRegistry, empty: Store, settings: RegistrySettings) -> None:
    with pytest.raises(errors.ManifestUnknownError) as caught:
        transfer.pull(empty, f"{plain.host}/absent/image:1", settings=settings)
    assert str(caught.value) == f"{plain.host}/absent/image:1: manifest unknown"


def test_a_registry_that_is_down(empty: Store) -> None:
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(errors.ConnectionFailedError) as caught:
        transfer.pull(empty, f"{host}/demo:1")
    assert str(caught.value) == f"{host}/demo:1: {host}: connection refused"


# -- identity and trust ----------------------------------------------------------------------------------------------
def test_basic_authentication(
    tmp_path: Path, store: Store, empty: Store, image: StoredImage, settings: RegistrySettings
) -> None:
    with DockerRegistry(tmp_path / "registry", users=USERS) as registry:
        name = f"{registry.host}/private:1"
        with pytest.raises(errors.UnauthorizedError, match="no credentials for"):
            transfer.push(store, "sample:1", name, settings=settings)
        with pytest.raises(errors.UnauthorizedError, match="does not accept the credentials given"):
            auth.login(registry.host, "alice", "wrong", settings=settings)
        auth.login(registry.host, "alice", USERS["alice"], settings=settings)
        transfer.push(store, "sample:1", name, settings=settings)
        transfer.pull(empty, name, settings=settings)
        assert_same_content(store, image, empty, name)
        # skopeo finds what login wrote, and we what skopeo wrote
        authfile = settings.auth_files[0]
        skopeo("inspect", "--tls-verify=false", "--authfile", str(authfile), f"docker://{name}")
        assert auth.logout(registry.host, settings=settings) == (str(authfile),)
        secret = USERS["alice"]
        skopeo("login", "--tls-verify=false", "--authfile", str(authfile), "-u", "alice", "-p", secret, registry.host)
        transfer.resolve(name, settings=settings)


def test_tls_with_an_authority_of_our_own(
    tmp_path: Path, store: Store, empty: Store, image: StoredImage, settings: RegistrySettings
) -> None:
    certificates = make_certificates(tmp_path / "certificates")
    with DockerRegistry(tmp_path / "registry", users=USERS, certificates=certificates) as registry:
        name = f"{registry.host}/secure:1"
        with pytest.raises(errors.TlsError) as caught:
            transfer.push(store, "sample:1", name, settings=settings)
        expected = "certificate refused: unable to get local issuer certificate"
        assert str(caught.value) == f"{name}: {registry.host}: {expected}"
        trusting = settings._replace(ca_files=(certificates.authority,))
        auth.login(registry.host, "alice", USERS["alice"], settings=trusting)
        transfer.push(store, "sample:1", name, settings=trusting)
        transfer.pull(empty, name, settings=trusting)
        assert_same_content(store, image, empty, name)
        careless = settings._replace(insecure=frozenset({registry.host}))
        transfer.resolve(name, settings=careless)


def test_a_certificate_for_another_host(tmp_path: Path, empty: Store, settings: RegistrySettings) -> None:
    certificates = make_certificates(tmp_path / "certificates", host="registry.example")
    with DockerRegistry(tmp_path / "registry", certificates=certificates) as registry:
        trusting = settings._replace(ca_files=(certificates.authority,))
        with pytest.raises(errors.TlsError, match="certificate refused: IP address mismatch"):
            transfer.pull(empty, f"{registry.host}/demo:1", settings=trusting)


def test_certificates_of_one_registry_and_ours(
    tmp_path: Path, store: Store, empty: Store, image: StoredImage, settings: RegistrySettings
) -> None:
    """Where docker and podman keep them; a registry that asks for a certificate of ours gets it."""
    certificates = make_certificates(tmp_path / "certificates")
    with DockerRegistry(tmp_path / "registry", certificates=certificates, clients=certificates.authority) as registry:
        name = f"{registry.host}/secure:1"
        directory = tmp_path / "certs.d" / registry.host
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(certificates.authority.read_bytes())
        known = settings._replace(certificates=(tmp_path / "certs.d",))
        with pytest.raises(errors.ConnectionFailedError):
            transfer.push(store, "sample:1", name, settings=known)
        (directory / "client.cert").write_bytes(certificates.certificate.read_bytes())
        (directory / "client.key").write_bytes(certificates.key.read_bytes())
        transfer.push(store, "sample:1", name, settings=known)
        transfer.pull(empty, name, settings=known)
        assert_same_content(store, image, empty, name)
        inspected = skopeo("inspect", "--cert-dir", str(directory), f"docker://{name}")
        assert json.loads(inspected)["Architecture"] == image.config.architecture


def test_tokens_of_a_server(
    tmp_path: Path, store: Store, empty: Store, image: StoredImage, settings: RegistrySettings
) -> None:
    """The real registry believes what the server signs: by user and password, and by an identity token."""
    signer = Signer(tmp_path / "signer")
    access = Access("bearer", USERS, identity_tokens={"identity": "alice"}, issue=signer.issue)
    with (
        FaultyRegistry(access=access) as server,
        DockerRegistry(tmp_path / "registry", tokens=(f"http://{server.host}/token", signer)) as registry,
    ):
        name = f"{registry.host}/team/app:1"
        with pytest.raises(errors.UnauthorizedError, match="no credentials"):
            transfer.push(store, "sample:1", name, settings=settings)
        auth.login(registry.host, "alice", USERS["alice"], settings=settings)
        digest = transfer.push(store, "sample:1", name, settings=settings)
        other = f"{registry.host}/other/app:1"
        assert transfer.push(store, "sample:1", other, settings=settings) == digest
        assert {scope for granted in access.granted for scope in granted} >= {
            "repository:team/app:pull,push",
            "repository:other/app:pull,push",
        }
        auth.logout(registry.host, settings=settings)
        settings.auth_files[0].write_text(json.dumps({"auths": {registry.host: {"identitytoken": "identity"}}}))
        transfer.pull(empty, name, settings=settings)
        assert_same_content(store, image, empty, name)
        assert server.seen("POST", "/token")
        settings.auth_files[0].write_text(json.dumps({"auths": {registry.host: {"identitytoken": "wrong"}}}))
        with pytest.raises(errors.UnauthorizedError):
            transfer.resolve(name, settings=settings)


# -- a bad line ------------------------------------------------------------------------------------------------------
@pytest.fixture
def line(plain: DockerRegistry) -> Iterator[FaultyRegistry]:
    """The real registry, at the end of a line that can be disturbed."""
    with FaultyRegistry(Upstream(plain.host)) as proxy:
        yield proxy


def test_a_dropped_line_is_taken_up(
    line: FaultyRegistry, store: Store, empty: Store, settings: RegistrySettings
) -> None:
    made = store_image(store, "large:1", [LARGE])
    name = f"{line.host}/line/dropped:1"
    line.fail("PUT", "/blobs/uploads/", DropRequest(1_000_000), times=1)
    transfer.push(store, "large:1", name, settings=settings, compression="none")
    line.fail("GET", made.layers[0].digest, Drop(1_500_000), times=1)
    line.fail("GET", made.layers[0].digest, Truncate(1_500_000), times=1)
    transfer.pull(empty, name, settings=settings)
    seen = line.seen("GET", made.layers[0].digest)
    assert [one.status for one in seen] == [200, 206, 206]
    assert [one.headers.get("range") for one in seen] == [None, "bytes=1500000-", "bytes=3000000-"]
    assert empty.blobs.read(made.layers[0].digest) == store.blobs.read(made.layers[0].digest)


@pytest.mark.parametrize("fault", [Corrupt(1_000_000), Truncate(0)])
def test_wrong_bytes_are_not_stored(
    line: FaultyRegistry, store: Store, empty: Store, settings: RegistrySettings, fault: Fault
) -> None:
    made = store_image(store, "large:1", [LARGE])
    name = f"{line.host}/line/wrong:1"
    transfer.push(store, "large:1", name, settings=settings, compression="none")
    line.fail("GET", made.layers[0].digest, fault)
    with pytest.raises(errors.ContentError):
        transfer.pull(empty, name, settings=settings)
    assert made.layers[0].digest not in empty.blobs
    assert not empty.entries()
    assert not list((empty.root / "tmp").iterdir())
    line.heal()
    transfer.pull(empty, name, settings=settings)
    validate_image(empty, name)


def test_a_busy_registry(line: FaultyRegistry, store: Store, empty: Store, settings: RegistrySettings) -> None:
    store_image(store, "large:1", [LARGE])
    name = f"{line.host}/line/busy:1"
    line.fail("*", "/v2/", Status(429, {"Retry-After": "0"}), times=2)
    line.fail("*", "/v2/", Status(503), times=1, skip=3)
    transfer.push(store, "large:1", name, settings=settings)
    transfer.pull(empty, name, settings=settings)
    validate_image(empty, name)


def test_a_registry_that_is_started_anew(
    tmp_path: Path, store: Store, empty: Store, image: StoredImage, settings: RegistrySettings
) -> None:
    """What it held before is there, and a client that found it down finds it again."""
    with DockerRegistry(tmp_path / "registry") as registry:
        name = f"{registry.host}/app:1"
        transfer.push(store, "sample:1", name, settings=settings)
        registry.stop()
        with pytest.raises(errors.ConnectionFailedError):
            transfer.pull(empty, name, settings=settings)
        registry.start()
        transfer.pull(empty, name, settings=settings)
        assert_same_content(store, image, empty, name)


# -- memory ----------------------------------------------------------------------------------------------------------
# not getrusage(2): its peak begins with that of the process that started this one
MEASURE = """
import re, sys
from pathlib import Path
from layers.registry import transfer
from layers.store import Store
act, root, name = sys.argv[1:]
with Store(root) as store:
    if act == "push":
        transfer.push(store, "large:1", name)
    else:
        transfer.pull(store, name)
print(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_layer(
    plain: DockerRegistry, store: Store, tmp_path: Path, project_root: Path
) -> None:
    """A layer of 384 MiB goes there, compressed on the way, and comes back in 128 MiB of memory."""
    import sys

    _store_large(store, 384 << 20)
    name = f"{plain.host}/memory:1"
    for act, root in (("push", store.root), ("pull", tmp_path / "back")):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, act, str(root), name],
            capture_output=True,
            text=True,
            check=True,
            cwd=project_root,
        )
        assert int(done.stdout) < 128 << 10, f"{act} took {int(done.stdout) >> 10} MiB"


def _store_large(store: Store, size_bytes: int) -> None:
    import hashlib
    import random

    from layers.config import ImageConfig, RootFS
    from layers.digest import from_hex
    from layers.manifest import Manifest

    block = random.Random(3).randbytes(1 << 16) + bytes(range(256)) * 3840
    digest = hashlib.sha256()

    def blocks() -> Iterator[bytes]:
        for number in range(size_bytes >> 20):
            data = number.to_bytes(8, "big") + block[8:]
            digest.update(data)
            yield data

    layer = store.blobs.put(blocks(), media_type=media.OCI_LAYER)
    assert layer.digest == from_hex(digest.hexdigest())
    config = ImageConfig(architecture="amd64", rootfs=RootFS((layer.digest,)))
    manifest = Manifest.create(store.blobs.put(config.to_bytes(), media_type=media.OCI_CONFIG), [layer])
    store.blobs.put(manifest.raw)
    store.tag("large:1", manifest.descriptor())
