"""Identity: what is shown to whom, how often, and what never leaves."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from layers.registry import auth, credentials, errors, transfer
from layers.registry.settings import RegistrySettings
from layers.store import Store
from layers.testing.faults import Drop, Redirect, Status
from layers.testing.registry import FaultyRegistry
from layers.testing.registry_access import Access
from layers.testing.simple import store_image

USER, PASSWORD = "alice", "correct-horse"
ALLOWED = {USER: PASSWORD}
SECRETS = (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())

Start = Callable[[Access], FaultyRegistry]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda access: stack.enter_context(FaultyRegistry(access=access))


@pytest.fixture
def known(environ: Path) -> Callable[..., None]:
    """Writes an entry for a registry into docker's file."""

    def write(registry: FaultyRegistry | str, **entry: str) -> None:
        host = registry if isinstance(registry, str) else registry.host
        path = environ / ".docker/config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"auths": {host: entry or {"username": USER, "password": PASSWORD}}}))

    return write


def sent(registry: FaultyRegistry) -> list[str]:
    """The kinds of Authorization that came, in order."""
    return [seen.headers.get("authorization", "-").split(" ")[0] for seen in registry.requests]


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_push_and_pull(
    start: Start,
    known: Callable[..., None],
    store: Store,
    empty: Store,
    image: str,
    settings: RegistrySettings,
    kind: str,
) -> None:
    registry = start(Access(kind, ALLOWED))  # type: ignore[arg-type]
    known(registry)
    name = f"{registry.host}/private/app:1"
    digest = transfer.push(store, image, name, settings=settings)
    assert transfer.pull(empty, name, settings=settings).digest == digest
    assert empty.image(name).id == store.image(image).id


def test_basic_is_challenged_once(
    start: Start, known: Callable[..., None], store: Store, image: str, settings: RegistrySettings
) -> None:
    registry = start(Access("basic", ALLOWED))
    known(registry)
    transfer.push(store, image, f"{registry.host}/a:1", settings=settings._replace(connections=1))
    assert sent(registry)[:2] == ["-", "Basic"]
    assert set(sent(registry)[1:]) == {"Basic"}


def test_one_token_a_scope_serves_all_threads(
    start: Start, known: Callable[..., None], store: Store, empty: Store, settings: RegistrySettings
) -> None:
    access = Access("bearer", ALLOWED)
    registry = start(access)
    known(registry)
    store_image(store, "many:1", [bytes([n]) * 1000 for n in range(12)])
    name = f"{registry.host}/team/many:1"
    transfer.push(store, "many:1", name, settings=settings, compression="none")
    assert access.granted == [("repository:team/many:pull,push",)]
    transfer.pull(empty, name, settings=settings)
    assert access.granted[1:] == [("repository:team/many:pull",)]
    tokens = registry.seen("GET", "/token")
    assert all(seen.headers["authorization"].startswith("Basic ") for seen in tokens)
    others = [seen for seen in registry.requests if "/token" not in seen.target and "authorization" in seen.headers]
    assert all(seen.headers["authorization"].startswith("Bearer ") for seen in others), (
        "the password goes to /token alone"
    )


def test_anonymous_pull_with_a_token(
    start: Start, store: Store, empty: Store, image: str, settings: RegistrySettings
) -> None:
    registry = start(Access("bearer", ALLOWED, anonymous=True))
    registry_open = registry.access
    registry.access = None
    name = f"{registry.host}/public:1"
    transfer.push(store, image, name, settings=settings, compression="none")
    registry.access = registry_open
    transfer.pull(empty, name, settings=settings)
    assert "authorization" not in registry.seen("GET", "/token")[0].headers
    with pytest.raises(errors.UnauthorizedError) as caught:
        transfer.push(store, image, f"{registry.host}/public:2", settings=settings, compression="zstd")
    assert str(caught.value) == f"{registry.host}/public:2: unauthorized: no credentials for {registry.host}"


