"""Names of images: ``[registry/][path/]name[:tag][@digest]`` (distribution/reference, its grammar and defaults).

Invariants: a `Reference` is complete: registry and repository are filled in, and it has a tag, a digest or both.
"""

from __future__ import annotations

import re

from layers.digest import Digest
from layers.errors import FormatError, ReferenceFormatError
from unionfs.namedtuple import NamedTuple

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_LIBRARY = "library/"
_LONGEST_NAME = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
# compiled when a name has a registry, which most names have not
_REGISTRY = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?\Z"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_ID = re.compile(r"[0-9a-f]{64}\Z")


class Reference(NamedTuple):
    """The complete name of an image."""

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The image that ``text`` names, defaults filled in.

        Raises:
            ReferenceFormatError: the text names no image.
        """
        rest, at, digest_text = text.partition("@")
        digest = _parse_digest(text, digest_text) if at else None
        rest, tag = _split_tag(rest)
        registry, repository = _split_registry(rest)
        _check(text, registry, repository, tag)
        if tag is None and digest is None:
            tag = DEFAULT_TAG
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """The short form people use: ``hello:latest``, ``127.0.0.1:5000/x:1``."""
        return self._familiar_repository + self._suffix

    @property
    def canonical(self) -> str:
        """The form that leaves nothing to defaults: ``docker.io/library/hello:latest``."""
        return f"{self.registry}/{self.repository}{self._suffix}"

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository, pinned to this digest; the tag stays as a remark."""
        return self._replace(digest=digest)

    def __str__(self) -> str:
        """The short form."""
        return self.name

    @property
    def _familiar_repository(self) -> str:
        if self.registry != DEFAULT_REGISTRY:
            return f"{self.registry}/{self.repository}"
        short = self.repository.removeprefix(_LIBRARY)
        first, slash, _ = self.repository.partition("/")
        if "/" not in short:
            return short
        # what would read as another registry keeps its own
        return f"{self.registry}/{self.repository}" if slash and _reads_as_registry(first) else self.repository

    @property
    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")


def _parse_digest(text: str, digest: str) -> Digest:
    try:
        return Digest(digest)
    except FormatError as error:
        raise ReferenceFormatError(f'image name "{text}": {error}') from error


def _split_tag(rest: str) -> tuple[str, str | None]:
    """A colon after the last slash begins the tag; one before it belongs to a port."""
    colon = rest.rfind(":")
    if colon > rest.rfind("/"):
        return rest[:colon], rest[colon + 1 :]
    return rest, None


def _reads_as_registry(first: str) -> bool:
    """Whether a first component is a host: it has a dot or a colon, is ``localhost``, or has capitals."""
    return first == "localhost" or first.lower() != first or not {".", ":"}.isdisjoint(first)


def _split_registry(rest: str) -> tuple[str, str]:
    """Registry and repository, defaults filled in."""
    first, slash, repository = rest.partition("/")
    if slash and _reads_as_registry(first):
        if first in {"index.docker.io", DEFAULT_REGISTRY}:
            return DEFAULT_REGISTRY, repository if "/" in repository else _LIBRARY + repository
        return first, repository
    return DEFAULT_REGISTRY, rest if slash else _LIBRARY + rest


def _check(text: str, registry: str, repository: str, tag: str | None) -> None:
    if registry != DEFAULT_REGISTRY and not re.match(_REGISTRY, registry):
        raise ReferenceFormatError(f'image name "{text}": "{registry}" is no registry host')
    if not _REPOSITORY.match(repository):
        if _REPOSITORY.match(repository.lower()):
            raise ReferenceFormatError(f'image name "{text}": the repository must be lower case')
        raise ReferenceFormatError(f'image name "{text}" is not of the form [registry/]name[:tag][@digest]')
    if tag is not None and not _TAG.match(tag):
        raise ReferenceFormatError(f'image name "{text}": "{tag}" is no tag')
    if len(registry) + 1 + len(repository) > _LONGEST_NAME:
        raise ReferenceFormatError(f'image name "{text[:40]}…" is longer than {_LONGEST_NAME} characters')
    if _ID.match(repository.removeprefix(_LIBRARY)):
        raise ReferenceFormatError(f'image name "{text}" would read as an image id')
