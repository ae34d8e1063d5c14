"""What answers behind a `layers.testing.registry.FaultyRegistry`: a registry in memory, or another one.

The memory follows the distribution specification as far as this package's client goes, and judges what it is given:
digests, known blobs before manifests, mounts.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import uuid
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from layers import media
from layers.digest import sha256
from unionfs.namedtuple import NamedTuple

_ROUTE = re.compile(r"/v2/(?P<name>.+?)/(?P<kind>blobs|manifests|tags|referrers)/(?P<rest>.+)\Z")
_RANGE = re.compile(r"bytes=(\d+)-\Z")
_PART = re.compile(r"(\d+)-(\d+)\Z")
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "host", "keep-alive"})


class Request(NamedTuple):
    """One request, its body read."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """One answer; Content-Length is added by the server unless it is here (HEAD)."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class Backend(Protocol):
    """Where answers come from; called by several threads."""

    def answer(self, request: Request) -> Answer:
        """The answer to a request that was let through."""
        ...

    def broke(self, request: Request) -> None:
        """A request whose body broke off, with as much of it as came."""
        ...


class Memory:
    """A registry in memory. ``blobs`` and ``manifests`` by (repository, digest); ``tags`` by (repository, tag).

    ``least_part_bytes`` and ``largest_body_bytes`` are what it takes of an upload at once, ``keeps_parts`` whether it
    has what came of a body that broke off, ``lists_referrers`` whether it knows the referrers API.
    """

    least_part_bytes = 0
    largest_body_bytes: int | None = None
    keeps_parts = True
    lists_referrers = False

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.uploads: dict[str, bytearray] = {}
        self._lock = threading.Lock()

    def add_manifest(self, repository: str, tag: str, raw: bytes, media_type: str) -> str:
        """The manifest is there, unjudged; its digest."""
        digest = str(sha256(raw))
        self.manifests[repository, digest] = (raw, media_type)
        self.tags[repository, tag] = digest
        return digest

    def add_blob(self, repository: str, content: bytes, digest: str | None = None) -> str:
        """The content is there, under its digest or, to deceive, another."""
        name = digest or str(sha256(content))
        self.blobs[repository, name] = content
        return name

    def answer(self, request: Request) -> Answer:
        """As a registry would."""
        parts = urlsplit(request.target)
        if parts.path == "/v2/":
            return Answer(200, {}, b"{}")
        route = _ROUTE.match(parts.path)
        if route is None:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        name, kind, rest = route.group("name", "kind", "rest")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        with self._lock:
            if kind in {"tags", "referrers"}:
                return self._list_tags(name) if kind == "tags" else self._list_referrers(name, rest)
            if kind == "manifests":
                return self._manifest(request, name, rest)
            if rest.startswith("uploads/"):
                return self._upload(request, name, rest.removeprefix("uploads/"), query)
            return self._blob(request, name, rest)

    def _list_tags(self, name: str) -> Answer:
        tags = sorted(tag for repository, tag in self.tags if repository == name)
        return Answer(200, {"Content-Type": "application/json"}, json.dumps({"name": name, "tags": tags}).encode())

    def _manifest(self, request: Request, name: str, rest: str) -> Answer:
        if request.method == "PUT":
            return self._put_manifest(request, name, rest)
        digest = rest if ":" in rest else self.tags.get((name, rest), "")
        found = self.manifests.get((name, digest))
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        headers = {"Content-Type": found[1], "Docker-Content-Digest": digest}
        return Answer(200, headers, found[0])

    def _put_manifest(self, request: Request, name: str, rest: str) -> Answer:
        content = json.loads(request.body)
        for blob in [*content.get("layers", []), *([content["config"]] if "config" in content else [])]:
            if (name, blob["digest"]) not in self.blobs:
                return _error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
        digest = str(sha256(request.body))
        self.manifests[name, digest] = (request.body, request.headers.get("content-type", ""))
        if ":" not in rest:
            self.tags[name, rest] = digest
        elif rest != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        headers = {"Docker-Content-Digest": digest, "Location": f"/v2/{name}/manifests/{digest}"}
        if self.lists_referrers and "subject" in content:
            headers["OCI-Subject"] = content["subject"]["digest"]
        return Answer(201, headers)

    def _list_referrers(self, name: str, digest: str) -> Answer:
        if not self.lists_referrers:
            return Answer(404, {}, b"404 page not found")
        found: list[dict[str, object]] = []
        for (repository, own), (raw, media_type) in self.manifests.items():
            content = json.loads(raw)
            if repository == name and content.get("subject", {}).get("digest") == digest:
                kind = content.get("artifactType") or content.get("config", {}).get("mediaType", "")
                found.append({"mediaType": media_type, "digest": own, "size": len(raw), "artifactType": kind})
        body = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": found}
        return Answer(200, {"Content-Type": media.OCI_INDEX}, json.dumps(body).encode())

    def _blob(self, request: Request, name: str, digest: str) -> Answer:
        content = self.blobs.get((name, digest))
        if content is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        asked = _RANGE.match(request.headers.get("range", ""))
        if asked is None:
            return Answer(200, headers, content)
        start = int(asked.group(1))
        if start >= len(content):
            return Answer(416, {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Answer(206, headers, content[start:])

    def _upload(self, request: Request, name: str, upload: str, query: Mapping[str, str]) -> Answer:
        if request.method == "POST":
            return self._begin(name, query)
        if upload not in self.uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if request.method == "GET":
            return Answer(204, self._state(name, upload))
        if request.method == "DELETE":
            del self.uploads[upload]
            return Answer(204, {})
        if self.largest_body_bytes is not None and len(request.body) > self.largest_body_bytes:
            return Answer(413, {})
        return (self._take_part if request.method == "PATCH" else self._finish)(request, name, upload)

    def _begin(self, name: str, query: Mapping[str, str]) -> Answer:
        mounted = self.blobs.get((query.get("from", ""), query.get("mount", "")))
        if mounted is not None:
            self.blobs[name, query["mount"]] = mounted
            return Answer(201, {"Location": f"/v2/{name}/blobs/{query['mount']}"})
        started = uuid.uuid4().hex
        self.uploads[started] = bytearray()
        least = {"OCI-Chunk-Min-Length": str(self.least_part_bytes)} if self.least_part_bytes else {}
        return Answer(202, {**self._state(name, started), **least})

    def _finish(self, request: Request, name: str, upload: str) -> Answer:
        digest = parse_qs(urlsplit(request.target).query).get("digest", [""])[0]
        content = bytes(self.uploads.pop(upload)) + request.body
        if sha256(content) != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.blobs[name, digest] = content
        return Answer(201, {"Location": f"/v2/{name}/blobs/{digest}"})

    def _take_part(self, request: Request, name: str, upload: str) -> Answer:
        asked = _PART.match(request.headers.get("content-range", ""))
        if asked is None or int(asked[1]) != len(self.uploads[upload]):
            return Answer(416, self._state(name, upload))
        self.uploads[upload] += request.body
        return Answer(202, self._state(name, upload))

    def _state(self, name: str, upload: str) -> dict[str, str]:
        last = max(0, len(self.uploads[upload]) - 1)
        return {"Location": f"/v2/{name}/blobs/uploads/{upload}?state=s", "Range": f"0-{last}"}

    def broke(self, request: Request) -> None:
        """The part of an upload that came is kept, as some registries do."""
        upload = urlsplit(request.target).path.rpartition("/")[2]
        with self._lock:
            if self.keeps_parts and upload in self.uploads and request.method in {"PUT", "PATCH"}:
                self.uploads[upload] += request.body


class Upstream:
    """Another registry on loopback, asked anew for each request."""

    def __init__(self, host: str) -> None:
        self._host = host

    def answer(self, request: Request) -> Answer:
        """What the other one says; its own addresses in Location become relative."""
        connection = http.client.HTTPConnection(self._host, timeout=30)
        try:
            headers = {key: value for key, value in request.headers.items() if key not in _HOP_BY_HOP}
            connection.request(request.method, request.target, request.body or None, headers)
            response = connection.getresponse()
            body = response.read()
            back = {key: value for key, value in response.getheaders() if key.lower() not in _HOP_BY_HOP}
        finally:
            connection.close()
        if "Location" in back:
            back["Location"] = back["Location"].removeprefix(f"http://{self._host}")
        return Answer(response.status, back, body)

    def broke(self, request: Request) -> None:
        """The other one does not hear of it."""


def _error(status: int, code: str, message: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, {"Content-Type": "application/json"}, body)
