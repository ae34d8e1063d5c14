"""A web server on loopback whose pages a test writes, and repositories served by git itself."""

from __future__ import annotations

import hashlib
import http.server
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from layers.testing.docker_registry import Certificates


class Page(NamedTuple):
    """What a path answers. ``body`` None: cut off in the middle; validators are given where they are set."""

    body: bytes = b""
    last_modified: str = ""
    etag: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200
    cut_off: bool = False
    conditional: bool = True
    stalls: bool = False


class Seen(NamedTuple):
    """A request that came, and the status it was answered with."""

    path: str
    headers: dict[str, str]
    status: int


class _Server(http.server.ThreadingHTTPServer):
    """Clients may go whenever they like: that is no error of the server's."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # what the base class was given


class Web:
    """The pages by path, and the requests that came."""

    def __init__(self, certificates: Certificates | None = None) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[Seen] = []
        self.repositories: Path | None = None
        self.silent = ""
        """Git is not answered where the path ends so, until `resume` is set; `stalled` says that it asked."""
        self.stalled = threading.Event()
        self.resume = threading.Event()
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web._answer(self)

            def do_POST(self) -> None:
                web._git(self)

            def log_message(self, *_args: object) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.certificate, certificates.key)
            # the handshake belongs to the thread of the request: a client may refuse the certificate
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.url = f"https://127.0.0.1:{self.port}"

    def statuses(self) -> list[int]:
        """What the requests so far were answered with; they are forgotten."""
        found = [seen.status for seen in self.seen]
        self.seen.clear()
        return found

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        page = self.pages.get(request.path)
        if page is None and self.repositories is not None and ".git/" in request.path:
            self._git(request)
            return
        page = page or Page(b"nothing here", status=404)
        asked = request.headers
        unchanged = page.conditional and (
            (page.etag and asked.get("If-None-Match") == page.etag)
            or (page.last_modified and asked.get("If-Modified-Since") == page.last_modified)
        )
        status = 304 if unchanged else page.status
        self.seen.append(Seen(request.path, dict(asked.items()), status))
        request.send_response(status)
        for name, value in (("Last-Modified", page.last_modified), ("ETag", page.etag), *page.headers):
            if value:
                request.send_header(name, value)
        if status != 304:
            request.send_header("Content-Length", str(len(page.body) + (10 if page.cut_off or page.stalls else 0)))
        request.end_headers()
        if status != 304:
            request.wfile.write(page.body)
        if page.stalls:
            request.wfile.flush()
            self.stalled.set()
            self.resume.wait(30)

    def _git(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """git's own CGI program answers."""
        if self.silent and urlsplit(request.path).path.endswith(self.silent):
            self.stalled.set()
            self.resume.wait(30)
        parts = urlsplit(request.path)
        length = int(request.headers.get("Content-Length") or 0)
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": request.command,
            "PATH_INFO": unquote(parts.path),
            "QUERY_STRING": parts.query,
            "CONTENT_TYPE": request.headers.get("Content-Type") or "",
            "CONTENT_LENGTH": str(length),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding") or "",
            "GIT_PROTOCOL": request.headers.get("Git-Protocol") or "",
        }
        self.seen.append(Seen(request.path, dict(request.headers.items()), 200))
        done = subprocess.run(
            ["git", "http-backend"], env=environment, input=request.rfile.read(length), capture_output=True, check=True
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        request.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def serving(certificates: Certificates | None = None) -> Iterator[Web]:
    """A server that answers until the block is left, by TLS when it has ``certificates``."""
    web = Web(certificates)
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        web.resume.set()
        web.server.shutdown()
        web.server.server_close()
        thread.join()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Repository:
    """A git repository to commit in; ``bare`` is what is served."""

    def __init__(self, directory: Path, name: str) -> None:
        self.work = directory / f"{name}-work"
        self.bare = directory / f"{name}.git"
        self.git("init", "-q", str(self.work), at=directory)
        self.git("init", "-q", "--bare", str(self.bare), at=directory)
        self.git("config", "uploadpack.allowAnySHA1InWant", "true", at=self.bare)

    def git(self, *arguments: str, at: Path | None = None) -> str:
        environment = {
            **os.environ,
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
            "GIT_AUTHOR_DATE": "2020-01-02T03:04:05Z",
            "GIT_COMMITTER_DATE": "2020-01-02T03:04:05Z",
        }
        command = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *arguments]
        done = subprocess.run(command, cwd=at or self.work, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, files: dict[str, str]) -> str:
        """The commit that has ``files`` besides what was there; it is on the branch main of what is served."""
        for name, content in files.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_text(content)
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", "change")
        self.publish("main")
        return self.git("rev-parse", "HEAD")

    def publish(self, *refs: str) -> None:
        """``refs`` are served as they are now."""
        self.git("push", "-q", "--force", str(self.bare), *refs)
        self.git("update-server-info", at=self.bare)