def test_a_stale_token_is_renewed_once(
    start: Start, known: Callable[..., None], store: Store, empty: Store, image: str, settings: RegistrySettings
) -> None:
    access = Access("bearer", ALLOWED)
    registry = start(access)
    known(registry)
    name = f"{registry.host}/a:1"
    transfer.push(store, image, name, settings=settings, compression="none")
    answer = registry.memory.answer
    revoked: list[str] = []

    def revoke_after_manifest(request: object) -> object:
        if "/manifests/" in request.target and not revoked:  # type: ignore[attr-defined]
            access.revoke()
            revoked.append("once")
        return answer(request)  # type: ignore[arg-type]

    registry.memory.answer = revoke_after_manifest  # type: ignore[method-assign,assignment]
    access.granted.clear()
    transfer.pull(empty, name, settings=settings)
    assert len(access.granted) == 2


def test_a_token_that_is_never_accepted_is_not_asked_for_forever(
    start: Start, known: Callable[..., None], empty: Store, settings: RegistrySettings
) -> None:
    access = Access("bearer", ALLOWED)
    registry = start(access)
    known(registry)
    registry.fail("GET", "/v2/", Status(401, {"WWW-Authenticate": f'Bearer realm="http://{registry.host}/token"'}))
    with pytest.raises(errors.UnauthorizedError, match="does not accept the credentials of"):
        transfer.pull(empty, f"{registry.host}/a:1", settings=settings)
    assert len(access.granted) == 1
    assert len(registry.seen("GET", "/v2/")) == 2


def test_a_token_without_a_life_lasts_for_the_minute_of_the_specification(
    start: Start, known: Callable[..., None], store: Store, image: str, settings: RegistrySettings
) -> None:
    access = Access("bearer", ALLOWED, expires_in=0)
    registry = start(access)
    known(registry)
    transfer.push(store, image, f"{registry.host}/a:1", settings=settings, compression="none")
    assert len(access.granted) == 1


def test_identity_tokens_are_exchanged(
    start: Start, known: Callable[..., None], store: Store, image: str, settings: RegistrySettings
) -> None:
    access = Access("bearer", {}, identity_tokens={"refresh-me": USER})
    registry = start(access)
    known(registry, identitytoken="refresh-me")
    transfer.push(store, image, f"{registry.host}/a:1", settings=settings, compression="none")
    posted = registry.seen("POST", "/token")
    assert len(posted) == 1
    assert "refresh-me" not in posted[0].target
    assert access.granted == [("repository:a:pull,push",)]


def test_mounting_asks_for_both_repositories(
    start: Start, known: Callable[..., None], store: Store, image: str, settings: RegistrySettings
) -> None:
    access = Access("bearer", ALLOWED)
    registry = start(access)
    known(registry)
    first = f"{registry.host}/base:1"
    transfer.push(store, image, first, settings=settings, compression="none")
    store.tag(first, store.image(image).descriptor)
    transfer.push(store, image, f"{registry.host}/app:1", settings=settings, compression="none")
    assert ("repository:app:pull,push", "repository:base:pull") in access.granted
    assert len(registry.seen("PUT", "/v2/app/blobs/")) == 1


# -- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_wrong_password(
    start: Start, known: Callable[..., None], empty: Store, settings: RegistrySettings, environ: Path, kind: str
) -> None:
    registry = start(Access(kind, {USER: "another"}))  # type: ignore[arg-type]
    known(registry)
    with pytest.raises(errors.UnauthorizedError) as caught:
        transfer.pull(empty, f"{registry.host}/a:1", settings=settings)
    expected = f"{registry.host} does not accept the credentials of {environ}/.docker/config.json"
    assert str(caught.value) == f"{registry.host}/a:1: unauthorized: {expected}"
    assert len(registry.requests) == 2


def test_no_credentials_and_a_helper_that_is_gone(
    start: Start, environ: Path, empty: Store, settings: RegistrySettings
) -> None:
    registry = start(Access("basic", ALLOWED))
    (environ / ".docker").mkdir()
    (environ / ".docker/config.json").write_text('{"credsStore": "gone"}')
    with pytest.raises(errors.UnauthorizedError) as caught:
        transfer.pull(empty, f"{registry.host}/a:1", settings=settings)
    hint = "credential helper docker-credential-gone is not installed"
    assert str(caught.value).endswith(f"no credentials for {registry.host}; {hint}")


