"""A registry that means us harm: every answer ends, soon, in one clear error, and nothing is stored."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator

import pytest

from layers import media
from layers.digest import sha256
from layers.registry import errors, transfer
from layers.registry.settings import RegistrySettings
from layers.store import Store
from layers.testing.faults import Endless, Extend, Fault, Headers, Redirect, Status, Trickle
from layers.testing.registry import FaultyRegistry
from layers.testing.registry_access import Access
from layers.testing.simple import store_image

LAYER = bytes(range(251)) * 5_000


@pytest.fixture
def quick(settings: RegistrySettings) -> RegistrySettings:
    """Little patience: what comes too slowly is given up within a second."""
    return settings._replace(patience=settings.patience._replace(read_seconds=0.4, tries=2))


@pytest.fixture
def pushed(registry: FaultyRegistry, store: Store, settings: RegistrySettings) -> str:
    name = f"{registry.host}/team/sample:1"
    store_image(store, "sample:1", [LAYER])
    transfer.push(store, "sample:1", name, settings=settings, compression="none")
    return name


@pytest.fixture(autouse=True)
def nothing_stored(empty: Store) -> Iterator[None]:
    yield
    assert not empty.entries()
    assert not list((empty.root / "tmp").iterdir())


MANIFEST, BLOB = "/manifests/", "/blobs/sha256"
LONG_HEADER = Headers({"X-Long": "x" * (1 << 20)})
MANY_HEADERS = Headers({f"X-{number}": "x" for number in range(2000)})
LOGIN = {"WWW-Authenticate": 'Bearer realm="https://'}

PULLS: list[tuple[str, str, Fault, type[errors.RegistryError], str]] = [
    ("a manifest of 10 MB", MANIFEST, Extend(b" " * (10 << 20)), errors.ContentError, "sends more than the 4194304"),
    ("a manifest without end", MANIFEST, Endless(b" " * 65536), errors.ContentError, "sends more than the 4194304"),
    ("a blob without end", BLOB, Endless(b"x" * 65536), errors.ContentError, "sends more than the"),
    ("a header of 1 MB", MANIFEST, LONG_HEADER, errors.ConnectionFailedError, "an answer that is no HTTP"),
    ("2000 headers", MANIFEST, MANY_HEADERS, errors.ConnectionFailedError, "an answer that is no HTTP"),
    ("an error without end", MANIFEST, Endless(b"{" * 65536, 404), errors.ManifestUnknownError, "manifest unknown"),
    ("a deep error", MANIFEST, Status(404, {}, b"[" * 60_000), errors.ManifestUnknownError, "manifest unknown"),
    ("a deep manifest", MANIFEST, Status(200, {}, b"[" * 100_000), errors.ProtocolError, "is no JSON"),
    ("a slow manifest", MANIFEST, Trickle(1, 0.05), errors.RegistryTimeoutError, "no answer in time"),
    ("a slow blob", BLOB, Trickle(16, 0.05), errors.RegistryTimeoutError, "no answer in time"),
    ("interim answers", MANIFEST, Status(100), errors.RegistryTimeoutError, "no answer in time"),
    ("a circle", MANIFEST, Redirect("", "/v2/x/manifests/1"), errors.ProtocolError, "redirects more than 5 times"),
    (
        "a redirect without end",
        MANIFEST,
        Endless(b"x" * 65536, 307, {"Location": "/v2/"}),
        errors.ProtocolError,
        "schema version None",
    ),
    ("no address", MANIFEST, Redirect("http://[::"), errors.ProtocolError, "redirects to an address that is none"),
    ("a file", MANIFEST, Redirect("file://"), errors.ProtocolError, "redirects to an address that is none"),
    ("a user", MANIFEST, Redirect("http://u:p@127.0.0.1"), errors.ProtocolError, "to an address that is none"),
    ("a strange challenge", MANIFEST, Status(401, LOGIN), errors.UnauthorizedError, "refuses without saying how"),
]


@pytest.mark.parametrize(("what", "where", "fault", "kind", "words"), PULLS, ids=[case[0] for case in PULLS])
def test_pull(
    registry: FaultyRegistry,
    empty: Store,
    pushed: str,
    quick: RegistrySettings,
    what: str,
    where: str,
    fault: Fault,
    kind: type[errors.RegistryError],
    words: str,
) -> None:
    registry.fail("GET", where, fault)
    with pytest.raises(kind) as caught:
        transfer.pull(empty, pushed, settings=quick)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{pushed}: ")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


TOKENS: list[tuple[str, Fault, str]] = [
    ("without end", Endless(b" " * 65536), "sends more than 4194304 bytes as an answer"),
    ("deep", Status(200, {}, b"[" * 100_000), "did not answer with JSON"),
    ("slow", Trickle(1, 0.05), "no answer in time"),
    ("no object", Status(200, {}, b'"token"'), "did not answer with a JSON object"),
    ("a token with a line end", Status(200, {}, b'{"token": "a\\r\\nHost: b"}'), "gave no token"),
]


@pytest.mark.parametrize(("what", "fault", "words"), TOKENS, ids=[case[0] for case in TOKENS])
def test_token_server(empty: Store, quick: RegistrySettings, what: str, fault: Fault, words: str) -> None:
    with FaultyRegistry(access=Access("bearer", {}, anonymous=True)) as registry:
        registry.fail("GET", "/token", fault)
        with pytest.raises(errors.RegistryError, match=words):
            transfer.pull(empty, f"{registry.host}/a:1", settings=quick)


UPLOADS: list[tuple[str, str, Fault, str]] = [
    ("an answer without end", "POST", Endless(b"x" * 65536, 202), "sends more than 4194304 bytes as an answer"),
    ("no place", "POST", Status(202), "answered 202"),
    ("a place that is none", "POST", Status(202, {"Location": "http://[::"}), "to an address that is none"),
    ("a file", "POST", Status(202, {"Location": "file:///etc/passwd"}), "to an address that is none"),
    ("an end without end", "PUT", Endless(b"x" * 65536, 201), "sends more than 4194304 bytes as an answer"),
]


@pytest.mark.parametrize(("what", "method", "fault", "words"), UPLOADS, ids=[case[0] for case in UPLOADS])
def test_push(
    registry: FaultyRegistry, store: Store, quick: RegistrySettings, what: str, method: str, fault: Fault, words: str
) -> None:
    store_image(store, "sample:1", [LAYER])
    registry.fail(method, "/blobs/uploads/", fault)
    with pytest.raises(errors.RegistryError, match=words):
        transfer.push(store, "sample:1", f"{registry.host}/a:1", settings=quick, compression="none")
    assert not registry.memory.manifests


def add_index(registry: FaultyRegistry, tag: str, entries: list[dict[str, object]]) -> dict[str, object]:
    raw = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()
    digest = registry.memory.add_manifest("a", tag, raw, media.OCI_INDEX)
    return {"mediaType": media.OCI_INDEX, "digest": digest, "size": len(raw)}


def test_an_index_that_names_itself(registry: FaultyRegistry, empty: Store, quick: RegistrySettings) -> None:
    """A registry that answers for a digest with bytes that name this digest can only lie about it."""
    digest = f"sha256:{hashlib.sha256(b'x').hexdigest()}"
    entry: dict[str, object] = {"mediaType": media.OCI_INDEX, "digest": digest, "size": 250}
    add_index(registry, "1", [entry])
    raw = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}).encode()
    registry.memory.manifests["a", digest] = (raw, media.OCI_INDEX)
    with pytest.raises(errors.ContentError, match="has the digest"):
        transfer.pull(empty, f"{registry.host}/a:1", all_platforms=True, settings=quick)


def test_indexes_in_indexes_end(registry: FaultyRegistry, empty: Store, quick: RegistrySettings) -> None:
    entries: list[dict[str, object]] = []
    for number in range(9):
        entries = [add_index(registry, str(number), entries)]
    with pytest.raises(errors.ProtocolError, match="nested more than 4 deep"):
        transfer.pull(empty, f"{registry.host}/a:8", all_platforms=True, settings=quick)


def test_an_index_that_leads_to_too_much(registry: FaultyRegistry, empty: Store, quick: RegistrySettings) -> None:
    lie = {"mediaType": media.OCI_INDEX, "size": 9}
    entries = [{**lie, "digest": str(sha256(str(number).encode()))} for number in range(2)]
    add_index(registry, "1", [{**entry} for entry in entries])
    with pytest.raises(errors.ManifestUnknownError):
        transfer.pull(empty, f"{registry.host}/a:1", all_platforms=True, settings=quick)


def test_endless_tags(registry: FaultyRegistry, quick: RegistrySettings) -> None:
    from layers.registry.workers import Transfer

    body = json.dumps({"name": "a", "tags": ["x"]}).encode()
    registry.fail("GET", "/tags/list", Status(200, {"Link": '</v2/a/tags/list?last=x>; rel="next"'}, body))
    with Transfer("a", "a", quick, threading.Event()) as transfers, pytest.raises(errors.ProtocolError, match="tags"):
        transfers.call(lambda: transfers.client(registry.host).tags())


def test_a_registry_elsewhere_does_not_lead_us_here() -> None:
    """The rule by itself: no registry elsewhere can be had in a test."""
    from layers.registry.session import RegistrySession
    from layers.registry.tokens import ScopedAuth

    settings = RegistrySettings()
    auth = ScopedAuth("quay.example", "https", "quay.example", settings)
    session = RegistrySession(auth, settings, "quay.example/a:1", threading.Event())
    try:
        for target in ("https://127.0.0.1/x", "https://[::1]:5000/x", "https://169.254.169.254/x", "https://0.0.0.0/"):
            with pytest.raises(errors.ProtocolError, match="an address of this machine"):
                session.step("https://quay.example/v2/", target)
        with pytest.raises(errors.ProtocolError, match="from https to http"):
            session.step("https://quay.example/v2/", "http://cdn.example/x")
        assert session.step("https://quay.example/v2/a", "https://cdn.example/x") == "https://cdn.example/x"
        assert session.step("https://quay.example/v2/a", "b?c=d") == "https://quay.example/v2/b?c=d"
    finally:
        session.close()


def test_a_head_that_was_cut_is_no_answer(registry: FaultyRegistry, store: Store, quick: RegistrySettings) -> None:
    """What came of it says 200, and says nothing of the rest; the connection is closed, too."""
    store_image(store, "sample:1", [LAYER])
    registry.fail("HEAD", "/blobs/", Trickle(1, 0.01))
    with pytest.raises(errors.RegistryTimeoutError, match="no answer in time"):
        transfer.push(store, "sample:1", f"{registry.host}/a:1", settings=quick, compression="none")
    assert not registry.memory.manifests
