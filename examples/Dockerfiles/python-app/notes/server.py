"""The notes over HTTP: GET / lists them as JSON, POST / adds the body as one."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from notes.store import Store

LONGEST_NOTE_BYTES = 64 * 1024


def make_server(store: Store, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens on host and port (0: any free one); the caller serves and closes it."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: HTTPStatus, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer(HTTPStatus.OK, [note._asdict() for note in store.all()])

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            if not 0 < length <= LONGEST_NOTE_BYTES:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": f"a note has 1 to {LONGEST_NOTE_BYTES} bytes"})
                return
            note = store.add(self.rfile.read(length).decode(errors="replace"))
            self._answer(HTTPStatus.CREATED, note._asdict())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives it
            """Requests are not logged."""

    return ThreadingHTTPServer((host, port), Handler)
