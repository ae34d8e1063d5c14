"""A descriptor: type, digest and size of content that lies elsewhere (image-spec, descriptor.md).

Invariants: a descriptor is immutable; fields this package does not know are kept in ``extra`` and written back.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from layers import gojson
from layers.digest import Digest
from layers.errors import FormatError
from layers.platform import Platform
from unionfs.namedtuple import NamedTuple

REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation that names a manifest inside an image layout."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Descriptor(NamedTuple):
    """What content is, without the content. ``size`` is in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = NOTHING
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""
    extra: Mapping[str, Any] = NOTHING

    def to_json(self) -> gojson.JsonObject:
        """The JSON object, in the order of image-spec's Go structure."""
        fields: gojson.JsonObject = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        fields |= gojson.without_empty(
            {
                "urls": list(self.urls),
                "annotations": dict(sorted(self.annotations.items())),
                "data": self.extra.get("data"),
                "platform": self._platform_json(),
                "artifactType": self.artifact_type,
            }
        )
        fields |= {key: value for key, value in self.extra.items() if key not in _WRITTEN}
        return fields

    def _platform_json(self) -> gojson.JsonObject | None:
        if self.platform is None:
            return None
        fields: gojson.JsonObject = {"architecture": self.platform.architecture, "os": self.platform.os}
        more = gojson.as_object(self.extra.get("platform"), "platform")
        fields |= {key: more[key] for key in ("os.version", "os.features") if key in more}
        if self.platform.variant:
            fields["variant"] = self.platform.variant
        return fields | {key: value for key, value in more.items() if key not in fields}

    @classmethod
    def from_json(cls, value: object, what: str = "descriptor") -> Descriptor:
        """The descriptor in a JSON object. ``what`` begins the message of a FormatError."""
        fields = gojson.as_object(value, what)
        media_type = gojson.as_text(fields.get("mediaType"), f"{what}: mediaType")
        size = gojson.as_int(fields.get("size"), f"{what}: size")
        if size < 0:
            raise FormatError(f"{what}: size is {size}")
        extra = {key: item for key, item in fields.items() if key not in _KNOWN}
        platform, more = _read_platform(fields.get("platform"), what)
        if more:
            extra["platform"] = more
        return cls(
            media_type,
            Digest(gojson.as_text(fields.get("digest"), f"{what}: digest")),
            size,
            gojson.as_text_map(fields.get("annotations"), f"{what}: annotations") or NOTHING,
            platform,
            gojson.as_texts(fields.get("urls"), f"{what}: urls"),
            gojson.as_text(fields.get("artifactType"), f"{what}: artifactType"),
            extra or NOTHING,
        )


_KNOWN = frozenset({"mediaType", "digest", "size", "annotations", "platform", "urls", "artifactType"})
_WRITTEN = frozenset({"data", "platform"})
_PLATFORM = frozenset({"os", "architecture", "variant"})


def _read_platform(value: object, what: str) -> tuple[Platform | None, gojson.JsonObject]:
    """The platform as written, not normalised, and the fields beside it."""
    fields = gojson.as_object(value, f"{what}: platform")
    if not fields:
        return None, {}
    names = (gojson.as_text(fields.get(name), f"{what}: platform") for name in ("os", "architecture", "variant"))
    return Platform(*names), {key: item for key, item in fields.items() if key not in _PLATFORM}
