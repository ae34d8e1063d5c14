"""Files fetched by HTTP, kept so that what did not change is not fetched again.

::

    <root>/downloads/<SHA-256 of the URL>/state.json     what the server said, and which body counts
                                          <SHA-256>      the body

Invariants: ``state.json`` names a body that is whole; it is replaced after the body has its name; who reads a body
holds its descriptor, so that a newer one may replace it. A state that can't be read is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from typing import IO

from unionfs.namedtuple import NamedTuple

DIRECTORY = "downloads"
_STATE = "state.json"


class Download(NamedTuple):
    """What is known of the file behind a URL; the texts are as the server gave them, empty when it did not."""

    sha256: str
    size_bytes: int
    etag: str = ""
    last_modified: str = ""
    disposition: str = ""


class DownloadPlace:
    """Where the file behind ``url`` is kept in the store directory ``root``."""

    def __init__(self, root: str, url: str) -> None:
        self.name = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()
        self.directory = os.path.join(root, DIRECTORY, self.name)

    def known(self) -> Download | None:
        """What was fetched last, None when nothing is here."""
        try:
            with open(os.path.join(self.directory, _STATE), encoding="utf-8") as file:
                values = json.load(file)
            state = Download(**values)
            size = os.stat(self._body(state.sha256)).st_size
        except (OSError, ValueError, TypeError):
            return None
        return state if size == state.size_bytes else None

    def open_body(self, state: Download) -> int:
        """Descriptor of the body; the caller closes it. Its use renews its age. Raises OSError."""
        descriptor = os.open(self._body(state.sha256), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with contextlib.suppress(OSError):
            os.utime(os.path.join(self.directory, _STATE))
        return descriptor

    def new_body(self) -> IO[bytes]:
        """A file to be written, and then given to `keep`; it is gone when it is closed without that."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        return tempfile.NamedTemporaryFile(dir=self.directory, prefix=".new-", delete=False)

    def discard(self, body: IO[bytes]) -> None:
        """The file of `new_body` is gone, unless it was kept."""
        body.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(body.name)

    def keep(self, body: IO[bytes], state: Download) -> None:
        """``body`` is what `known` answers with; older ones are gone."""
        body.flush()
        os.fsync(body.fileno())
        os.rename(body.name, self._body(state.sha256))
        self.remember(state)
        for name in os.listdir(self.directory):
            if name not in {_STATE, state.sha256}:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.directory, name))

    def remember(self, state: Download) -> None:
        """``state``, whose body is here, is what `known` answers."""
        with tempfile.NamedTemporaryFile(
            "w", dir=self.directory, prefix=".new-", encoding="utf-8", delete=False
        ) as file:
            json.dump(state._asdict(), file)
        os.rename(file.name, os.path.join(self.directory, _STATE))

    def _body(self, sha256: str) -> str:
        return os.path.join(self.directory, os.path.basename(sha256))
