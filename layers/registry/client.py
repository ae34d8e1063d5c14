"""One repository of one registry: manifests as the bytes they are, blobs streamed both ways.

Invariants: a digest is a checked `Digest` before it becomes part of a URL; nothing is held in memory but manifests
(4 MiB at most) and one block; bytes beyond what a descriptor promises are never delivered. A client serves one thread
at a time; `abort` may be called from any.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from urllib.parse import quote, urlencode

import requests

from layers import gojson, media
from layers.descriptor import Descriptor
from layers.digest import Digest, sha256
from layers.errors import FormatError
from layers.manifest import LARGEST_MANIFEST_BYTES
from layers.registry import failures
from layers.registry.errors import (
    BlobUnknownError,
    ConnectionFailedError,
    ContentError,
    DeniedError,
    ManifestUnknownError,
    ProtocolError,
    RegistryError,
    UnauthorizedError,
)
from layers.registry.retry import plan_delay
from layers.registry.session import RegistrySession, RepositoryContainer
from layers.registry.uploads import Opener, Report, Upload
from unionfs.namedtuple import NamedTuple

BLOCK_BYTES = 1 << 18
_ACCEPT = f"{media.OCI_INDEX}, {media.OCI_MANIFEST}, {media.DOCKER_INDEX}, {media.DOCKER_MANIFEST}"
_MOST_RESUMPTIONS = 100
_MOST_PAGES = 1000
_OK, _CREATED, _ACCEPTED, _PARTIAL = 200, 201, 202, 206
_NOT_FOUND, _UNSATISFIABLE = 404, 416
_UNKNOWN_ROUTE = frozenset({400, 405, 501})


class FetchedManifest(NamedTuple):
    """A manifest or index as it came; ``media_type`` is what the registry said."""

    raw: bytes
    media_type: str
    digest: Digest


class RegistryClient:
    """The distribution API of one repository. The caller closes the session it came with."""

    def __init__(self, session: RegistrySession, repository: str, *, push: bool = False) -> None:
        self.session = session
        self.repository = repository
        self._subject = session.subject
        self._urls = RepositoryContainer(session.auth.host, repository)
        session.repository = repository
        self._scopes = (f"repository:{repository}:{'pull,push' if push else 'pull'}",)
        session.scopes = self._scopes

    @property
    def host(self) -> str:
        """The host that is spoken to."""
        return self.session.auth.host

    def abort(self) -> None:
        """The request under way fails at once."""
        self.session.abort()

    def ping(self) -> None:
        """The registry answers and accepts who we are. Raises RegistryError."""
        self.session.scopes = ()
        with self.session.do_request(f"{self.session.prefix}://{self.host}/v2/") as response:
            if response.status_code != _OK:
                failures.raise_for(response, self._subject)

    def tags(self) -> tuple[str, ...]:
        """All tags of the repository, in the registry's order.

        Raises:
            ProtocolError: the list makes no sense, or has no end.
        """
        url = self._url(f"{self.host}/v2/{self.repository}/tags/list")
        found: dict[str, None] = {}
        for _ in range(_MOST_PAGES):
            with self.session.do_request(url) as response:
                if response.status_code != _OK:
                    failures.raise_for(response, self._subject, unknown=ManifestUnknownError)
                try:
                    listed = gojson.loads_object(response.content, "list of tags")
                    tags = gojson.as_texts(listed.get("tags"), "list of tags: tags")
                except FormatError as error:
                    raise ProtocolError(self._subject, str(error)) from error
                following = response.links.get("next", {}).get("url")
                known = len(found)
                found.update(dict.fromkeys(tags))
                if not following:
                    return tuple(found)
                url = self.session.step(response.url, following)
            if len(found) == known:
                break
        raise ProtocolError(self._subject, f"{self.host} lists tags without end")

    # -- manifests ----------------------------------------------------------------------------------------------------
    def manifest(self, tag_or_digest: str) -> FetchedManifest:
        """The bytes of a manifest, checked against the digest asked for, or the one the registry claims.

        Raises:
            ManifestUnknownError: there is none.
            ContentError: the bytes do not fit.
        """
        url = self._url(self._urls.manifest_url(quote(tag_or_digest, safe=":")))
        with self.session.do_request(url, headers={"Accept": _ACCEPT}, stream=True) as response:
            if response.status_code != _OK:
                failures.raise_for(response, self._subject, unknown=ManifestUnknownError)
            raw = b"".join(self._blocks(response, LARGEST_MANIFEST_BYTES))
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            claimed = response.headers.get("Docker-Content-Digest", "")
        found = sha256(raw)
        expected = tag_or_digest if ":" in tag_or_digest else claimed
        if expected.startswith("sha256:") and expected != found:
            raise ContentError(self._subject, f"manifest from {self.host} has the digest {found}, expected {expected}")
        return FetchedManifest(raw, media_type, found)

    def put_manifest(self, raw: bytes, media_type: str, tag_or_digest: str) -> bool:
        """The registry holds exactly these bytes, under the tag or digest; whether it lists referrers by itself.

        That is what it says (``OCI-Subject``) of a manifest with a subject (distribution-spec, "Pushing manifests with
        subject").
        """
        url = self._url(self._urls.manifest_url(quote(tag_or_digest, safe=":")))
        with self.session.do_request(url, "PUT", data=raw, headers={"Content-Type": media_type}) as response:
            if response.status_code not in {_OK, _CREATED, _ACCEPTED}:
                failures.raise_for(response, self._subject)
            stored = response.headers.get("Docker-Content-Digest", "")
            lists = "OCI-Subject" in response.headers
        digest = sha256(raw)
        if stored.startswith("sha256:") and stored != digest:
            raise ContentError(self._subject, f"{self.host} stored the manifest as {stored}, expected {digest}")
        return lists

    def listed_referrers(self, digest: Digest) -> bytes | None:
        """The index of what refers to this manifest, None from a registry that keeps none (distribution-spec)."""
        url = self._url(f"{self.host}/v2/{self.repository}/referrers/{digest}")
        with self.session.do_request(url, headers={"Accept": media.OCI_INDEX}) as response:
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            if response.status_code not in {_OK, _NOT_FOUND, *_UNKNOWN_ROUTE}:
                failures.raise_for(response, self._subject)
            return response.content if response.status_code == _OK and media_type == media.OCI_INDEX else None

    # -- blobs, down --------------------------------------------------------------------------------------------------
    def read_blob(
        self, blob: Descriptor, report: Report | None = None, *, start: int = 0
    ) -> Generator[bytes, None, None]:
        """The blob's bytes from ``start`` on in order, exactly as many as there must be; not hashed here.

        A broken connection is taken up where it broke (RFC 9110, 14.2), as long as each try brings bytes, or
        ``Patience.tries`` times in a row without.

        Raises:
            BlobUnknownError: the registry does not hold it.
            ContentError: it is shorter or longer than promised.
            ConnectionFailedError: it could not be had in all the tries.
        """
        done, fruitless = start, 0
        for _ in range(_MOST_RESUMPTIONS):
            problem: RegistryError
            try:
                for block in self._read_from(blob, done):
                    done += len(block)
                    fruitless = 0
                    if report is not None:
                        report(len(block))
                    yield block
                if done == blob.size:
                    return
                problem = ContentError(
                    self._subject, f"blob {blob.digest} from {self.host} ends after {done} bytes, expected {blob.size}"
                )
            except ConnectionFailedError as error:
                problem = error
            fruitless += 1
            delay = plan_delay(fruitless, self.session.settings.patience)
            if delay is None:
                raise problem
            self.session.wait(delay)
        raise ConnectionFailedError(
            self._subject, f"blob {blob.digest} from {self.host} broke off {_MOST_RESUMPTIONS} times"
        )

    def _read_from(self, blob: Descriptor, offset: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        url = self._url(self._urls.get_blob_url(blob.digest))
        with self.session.do_request(url, headers=headers, stream=True) as response:
            if response.status_code == _UNSATISFIABLE:
                problem = f"blob {blob.digest} from {self.host} has no bytes after {offset}, expected {blob.size}"
                raise ContentError(self._subject, problem)
            if response.status_code not in {_OK, _PARTIAL}:
                failures.raise_for(response, self._subject, unknown=BlobUnknownError)
            skip = offset
            if response.status_code == _PARTIAL:
                skip = 0
                self._check_range(response, offset)
            for block in self._blocks(response, blob.size - offset + skip):
                if skip >= len(block):
                    skip -= len(block)
                    continue
                yield block[skip:] if skip else block
                skip = 0

    def _check_range(self, response: requests.Response, offset: int) -> None:
        said = response.headers.get("Content-Range", "")
        if not said.startswith(f"bytes {offset}-"):
            raise ProtocolError(self._subject, f"{self.host} was asked for bytes from {offset}, answered with others")

    def _blocks(self, response: requests.Response, limit_bytes: int) -> Iterator[bytes]:
        """The body as it is on the wire. Raises ContentError beyond the limit."""
        count = 0
        for block in self.session.blocks(response, BLOCK_BYTES):
            count += len(block)
            if count > limit_bytes:
                raise ContentError(self._subject, f"{self.host} sends more than the {limit_bytes} bytes promised")
            yield block

    # -- blobs, up ----------------------------------------------------------------------------------------------------
    def has_blob(self, blob: Descriptor) -> bool:
        """Whether the repository holds the blob, in full length as far as the registry says."""
        url = self._url(self._urls.get_blob_url(blob.digest))
        with self.session.do_request(url, "HEAD") as response:
            if response.status_code == _NOT_FOUND:
                return False
            if response.status_code != _OK:
                failures.raise_for(response, self._subject)
            return response.headers.get("Content-Length", str(blob.size)) == str(blob.size)

    def mount_blob(self, blob: Descriptor, sources: Sequence[str]) -> bool:
        """Whether the blob came from one of these repositories of the same registry, without being sent.

        distribution-spec, "Mounting a blob from another repository": 201 is yes, all else means that it must be sent.
        """
        for source in sources:
            self.session.scopes = (*self._scopes, f"repository:{source}:pull")
            query = urlencode({"mount": blob.digest, "from": source})
            try:
                with self.session.do_request(f"{self._url(self._urls.upload_blob_url())}?{query}", "POST") as response:
                    if response.status_code == _CREATED:
                        return True
                    self._give_up(response)
            except (UnauthorizedError, DeniedError):
                continue
            finally:
                self.session.scopes = self._scopes
        return False

    def _give_up(self, response: requests.Response) -> None:
        """The upload that was opened instead of a mount is closed again, as far as the registry lets us."""
        location = self.session.locate(response) if response.status_code == _ACCEPTED else ""
        if location:
            with self.session.do_request(location, "DELETE", repeatable=False):
                pass

    def send_blob(self, blob: Descriptor, content: Opener, report: Report | None = None) -> None:
        """The registry holds the blob, whose bytes are streamed; once when all goes well (`layers.registry.uploads`).

        Raises:
            ContentError: the registry received other bytes than the digest says: the source is damaged.
        """
        url = self._url(self._urls.upload_blob_url())
        Upload(self.session, url, blob, content, arrived=lambda: self.has_blob(blob), report=report).run()

    def _url(self, rest: str) -> str:
        return f"{self.session.prefix}://{rest}"
