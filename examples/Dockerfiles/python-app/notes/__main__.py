"""notes serve | add TEXT | list | count | selftest."""

from __future__ import annotations

import json
import os
import sys
import threading
import urllib.request

from notes.server import make_server
from notes.store import Store


def selftest(store: Store) -> None:
    """Starts the server, adds a note over HTTP, reads it back, and says so."""
    with make_server(store, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            with urllib.request.urlopen(url, data=b"written by the self-test") as answer:
                added = json.load(answer)
            with urllib.request.urlopen(url) as answer:
                notes = json.load(answer)
        finally:
            server.shutdown()
            thread.join()
    if added not in notes:
        sys.exit("self-test failed: the note did not come back")
    print(f"self-test passed: {len(notes)} note(s), uid {os.getuid()}, Python {sys.version.split()[0]}")


def main(arguments: list[str]) -> None:
    """Runs one command."""
    store = Store(os.environ.get("NOTES_FILE", "notes.sqlite"))
    match arguments:
        case ["serve"]:
            with make_server(store, "0.0.0.0", 8000) as server:
                server.serve_forever()
        case ["add", *words] if words:
            print(store.add(" ".join(words)).number)
        case ["list"]:
            for note in store.all():
                print(f"{note.number}\t{note.text}")
        case ["count"]:
            print(len(store.all()))
        case ["selftest"]:
            selftest(store)
        case _:
            sys.exit(f"usage: {__doc__}")


main(sys.argv[1:])