def test_denied(start: Start, known: Callable[..., None], empty: Store, settings: RegistrySettings) -> None:
    registry = start(Access("bearer", ALLOWED))
    known(registry)
    body = b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}'
    registry.fail("GET", "/v2/", Status(403, {}, body))
    with pytest.raises(errors.DeniedError) as caught:
        transfer.pull(empty, f"{registry.host}/a:1", settings=settings)
    assert str(caught.value) == f"{registry.host}/a:1: denied: requested access to the resource is denied"
    assert len(registry.requests) == 1


def test_a_challenge_that_cannot_be_answered(start: Start, empty: Store, settings: RegistrySettings) -> None:
    registry = start(Access("bearer", ALLOWED, challenge="Negotiate"))
    with pytest.raises(errors.UnauthorizedError, match="refuses without saying how to authenticate"):
        transfer.pull(empty, f"{registry.host}/a:1", settings=settings)


@pytest.mark.parametrize(
    "answer",
    [
        Status(200, {}, b"nonsense"),
        Status(200, {}, b"[]"),
        Status(200, {}, b"{}"),
        Status(200, {}, b'{"token":"a\\nb"}'),
    ],
)
def test_a_token_server_that_makes_no_sense(
    start: Start, empty: Store, settings: RegistrySettings, answer: Status
) -> None:
    registry = start(Access("bearer", ALLOWED))
    registry.fail("GET", "/token", answer)
    with pytest.raises(errors.ProtocolError, match="the token server of"):
        transfer.pull(empty, f"{registry.host}/a:1", settings=settings)


def test_a_token_server_that_stumbles_is_asked_again(
    start: Start, known: Callable[..., None], store: Store, image: str, settings: RegistrySettings
) -> None:
    access = Access("bearer", ALLOWED)
    registry = start(access)
    known(registry)
    registry.fail("GET", "/token", Drop(), times=1)
    registry.fail("GET", "/token", Status(503), times=1)
    transfer.push(store, image, f"{registry.host}/a:1", settings=settings, compression="none")


# -- to whom ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_authorization_stays_with_its_host(
    start: Start,
    known: Callable[..., None],
    store: Store,
    empty: Store,
    image: str,
    settings: RegistrySettings,
    kind: str,
) -> None:
    registry = start(Access(kind, ALLOWED))  # type: ignore[arg-type]
    known(registry)
    name = f"{registry.host}/a:1"
    transfer.push(store, image, name, settings=settings, compression="none")
    with FaultyRegistry(registry.memory) as elsewhere:
        registry.fail("GET", "/blobs/", Redirect(f"http://{elsewhere.host}"))
        transfer.pull(empty, name, settings=settings)
        assert elsewhere.seen("GET", "/blobs/")
        assert set(sent(elsewhere)) == {"-"}


def test_a_stranger_that_challenges_gets_nothing(
    start: Start, known: Callable[..., None], store: Store, empty: Store, image: str, settings: RegistrySettings
) -> None:
    registry = start(Access("basic", ALLOWED))
    known(registry)
    name = f"{registry.host}/a:1"
    transfer.push(store, image, name, settings=settings, compression="none")
    stranger = start(Access("basic", ALLOWED))
    registry.fail("GET", "/blobs/", Redirect(f"http://{stranger.host}"))
    with pytest.raises(errors.UnauthorizedError):
        transfer.pull(empty, name, settings=settings)
    assert set(sent(stranger)) == {"-"}


def test_a_token_server_that_redirects_gets_no_further(
    start: Start, known: Callable[..., None], empty: Store, settings: RegistrySettings
) -> None:
    registry = start(Access("bearer", ALLOWED))
    known(registry)
    with FaultyRegistry(access=Access("bearer", ALLOWED)) as stranger:
        registry.fail("GET", "/token", Redirect(f"http://{stranger.host}"))
        with pytest.raises(errors.UnauthorizedError):
            transfer.pull(empty, f"{registry.host}/a:1", settings=settings)
        assert set(sent(stranger)) == {"-"}


