from __future__ import annotations

import pytest

from layers.registry.challenge import check_realm, choose, parse_challenges
from layers.registry.errors import ProtocolError

CASES = [
    ("", []),
    ("Basic", [("basic", {})]),
    ('Basic realm="x"', [("basic", {"realm": "x"})]),
    ("basic realm=x", [("basic", {"realm": "x"})]),
    (
        'Bearer realm="https://auth/token",service="s",scope="repository:a/b:pull,push"',
        [("bearer", {"realm": "https://auth/token", "service": "s", "scope": "repository:a/b:pull,push"})],
    ),
    ('Bearer Realm = "a" , Service = "b"', [("bearer", {"realm": "a", "service": "b"})]),
    (r'Basic realm="say \"hi\""', [("basic", {"realm": 'say "hi"'})]),
    ('Basic realm="b", Bearer realm="t"', [("basic", {"realm": "b"}), ("bearer", {"realm": "t"})]),
    ('Negotiate, Bearer realm="t"', [("negotiate", {}), ("bearer", {"realm": "t"})]),
    ('Bearer realm="unfinished', [("bearer", {})]),
    ('="x"', []),
]


@pytest.mark.parametrize(("header", "expected"), CASES)
def test_parse(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(found.scheme, dict(found.parameters)) for found in parse_challenges(header)] == expected


def test_bearer_is_preferred_and_what_is_unknown_is_left() -> None:
    found = choose(parse_challenges('Negotiate, Basic realm="b", Bearer realm="t"'))
    assert found is not None
    assert found.scheme == "bearer"
    basic = choose(parse_challenges("Bearer scope=x, Basic realm=b"))
    assert basic is not None
    assert basic.scheme == "basic"
    assert choose(parse_challenges("Negotiate")) is None


REALMS = [
    ("https://auth.example/token", "https", "registry.example", True),
    ("https://registry.example/token", "https", "registry.example", True),
    ("http://auth.example/token", "https", "registry.example", False),
    ("http://registry.example/token", "https", "registry.example", False),
    ("http://registry.example:5001/token", "http", "registry.example:5000", True),
    ("http://other.example/token", "http", "registry.example", False),
    ("http://127.0.0.1:9/token", "http", "127.0.0.1:5000", True),
    ("http://[::1]:9/token", "http", "127.0.0.1:5000", True),
    ("http://127.0.0.1:9/token", "http", "registry.example", False),
    ("https://127.0.0.1/token", "https", "registry.example", False),
    ("https://localhost/token", "https", "registry.example", False),
    ("https://169.254.169.254/latest", "https", "registry.example", False),
    ("https://[fe80::1]/x", "https", "registry.example", False),
    ("https://user:secret@auth.example/token", "https", "registry.example", False),
    ("https:///token", "https", "registry.example", False),
    ("file:///etc/passwd", "https", "registry.example", False),
    ("/token", "https", "registry.example", False),
]


@pytest.mark.parametrize(("realm", "scheme", "host", "good"), REALMS)
def test_realm(realm: str, scheme: str, host: str, good: bool) -> None:
    if good:
        check_realm(realm, registry_scheme=scheme, registry_host=host, subject="image")
        return
    with pytest.raises(ProtocolError, match="is not trusted with credentials") as caught:
        check_realm(realm, registry_scheme=scheme, registry_host=host, subject="image")
    assert "secret" not in str(caught.value)
