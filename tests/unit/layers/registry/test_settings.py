from __future__ import annotations

import pytest

from layers.registry.errors import printable
from layers.registry.settings import RegistrySettings, api_host, hosts_for_pull, is_loopback, plain_http_allowed


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("a.localhost:1", True),
        ("127.0.0.1", True),
        ("127.200.3.4:80", True),
        ("[::1]:5000", True),
        ("[::1]", True),
        ("[::2]:5000", False),
        ("128.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example:5000", False),
        ("example", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert plain_http_allowed(host, RegistrySettings()) is loopback


def test_http_where_configured() -> None:
    settings = RegistrySettings(insecure=frozenset({"registry.example:5000"}))
    assert plain_http_allowed("registry.example:5000", settings)
    assert not plain_http_allowed("registry.example", settings)


def test_hosts() -> None:
    settings = RegistrySettings(mirrors={"docker.io": ("mirror.example", "registry-1.docker.io")})
    assert api_host("docker.io") == "registry-1.docker.io"
    assert hosts_for_pull("docker.io", settings) == ("mirror.example", "registry-1.docker.io")
    assert hosts_for_pull("quay.io", settings) == ("quay.io",)


def test_foreign_text_is_tamed() -> None:
    assert printable("a\nb\x1b[31m\tc") == "a b [31m c"
    assert len(printable("x" * 5000)) == 201