def test_a_realm_elsewhere_is_refused(
    start: Start, known: Callable[..., None], empty: Store, settings: RegistrySettings
) -> None:
    registry = start(Access("bearer", ALLOWED, realm="http://evil.example/token"))
    known(registry)
    with pytest.raises(errors.ProtocolError) as caught:
        transfer.pull(empty, f"{registry.host}/a:1", settings=settings)
    expected = f'token server "http://evil.example/token" is not trusted with credentials of {registry.host}'
    assert str(caught.value) == f"{registry.host}/a:1: {expected}"


def test_netrc_is_not_used(
    start: Start, environ: Path, store: Store, empty: Store, image: str, settings: RegistrySettings
) -> None:
    (environ / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    (environ / ".netrc").chmod(0o600)
    registry = start(Access("basic", ALLOWED))
    with pytest.raises(errors.UnauthorizedError):
        transfer.pull(empty, f"{registry.host}/a:1", settings=settings)
    assert set(sent(registry)) == {"-"}


def test_loopback_is_not_asked_through_a_proxy(
    registry: FaultyRegistry,
    store: Store,
    image: str,
    settings: RegistrySettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FaultyRegistry() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
        transfer.push(store, image, f"{registry.host}/a:1", settings=settings, compression="none")
        assert not proxy.requests


# -- login and logout ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_login_pull_logout(
    start: Start, environ: Path, store: Store, image: str, settings: RegistrySettings, kind: str
) -> None:
    registry = start(Access(kind, ALLOWED))  # type: ignore[arg-type]
    name = f"{registry.host}/a:1"
    with pytest.raises(errors.UnauthorizedError) as caught:
        auth.login(registry.host, USER, "wrong", settings=settings)
    assert str(caught.value) == f"{registry.host}: unauthorized: {registry.host} does not accept the credentials given"
    assert not (environ / ".docker").exists()
    place = auth.login(f"http://{registry.host}/", USER, PASSWORD, settings=settings)
    assert place == str(environ / ".docker/config.json")
    transfer.push(store, image, name, settings=settings)
    assert auth.logout(registry.host, settings=settings) == (place,)
    with pytest.raises(errors.UnauthorizedError, match="no credentials for"):
        transfer.push(store, image, name, settings=settings)
    assert auth.logout(registry.host, settings=settings) == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("docker.io", "docker.io"),
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("https://quay.io", "quay.io"),
        ("localhost:5000/", "localhost:5000"),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_names_of_registries(text: str, name: str) -> None:
    assert auth.registry_name(text) == name


@pytest.mark.parametrize("text", ["quay.io/team", "no host", "name", "http://", "a@b", "x:y"])
def test_what_is_no_registry(text: str) -> None:
    if text == "http://":
        assert auth.registry_name(text) == "docker.io"
        return
    with pytest.raises(errors.CredentialsError, match="is no name of a registry"):
        auth.registry_name(text)


@pytest.mark.parametrize(("user", "password"), [("", "p"), ("u:v", "p"), ("u", "")])
def test_login_needs_both(user: str, password: str, settings: RegistrySettings) -> None:
    with pytest.raises(errors.CredentialsError, match="a user name without colon and a password are needed"):
        auth.login("quay.io", user, password, settings=settings)


# -- nothing secret in what is said ----------------------------------------------------------------------------------
def test_no_secret_is_ever_said(
    start: Start,
    known: Callable[..., None],
    empty: Store,
    settings: RegistrySettings,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All the ways to fail with credentials at hand; messages, their causes' text as far as shown, logs, streams."""
    access = Access("bearer", ALLOWED)
    registry = start(access)
    known(registry)
    said: list[str] = []
    caplog.set_level("DEBUG")
    for fault in (Drop(), Status(403), Status(500), Status(401), Redirect("http://user:pw@evil.example"), Status(418)):
        registry.heal()
        registry.fail("*", "/manifests/", fault)
        with pytest.raises(errors.RegistryError) as caught:
            transfer.pull(empty, f"{registry.host}/a:1", settings=settings)
        said.append(f"{caught.value} {caught.value!r}")
    found = credentials.find(registry.host, "a", settings)
    said += [repr(found), str(found)]
    out, err = capfd.readouterr()
    everything = "\n".join([*said, caplog.text, out, err])
    assert not [secret for secret in SECRETS if secret in everything]
    assert "user:pw" not in everything
