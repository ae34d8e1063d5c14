"""One blob on its way up: whole in one request, or in parts; taken up where it broke.

::

    POST ─202─▶ Location ──PUT whole, digest──▶ 201
                   │  413, or the registry or the settings want parts ─▶ PATCH 0-a ─202─▶ PATCH a-b … ─▶ PUT digest
                   │                                                      416 ─▶ GET Location
                   └  broke, 429, 5xx ─▶ HEAD blob ─200─▶ done
                                         GET Location ─204, Range: 0-k─▶ PATCH from k+1 … ─▶ PUT digest
                                         anything else ─▶ POST anew

Invariants: nothing is held in memory but one block; parts but the last are as long as the registry asks for
(``OCI-Chunk-Min-Length``); each round brings bytes to the registry, or `plan_delay` ends them.
Source: distribution-spec, "Pushing blobs".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import requests

from layers.descriptor import Descriptor
from layers.registry import failures
from layers.registry.errors import ConnectionFailedError, ContentError, ProtocolError, UnavailableError
from layers.registry.retry import plan_delay
from layers.registry.session import RegistrySession

_BLOCK_BYTES = 1 << 18
_OCTETS = "application/octet-stream"
_OK, _CREATED, _ACCEPTED, _NO_CONTENT = 200, 201, 202, 204
_BAD_REQUEST, _NOT_FOUND, _TOO_LARGE, _UNSATISFIABLE = 400, 404, 413, 416
_USUAL_PART_BYTES = 16 << 20
_LARGEST_PART_BYTES = 1 << 30
_RANGE = re.compile(r"(?:bytes[ =])?0-(\d{1,19})")

Report = Callable[[int], None]
"""Called with the number of bytes that have just gone over the wire (negative when a part starts over)."""


class Content(Protocol):
    """The bytes of a blob from an offset on."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, none only at the end."""
        ...

    def close(self) -> None:
        """Nothing of it is open."""
        ...


Opener = Callable[[int], Content]
"""The content from this offset on; the caller closes it."""


