"""Files by HTTP: what is fetched, what is not fetched again, and what is refused."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.errors import FetchError, Interrupted
from builder.graph import HttpSource
from builder.options import SecretSource
from builder.remote.access import Access
from builder.remote.cancellation import Cancellation
from builder.remote.content import FetchedFile
from builder.remote.downloads import DIRECTORY
from builder.remote.http import fetch_file, shown
from harness.web import Page, Web, serving, sha256
from layers.registry.settings import Patience
from layers.testing.docker_registry import make_certificates

DATE = "Thu, 02 Jan 2020 03:04:05 GMT"
SECONDS = 1577934245
QUICK = Patience(tries=2, first_delay_seconds=0.01, read_seconds=5)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


class Client:
    """Fetches into one store."""

    def __init__(self, root: Path, web: Web) -> None:
        self.root = root
        self.web = web

    def __call__(
        self, path: str, name: str = "file", checksum: str = "", authorization: str | None = None
    ) -> tuple[bytes, FetchedFile]:
        source = HttpSource(path if "://" in path else self.web.url + path, name, checksum)
        file = fetch_file(source, str(self.root), authorization, cancel=Cancellation(), patience=QUICK)
        with open(file.descriptor, "rb") as body:
            return body.read(), file

    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.root / DIRECTORY).rglob("*") if path.is_file())


@pytest.fixture
def fetch(tmp_path: Path, web: Web) -> Client:
    return Client(tmp_path, web)


def test_body_name_and_time(fetch: Client, web: Web) -> None:
    web.pages["/a"] = Page(b"content", DATE)
    body, file = fetch("/a")
    assert body == b"content"
    assert (file.name, file.size_bytes, file.mtime) == ("file", 7, SECONDS)
    assert f"sha256:{file.sha256}" == sha256(b"content")


def test_time_is_zero_without_a_date_and_with_a_bad_one(fetch: Client, web: Web) -> None:
    for text in ("", "yesterday", "Thu, 99 Jan 2020 03:04:05 GMT", "Thu, 01 Jan 1900 00:00:00 GMT"):
        web.pages["/a"] = Page(b"content" + text.encode(), text)
        assert fetch("/a")[1].mtime == 0, text


@pytest.mark.parametrize(("etag", "date"), [('"one"', ""), ("", DATE), ('W/"weak"', DATE), ('"one"', DATE)])
def test_unchanged_file_is_not_sent_again(fetch: Client, web: Web, etag: str, date: str) -> None:
    web.pages["/a"] = Page(b"content", date, etag)
    first = fetch("/a")
    again = fetch("/a")
    assert web.statuses() == [200, 304]
    assert again[0] == first[0]
    assert again[1]._replace(descriptor=0) == first[1]._replace(descriptor=0)


def test_changed_file_is_fetched_and_the_old_one_goes(fetch: Client, web: Web) -> None:
    web.pages["/a"] = Page(b"old", DATE, '"1"')
    fetch("/a")
    web.pages["/a"] = Page(b"new", DATE, '"2"')
    assert fetch("/a")[0] == b"new"
    assert fetch.kept() == sorted(["state.json", sha256(b"new")[7:]])


def test_server_that_ignores_conditions_but_names_the_same_version(fetch: Client, web: Web) -> None:
    web.pages["/a"] = Page(b"content", DATE, '"1"', conditional=False)
    assert [fetch("/a")[0], fetch("/a")[0]] == [b"content", b"content"]
    assert web.statuses() == [200, 200]


def test_weak_or_missing_validators_prove_nothing(fetch: Client, web: Web) -> None:
    for etag in ("", 'W/"1"'):
        web.pages["/a"] = Page(b"old", "", etag, conditional=False)
        fetch("/a")
        web.pages["/a"] = Page(b"new", "", etag, conditional=False)
        assert fetch("/a")[0] == b"new"


def test_new_date_with_old_etag_is_looked_at(fetch: Client, web: Web) -> None:
    web.pages["/a"] = Page(b"x", "", '"1"', conditional=False)
    fetch("/a")
    web.pages["/a"] = Page(b"x", DATE, '"1"', conditional=False)
    assert fetch("/a")[1].mtime == SECONDS


def test_checksum_that_is_here_needs_no_server(fetch: Client, web: Web) -> None:
    web.pages["/a"] = Page(b"content", DATE)
    fetch("/a", checksum=sha256(b"content"))
    web.pages.clear()
    assert fetch("/a", checksum=sha256(b"content"))[0] == b"content"
    assert web.statuses() == [200]


def test_wrong_checksum_names_both(fetch: Client, web: Web) -> None:
    web.pages["/a"] = Page(b"content", DATE)
    with pytest.raises(FetchError, match=f"{sha256(b'content')}, expected {sha256(b'other')}"):
        fetch("/a", checksum=sha256(b"other"))


def test_damaged_state_is_none(fetch: Client, web: Web) -> None:
    web.pages["/a"] = Page(b"content", DATE, '"1"')
    fetch("/a")
    [state] = fetch.root.rglob("state.json")
    for text in ("", "{}", "[1]", '{"sha256": "../../x", "size_bytes": 7}', "\udcff"):
        state.write_text(text, errors="surrogateescape")
        assert fetch("/a")[0] == b"content"
    (state.parent / sha256(b"content")[7:]).write_bytes(b"shorter")
    os.truncate(state.parent / sha256(b"content")[7:], 3)
    assert fetch("/a")[0] == b"content"


def test_body_stays_readable_when_a_newer_one_comes(fetch: Client, web: Web, tmp_path: Path) -> None:
    web.pages["/a"] = Page(b"old")
    old = fetch_file(HttpSource(f"{web.url}/a", "f", ""), str(tmp_path), cancel=Cancellation())
    web.pages["/a"] = Page(b"new")
    fetch("/a")
    with open(old.descriptor, "rb") as body:
        assert body.read() == b"old"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="tool.bin"', "tool.bin"),
        ("attachment; filename*=UTF-8''t%C3%B6ol", "töol"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="C:\\\\x\\\\y"', "y"),
        ('attachment; filename=".."', "__unnamed__"),
        ("attachment", "__unnamed__"),
        (f'attachment; filename="{"x" * 300}"', "__unnamed__"),
    ],
)
def test_name_is_the_servers_where_the_url_has_none(fetch: Client, web: Web, header: str, name: str) -> None:
    web.pages["/"] = Page(b"x", headers=(("Content-Disposition", header),))
    assert fetch("/", name="__unnamed__")[1].name == name
    assert fetch("/", name="given")[1].name == "given"


def test_redirects_are_followed_to_a_limit(fetch: Client, web: Web) -> None:
    web.pages["/1"] = Page(status=302, headers=(("Location", "/2"),))
    web.pages["/2"] = Page(status=308, headers=(("Location", f"{web.url}/3"),))
    web.pages["/3"] = Page(b"there", DATE)
    assert fetch("/1")[0] == b"there"
    web.pages["/3"] = Page(status=301, headers=(("Location", "/1"),))
    with pytest.raises(FetchError, match="redirects more than 10 times"):
        fetch("/1")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://user:word@127.0.0.1/x"])
def test_redirect_to_something_else_is_refused(fetch: Client, web: Web, target: str) -> None:
    web.pages["/1"] = Page(status=302, headers=(("Location", target),))
    with pytest.raises(FetchError, match="redirects to an address that is none"):
        fetch("/1")


def test_credentials_go_to_their_host_and_into_no_message(fetch: Client, web: Web) -> None:
    url = web.url.replace("://", "://me:secret%21@")
    web.pages["/1"] = Page(status=302, headers=(("Location", "/2"),))
    web.pages["/2"] = Page(b"x")
    fetch(f"{url}/1")
    assert [seen.headers["Authorization"] for seen in web.seen] == ["Basic bWU6c2VjcmV0IQ=="] * 2
    with serving() as other:
        other.pages["/x"] = Page(b"x")
        web.pages["/2"] = Page(status=302, headers=(("Location", f"{other.url}/x"),))
        fetch(f"{url}/1")
        assert "Authorization" not in other.seen[0].headers
    with pytest.raises(FetchError) as caught:
        fetch(f"{url}/absent?key=hidden")
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert shown("https://u:p@h/x?y#z") == "https://h/x"


def test_authorization_is_said_to_the_host_of_the_url_alone(fetch: Client, web: Web) -> None:
    web.pages["/1"] = Page(status=302, headers=(("Location", "/2"),))
    web.pages["/2"] = Page(b"x")
    fetch("/1", authorization="Bearer t")
    fetch(f"{web.url.replace('://', '://me:word@')}/2", authorization="Bearer t")
    assert [seen.headers["Authorization"] for seen in web.seen] == ["Bearer t"] * 3
    with serving() as other:
        other.pages["/x"] = Page(b"x")
        web.pages["/2"] = Page(status=302, headers=(("Location", f"{other.url}/x"),))
        fetch("/1", authorization="Bearer t")
        assert "Authorization" not in other.seen[0].headers
    with pytest.raises(FetchError, match="InvalidHeader") as caught:
        fetch("/1", authorization="Bearer one\nOther: two")
    assert "one" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"HTTP_AUTH_HEADER_h.example": "Digest x", "HTTP_AUTH_TOKEN_h.example": "t"}, "Digest x"),
        ({"HTTP_AUTH_TOKEN_h.example": "t"}, "Bearer t"),
        ({"HTTP_AUTH_TOKEN_other.example": "t"}, None),
    ],
)
def test_secrets_by_host(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str | None) -> None:
    for number, value in enumerate(given.values()):
        monkeypatch.setenv(f"SECRET_{number}", f"{value}\n")
    access = Access(secrets={name: SecretSource(None, f"SECRET_{number}") for number, name in enumerate(given)})
    assert access.for_file("https://u:p@H.example:8443/x?y") == said


def test_only_certificates_of_a_known_authority_are_believed(
    fetch: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = make_certificates(tmp_path / "certificates")
    with serving(certificates) as web:
        web.pages["/a"] = Page(b"content", DATE)
        with pytest.raises(FetchError, match="certificate refused"):
            fetch(f"{web.url}/a")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        assert fetch(f"{web.url}/a")[0] == b"content"
        assert fetch(f"https://localhost:{web.port}/a")[0] == b"content"
        web.pages["/down"] = Page(status=302, headers=(("Location", f"http://127.0.0.1:{web.port}/a"),))
        with pytest.raises(FetchError, match="redirects from https to http"):
            fetch(f"{web.url}/down")
        with pytest.raises(FetchError, match=r"TLS failed|connection broke|closed|wrong version"):
            fetch(f"http://127.0.0.1:{web.port}/a")
    elsewhere = make_certificates(tmp_path / "elsewhere", host="elsewhere.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(elsewhere.authority))
    with serving(elsewhere) as web, pytest.raises(FetchError, match=r"certificate refused: .*127\.0\.0\.1"):
        fetch(f"{web.url}/a")


def test_localhost_is_loopback_whatever_a_resolver_says(
    fetch: Client, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = socket.getaddrinfo

    def only_addresses(host: str, *arguments: Any, **options: Any) -> Any:
        if host not in {"127.0.0.1", "::1"}:
            raise socket.gaierror(socket.EAI_NONAME, "nobody knows")
        return asked(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_addresses)
    web.pages["/a"] = Page(b"content", DATE)
    for name in ("localhost", "LOCALHOST", "deep.localhost", "localhost."):
        assert fetch(f"http://{name}:{web.port}/a")[0] == b"content", name
    with pytest.raises(FetchError, match="leads to no address"):
        fetch(f"http://localhost.example:{web.port}/a")
    with serving() as gone:
        pass
    with pytest.raises(FetchError, match="connection refused"):
        fetch(f"http://localhost:{gone.port}/a")


def test_statuses_and_broken_connections_are_told(fetch: Client, web: Web) -> None:
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:\d+/none: 127\.0\.0\.1:\d+ answers 404 Not Found"):
        fetch("/none")
    web.statuses()
    web.pages["/busy"] = Page(status=503)
    with pytest.raises(FetchError, match="answers 503"):
        fetch("/busy")
    assert web.statuses() == [503, 503]
    web.pages["/cut"] = Page(b"half of it", cut_off=True)
    with pytest.raises(FetchError, match="the connection broke"):
        fetch("/cut")
    assert fetch.kept() == []
    with serving() as gone:
        pass
    with pytest.raises(FetchError, match="connection refused"):
        fetch(f"{gone.url}/x")
    with pytest.raises(FetchError, match="leads to no address"):
        fetch("http://no-such-host.invalid/x")


def test_cancelled_download_ends_at_once_and_leaves_nothing(fetch: Client, web: Web, tmp_path: Path) -> None:
    web.pages["/slow"] = Page(b"begun", stalls=True)
    cancel = Cancellation()
    caught: list[BaseException] = []

    def work() -> None:
        try:
            fetch_file(HttpSource(f"{web.url}/slow", "x", ""), str(tmp_path), cancel=cancel)
        except Interrupted as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert web.stalled.wait(20)
    cancel.set()
    thread.join(20)
    assert not thread.is_alive()
    assert len(caught) == 1
    assert fetch.kept() == []


def test_two_that_want_the_same_fetch_it_once(web: Web, tmp_path: Path) -> None:
    web.pages["/a"] = Page(b"content", DATE, '"1"')
    source = HttpSource(f"{web.url}/a", "f", "")

    def work() -> None:
        os.close(fetch_file(source, str(tmp_path), cancel=Cancellation()).descriptor)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(web.statuses()) == [200, 304, 304, 304]
