"""Manifests and indexes of images (image-spec, manifest.md and image-index.md; docker's schema 2 is read as well).

Invariants: ``raw`` holds exactly the bytes whose digest names the manifest; what was read is never written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layers import gojson, media
from layers.descriptor import NOTHING, Descriptor
from layers.digest import Digest, sha256
from layers.errors import FormatError
from layers.platform import Platform
from unionfs.namedtuple import NamedTuple

_SCHEMA_VERSION = 2
LARGEST_MANIFEST_BYTES = 4 << 20
"""Longer manifests are refused, as registries do (distribution-spec)."""


class Manifest(NamedTuple):
    """One image: its configuration and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    media_type: str
    raw: bytes
    artifact_type: str = ""
    subject: Descriptor | None = None

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return sha256(self.raw)

    def descriptor(self, platform: Platform | None = None) -> Descriptor:
        """What refers to this manifest."""
        return Descriptor(self.media_type, sha256(self.raw), len(self.raw), platform=platform)

    @classmethod
    def create(
        cls,
        config: Descriptor,
        layers: Sequence[Descriptor],
        annotations: Mapping[str, str] = NOTHING,
        *,
        media_type: str = media.OCI_MANIFEST,
        artifact_type: str = "",
        subject: Descriptor | None = None,
    ) -> Manifest:
        """A new manifest, its bytes in the order of image-spec's Go structure."""
        fields: gojson.JsonObject = {"schemaVersion": _SCHEMA_VERSION, "mediaType": media_type}
        if artifact_type:
            fields["artifactType"] = artifact_type
        fields |= {"config": config.to_json(), "layers": [layer.to_json() for layer in layers]}
        if subject is not None:
            fields["subject"] = subject.to_json()
        if annotations:
            fields["annotations"] = dict(sorted(annotations.items()))
        raw = gojson.dumps(fields)
        return cls(config, tuple(layers), dict(annotations), media_type, raw, artifact_type, subject)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """The manifest in these bytes. Raises FormatError, also when they hold an index."""
        found = parse(raw)
        if not isinstance(found, Manifest):
            raise FormatError("expected the manifest of one image, got an index")
        return found


class Index(NamedTuple):
    """A list of manifests, one a platform."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    media_type: str
    raw: bytes
    artifact_type: str = ""
    subject: Descriptor | None = None

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return sha256(self.raw)

    def descriptor(self) -> Descriptor:
        """What refers to this index."""
        return Descriptor(self.media_type, sha256(self.raw), len(self.raw))

    @classmethod
    def create(
        cls,
        manifests: Sequence[Descriptor],
        annotations: Mapping[str, str] = NOTHING,
        *,
        media_type: str = media.OCI_INDEX,
    ) -> Index:
        """A new index, its bytes in the order of image-spec's Go structure."""
        fields: gojson.JsonObject = {"schemaVersion": _SCHEMA_VERSION, "mediaType": media_type}
        fields["manifests"] = [manifest.to_json() for manifest in manifests]
        if annotations:
            fields["annotations"] = dict(sorted(annotations.items()))
        return cls(tuple(manifests), dict(annotations), media_type, gojson.dumps(fields))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Index:
        """The index in these bytes. Raises FormatError, also when they hold the manifest of one image."""
        found = parse(raw)
        if not isinstance(found, Index):
            raise FormatError("expected an index, got the manifest of one image")
        return found

    @property
    def images(self) -> tuple[Descriptor, ...]:
        """The entries that are images, not something said about one."""
        return tuple(entry for entry in self.manifests if not entry.annotations.get(media.REFERENCE_TYPE))

    def select(self, platform: Platform) -> Descriptor | None:
        """The first manifest for this platform, else the only one when it names no platform, else None.

        An image for a lower variant of the same architecture serves when the exact one is missing (``arm/v6`` on
        ``arm/v7``), the highest first.
        """
        wanted = platform.normalised()
        images = self.images
        for entry in images:
            if entry.platform is not None and entry.platform.normalised() == wanted:
                return entry
        lower = [
            entry
            for entry in images
            if entry.platform is not None
            and entry.platform.normalised()[:2] == wanted[:2]
            and entry.platform.normalised().variant < wanted.variant
        ]
        if lower:
            return max(lower, key=lambda entry: entry.platform.normalised().variant if entry.platform else "")
        return images[0] if len(images) == 1 and images[0].platform is None else None


def parse(raw: bytes, media_type: str | None = None) -> Manifest | Index:
    """The manifest or index in these bytes.

    ``media_type`` is what the transport said (``Content-Type``, the referring descriptor); the one inside must agree
    when both are there (CVE-2021-41190).

    Raises:
        FormatError: the bytes hold neither, or contradict themselves.
    """
    if len(raw) > LARGEST_MANIFEST_BYTES:
        raise FormatError(f"manifest has {len(raw)} bytes, at most {LARGEST_MANIFEST_BYTES} are taken")
    fields = gojson.loads_object(raw, "manifest")
    version = fields.get("schemaVersion")
    if version != _SCHEMA_VERSION:
        raise FormatError(f"manifest has schema version {version}, expected {_SCHEMA_VERSION}")
    kind = _kind(fields, media_type)
    annotations = gojson.as_text_map(fields.get("annotations"), "manifest: annotations")
    artifact_type = gojson.as_text(fields.get("artifactType"), "manifest: artifactType")
    subject = None if fields.get("subject") is None else Descriptor.from_json(fields["subject"], "manifest: subject")
    if kind in media.INDEXES:
        entries = _descriptors(fields.get("manifests"), "index: manifest")
        return Index(entries, annotations, kind, raw, artifact_type, subject)
    layers = _descriptors(fields.get("layers"), "manifest: layer")
    config = Descriptor.from_json(fields.get("config"), "manifest: config")
    return Manifest(config, layers, annotations, kind, raw, artifact_type, subject)


def _kind(fields: Mapping[str, Any], said: str | None) -> str:
    """The media type, from inside, from outside, or from the shape; contradictions are errors."""
    inside = gojson.as_text(fields.get("mediaType"), "manifest: mediaType")
    known = media.INDEXES | media.MANIFESTS
    if said in known and inside and inside != said:
        raise FormatError(f"manifest calls itself {inside}, but came as {said}")
    kind = inside or (said if said in known else "") or ""
    if not kind:
        kind = media.OCI_INDEX if "manifests" in fields else media.OCI_MANIFEST
    if kind not in known:
        raise FormatError(f"manifest has the unknown media type {kind}")
    foreign = ("config", "layers") if kind in media.INDEXES else ("manifests",)
    for name in foreign:
        if fields.get(name) is not None:
            raise FormatError(f'manifest of type {kind} has a field "{name}"')
    return kind


def _descriptors(value: object, what: str) -> tuple[Descriptor, ...]:
    return tuple(Descriptor.from_json(item, what) for item in gojson.as_list(value, what))
