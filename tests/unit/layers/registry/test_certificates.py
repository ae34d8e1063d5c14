"""Which certificates count for which host: directories as docker and podman keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from layers.registry.certificates import HostCertificates, find, trusting_context
from layers.registry.errors import TlsError
from layers.registry.settings import RegistrySettings
from layers.testing.docker_registry import make_certificates


@pytest.fixture
def settings(tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(certificates=(tmp_path / "podman", tmp_path / "docker"))


def put(directory: Path, *names: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("")


def test_nothing_where_nothing_is(settings: RegistrySettings) -> None:
    assert find("r.example", settings, "x") == HostCertificates()


def test_the_first_directory_with_one_for_the_host(tmp_path: Path, settings: RegistrySettings) -> None:
    put(tmp_path / "docker/r.example:5000", "ca.crt", "b.crt", "note.txt")
    put(tmp_path / "podman/r.example", "other.crt")
    found = find("r.example:5000", settings, "x")
    assert [path.name for path in found.authorities] == ["b.crt", "ca.crt"]
    put(tmp_path / "podman/r.example:5000", "mine.cert", "mine.key")
    found = find("r.example:5000", settings, "x")
    assert found.authorities == ()
    directory = tmp_path / "podman/r.example:5000"
    assert found.pairs == ((directory / "mine.cert", directory / "mine.key"),)


def test_one_directory_for_all_hosts(tmp_path: Path, settings: RegistrySettings) -> None:
    put(tmp_path / "docker/r.example", "ca.crt")
    put(tmp_path / "own", "own.crt")
    own = settings._replace(own_certificates=tmp_path / "own")
    assert [path.name for path in find("r.example", own, "x").authorities] == ["own.crt"]
    with pytest.raises(TlsError, match=r'certificates ".*/gone": no such directory'):
        find("r.example", own._replace(own_certificates=tmp_path / "gone"), "x")


@pytest.mark.parametrize(("name", "other"), [("a.cert", "a.key"), ("a.key", "a.cert")])
def test_a_certificate_without_its_key(tmp_path: Path, settings: RegistrySettings, name: str, other: str) -> None:
    put(tmp_path / "docker/r.example", name)
    with pytest.raises(TlsError, match=f'r.example": "{name}" needs "{other}" beside it'):
        find("r.example", settings, "x")


def test_files_that_hold_no_certificate(tmp_path: Path) -> None:
    put(tmp_path, "ca.crt", "a.cert", "a.key")
    with pytest.raises(TlsError, match=r'^x: certificate file ".*/ca.crt": '):
        trusting_context((), HostCertificates((tmp_path / "ca.crt",)), "x")
    with pytest.raises(TlsError, match=r'^x: certificate file ".*/a.cert": '):
        trusting_context((), HostCertificates((), ((tmp_path / "a.cert", tmp_path / "a.key"),)), "x")
    with pytest.raises(TlsError, match=r'^x: certificate file ".*/gone.pem": no such file or directory'):
        trusting_context((tmp_path / "gone.pem",), HostCertificates(), "x")


def test_good_ones_are_taken(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    context = trusting_context((), HostCertificates((made.authority,), ((made.certificate, made.key),)), "x")
    assert context.check_hostname
    names = [dict(pair[0] for pair in entry["subject"]) for entry in context.get_ca_certs()]  # type: ignore[misc]
    assert {"commonName": "test authority"} in names