class Upload:
    """One upload; ``new_url`` is where it begins, ``arrived`` asks whether the registry holds the blob."""

    def __init__(
        self,
        session: RegistrySession,
        new_url: str,
        blob: Descriptor,
        content: Opener,
        *,
        arrived: Callable[[], bool],
        report: Report | None = None,
    ) -> None:
        self._session = session
        self._new_url = new_url
        self._blob = blob
        self._content = content
        self._arrived = arrived
        self._report: Report = report or (lambda _count: None)
        self._location = ""
        self._offset = 0
        self._counted = 0
        self._part_bytes = session.settings.part_bytes
        self._taken_up = False

    def run(self) -> None:
        """The registry holds the blob.

        Raises:
            ContentError: the registry received other bytes than the digest says: the source is damaged.
            RegistryError: it does not take them.
        """
        fruitless = 0
        while True:
            before = self._offset
            try:
                self._send()
            except (ConnectionFailedError, UnavailableError):
                fruitless = 1 if self._offset > before else fruitless + 1
                delay = plan_delay(fruitless, self._session.settings.patience)
                if delay is None:
                    raise
                self._session.wait(delay)
                if self._arrived():
                    return
                self._take_up()
            else:
                return

    def _send(self) -> None:
        if not self._location:
            self._begin()
        if self._offset or 0 < self._part_bytes < self._blob.size:
            self._send_parts()
        elif not self._send_whole():
            self._part_bytes = _USUAL_PART_BYTES
            self._begin()
            self._send_parts()

    def _begin(self) -> None:
        """An upload is open, and nothing of it sent."""
        self._taken_up = False
        self._go_to(0)
        with self._session.do_request(self._new_url, "POST") as response:
            self._location = self._session.locate(response)
            if response.status_code != _ACCEPTED or not self._location:
                failures.raise_for(response, self._session.subject)
            least = response.headers.get("OCI-Chunk-Min-Length", "")
        if least.isascii() and least.isdigit() and self._part_bytes:
            self._part_bytes = min(max(self._part_bytes, int(least[:19])), _LARGEST_PART_BYTES)

    def _send_whole(self) -> bool:
        """The registry holds the blob, or False: it takes no request that long."""
        with self._put(0, self._blob.size, self._with_digest(), "PUT") as response:
            if response.status_code == _TOO_LARGE:
                return False
            self._check_end(response)
        return True

    def _send_parts(self) -> None:
        while self._offset < self._blob.size:
            self._send_part()
        with self._session.do_request(self._with_digest(), "PUT", data=b"", repeatable=False) as response:
            self._check_end(response)

    def _send_part(self) -> None:
        end = min(self._blob.size, self._offset + (self._part_bytes or self._blob.size))
        more = {"Content-Range": f"{self._offset}-{end - 1}"}
        with self._put(self._offset, end, self._location, "PATCH", more) as response:
            if response.status_code == _UNSATISFIABLE:
                raise UnavailableError(self._session.subject, f"{self._session.auth.host} lost track of an upload")
            if response.status_code not in {_ACCEPTED, _CREATED, _NO_CONTENT}:
                self._check_lost(response)
                failures.raise_for(response, self._session.subject)
            self._location = self._session.locate(response) or self._location
            self._go_to(_received(response) or end)

    def _put(
        self, start: int, end: int, url: str, method: str, more: dict[str, str] | None = None
    ) -> requests.Response:
        """The answer to a request that carries these bytes of the blob."""
        body = _Body(self._content, start, end, self._session.progressing, self._count)
        headers = {"Content-Type": _OCTETS, **(more or {})}
        # an empty body must not be taken for one of unknown length
        data: Any = body if end > start else b""
        try:
            return self._session.do_request(url, method, data=data, headers=headers, repeatable=False)
        finally:
            body.close()

    def _check_end(self, response: requests.Response) -> None:
        """Nothing happens when the registry has the blob."""
        if response.status_code in {_CREATED, _OK, _NO_CONTENT}:
            return
        self._check_lost(response)
        if response.status_code == _BAD_REQUEST:
            problem = f"{self._session.auth.host} received other bytes than blob {self._blob.digest}"
            raise ContentError(self._session.subject, problem)
        failures.raise_for(response, self._session.subject)

    def _check_lost(self, response: requests.Response) -> None:
        """An upload that was taken up and that the registry has lost, or mixed up, is begun anew."""
        if response.status_code in {_BAD_REQUEST, _NOT_FOUND, _UNSATISFIABLE} and self._taken_up:
            self._location = ""
            raise UnavailableError(self._session.subject, f"{self._session.auth.host} lost track of an upload")

    def _take_up(self) -> None:
        """The upload goes on where the registry says that it broke, or at its beginning."""
        location, self._location = self._location, ""
        if not location:
            return
        try:
            answer = self._session.do_request(location)
        except ConnectionFailedError:
            return
        with answer as response:
            received = _received(response)
            if response.status_code in {_NO_CONTENT, _ACCEPTED, _OK} and received and received <= self._blob.size:
                self._location = self._session.locate(response) or location
                self._taken_up = True
                self._go_to(received)

    def _go_to(self, offset: int) -> None:
        """So many bytes of the blob are with the registry."""
        if offset > self._blob.size:
            problem = f"{self._session.auth.host} received {offset} bytes of blob {self._blob.digest}"
            raise ProtocolError(self._session.subject, f"{problem}, which has {self._blob.size}")
        self._offset = offset
        self._count(offset - self._counted)

    def _count(self, count: int) -> None:
        self._counted += count
        if count:
            self._report(count)

    def _with_digest(self) -> str:
        more = urlencode({"digest": self._blob.digest})
        return self._location + ("&" if urlsplit(self._location).query else "?") + more


def _received(response: requests.Response) -> int:
    """How many bytes the registry says it has; 0 when it says nothing, and for one, which looks like none."""
    match = _RANGE.fullmatch(response.headers.get("Range", ""))
    last = int(match[1]) if match else 0
    return last + 1 if last else 0


class _Body:
    """Part of a blob on its way out: read in blocks, repeatable, counted."""

    def __init__(self, content: Opener, start: int, end: int, check: Callable[[], None], report: Report) -> None:
        self._opener = content
        self._content: Content | None = None
        self._start = start
        self._end = end
        self._check = check
        self._report = report
        self._sent = 0

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        # what requests takes for a stream has one; it is read through `read`
        return iter(lambda: self.read(_BLOCK_BYTES), b"")

    def read(self, size: int = _BLOCK_BYTES, /) -> bytes:
        """The next bytes. Raises TransferCancelledError."""
        self._check()
        if self._content is None:
            self._content = self._opener(self._start)
        data = self._content.read(min(size, len(self) - self._sent))
        self._sent += len(data)
        self._report(len(data))
        return data

    def rewind(self) -> None:
        """The next read begins at the start; what was counted as sent is no more."""
        self._report(-self._sent)
        self._sent = 0
        self.close()

    def close(self) -> None:
        """The content is closed."""
        if self._content is not None:
            self._content.close()
            self._content = None
