"""Statements about an image, attached to it as BuildKit attaches them: a manifest beside it in an index.

::

    index ─┬─ manifest of the image                   platform: the image's
           └─ manifest of its attestations            platform: unknown/unknown
                │  annotations of its descriptor: vnd.docker.reference.type, vnd.docker.reference.digest
                └─ one layer a statement              application/vnd.in-toto+json

A statement is in-toto's (Statement v1): subjects, the type of the predicate, the predicate. With ``artifact`` the
manifest is an OCI artifact whose subject is the image; without, it looks like an image, for older readers.

Source: docs/attestations/attestation-storage.md of BuildKit; in-toto attestation, spec/v1/statement.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from layers import gojson, media
from layers.config import ImageConfig, RootFS
from layers.descriptor import Descriptor
from layers.manifest import Manifest
from layers.platform import Platform
from layers.reference import Reference
from layers.store import Store
from unionfs.namedtuple import NamedTuple

PAYLOAD = "application/vnd.in-toto+json"
ARTIFACT = "application/vnd.docker.attestation.manifest.v1+json"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
PREDICATE_TYPE = "in-toto.io/predicate-type"
NOWHERE = Platform("unknown", "unknown")
_STATEMENT = "https://in-toto.io/Statement/v1"
_MANIFEST = "attestation-manifest"


class Predicate(NamedTuple):
    """What is said: its type, a URI, and its content. ``filename`` is what it is called among files."""

    type: str
    content: gojson.JsonObject
    filename: str


class Subject(NamedTuple):
    """What something is said about; ``sha256`` are hexadecimal digits."""

    name: str
    sha256: str


def statement(predicate: Predicate, subjects: Sequence[Subject]) -> gojson.JsonObject:
    """The in-toto statement that says ``predicate`` of ``subjects``."""
    return {
        "_type": _STATEMENT,
        "subject": [{"name": subject.name, "digest": {"sha256": subject.sha256}} for subject in subjects],
        "predicateType": predicate.type,
        "predicate": predicate.content,
    }


def image_subjects(image: Descriptor, names: Sequence[Reference], platform: Platform) -> tuple[Subject, ...]:
    """The image under each of its names, as package URLs; under ``_`` when it has none."""
    urls = [package_url(name, platform) for name in names]
    return tuple(Subject(url, image.digest.hex) for url in urls or ("_",))


def package_url(name: Reference, platform: Platform) -> str:
    """``pkg:docker/debian@12?platform=linux%2Famd64``. Source: purl-spec, type docker."""
    path, _, _ = (name.name if name.digest is None else name.name.partition("@")[0]).rpartition(":")
    version = name.tag or (name.digest or "")
    path = path or name.name
    return f"pkg:docker/{quote(path, safe='/')}@{quote(version, safe='')}?platform={quote(str(platform), safe='')}"


def attest(store: Store, image: Descriptor, statements: Sequence[gojson.JsonObject], *, artifact: bool) -> Descriptor:
    """A manifest of ``statements`` about ``image`` is in the store; the descriptor for the index."""
    layers: list[Descriptor] = []
    for said in statements:
        layer = store.blobs.put(gojson.dumps(said), media_type=PAYLOAD)
        layers.append(layer._replace(annotations={PREDICATE_TYPE: str(said["predicateType"])}))
    config = store.blobs.put(b"{}", media_type=media.OCI_EMPTY) if artifact else _image_config(store, layers)
    manifest = Manifest.create(
        config._replace(extra={"data": "e30="}) if artifact else config,
        layers,
        artifact_type=ARTIFACT if artifact else "",
        subject=Descriptor(image.media_type, image.digest, image.size) if artifact else None,
    )
    made = store.blobs.put(manifest.raw, media_type=media.OCI_MANIFEST)
    annotations = {media.REFERENCE_TYPE: _MANIFEST, REFERENCE_DIGEST: str(image.digest)}
    return made._replace(annotations=annotations, platform=NOWHERE)


def _image_config(store: Store, layers: Sequence[Descriptor]) -> Descriptor:
    rootfs = RootFS(tuple(layer.digest for layer in layers))
    config = ImageConfig(architecture=NOWHERE.architecture, os=NOWHERE.os, rootfs=rootfs)
    return store.blobs.put(config.to_bytes(), media_type=media.OCI_CONFIG)
