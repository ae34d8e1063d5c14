"""Descriptors, manifests, indexes, platforms: read, written, read again."""

import json

import pytest

from layers import manifest as manifests
from layers import media
from layers.descriptor import Descriptor
from layers.digest import sha256
from layers.errors import FormatError
from layers.manifest import Index, Manifest
from layers.platform import Platform, host, parse

DIGEST = sha256(b"x")


def described(**fields: object) -> Descriptor:
    return Descriptor(media.OCI_LAYER, DIGEST, 1, **fields)


@pytest.mark.parametrize(
    "descriptor",
    [
        described(),
        described(annotations={"b": "1", "a": "<&>"}),
        described(platform=Platform("linux", "arm", "v7"), urls=("https://x/y",), artifact_type="a/b"),
        described(extra={"data": "eA==", "later": [1]}),
        described(platform=Platform("windows", "amd64"), extra={"platform": {"os.version": "10.0"}}),
    ],
)
def test_descriptor_survives(descriptor: Descriptor) -> None:
    assert Descriptor.from_json(json.loads(json.dumps(descriptor.to_json()))) == descriptor


@pytest.mark.parametrize(
    "fields",
    [
        {"digest": "x", "size": 1},
        {"digest": str(DIGEST), "size": -1},
        {"digest": str(DIGEST), "size": "1"},
        {"size": 1},
        [],
    ],
)
def test_bad_descriptors(fields: object) -> None:
    with pytest.raises(FormatError):
        Descriptor.from_json(fields)


def test_manifest_survives_with_its_bytes() -> None:
    config = Descriptor(media.OCI_CONFIG, DIGEST, 1)
    made = Manifest.create(config, [described(), described()], {"k": "v"})
    assert Manifest.from_bytes(made.raw) == made
    assert made.descriptor() == Descriptor(media.OCI_MANIFEST, sha256(made.raw), len(made.raw))
    assert made.raw.startswith(
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{'
    )


def test_bytes_are_kept_as_read() -> None:
    raw = json.dumps(json.loads(Manifest.create(described(), []).raw), indent=3).encode()
    assert Manifest.from_bytes(raw).raw is raw


def test_docker_manifest_is_read() -> None:
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media.DOCKER_MANIFEST,
            "config": {"mediaType": media.DOCKER_CONFIG, "size": 1, "digest": DIGEST},
            "layers": [{"mediaType": media.DOCKER_LAYER_GZIP, "size": 1, "digest": DIGEST}],
        }
    ).encode()
    found = Manifest.from_bytes(raw)
    assert media.layer_compression(found.layers[0].media_type) == "gzip"


@pytest.mark.parametrize(
    ("raw", "said", "message"),
    [
        (b"{}", None, "schema version"),
        (b'{"schemaVersion":1}', None, "schema version 1"),
        (b'{"schemaVersion":2,"mediaType":"text/plain"}', None, "unknown media type"),
        (b'{"schemaVersion":2,"manifests":[],"layers":[]}', None, "layers"),
        (b'{"schemaVersion":2,"manifests":[],"config":{}}', media.OCI_MANIFEST, "manifests"),
        (b'{"schemaVersion":2,"mediaType":"%s"}' % media.OCI_INDEX.encode(), media.OCI_MANIFEST, "came as"),
        (b" " * (manifests.LARGEST_MANIFEST_BYTES + 1), None, "bytes"),
    ],
)
def test_bad_manifests(raw: bytes, said: str | None, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        manifests.parse(raw, said)


def entry(platform: Platform | None, size: int) -> Descriptor:
    return Descriptor(media.OCI_MANIFEST, DIGEST, size, platform=platform)


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        ("linux/amd64", 1),
        ("linux/x86_64", 1),
        ("linux/arm64/v8", 2),
        ("linux/arm/v7", 4),
        ("linux/arm/v6", 3),
        ("linux/arm/v8", 4),
        ("linux/s390x", 0),
    ],
)
def test_index_selects(wanted: str, size: int) -> None:
    index = Index.create(
        [
            entry(Platform("linux", "amd64"), 1),
            entry(Platform("linux", "arm64", "v8"), 2),
            entry(Platform("linux", "arm", "v6"), 3),
            entry(Platform("linux", "arm", "v7"), 4),
            entry(Platform("unknown", "unknown"), 9)._replace(
                annotations={"vnd.docker.reference.type": "attestation-manifest"}
            ),
        ]
    )
    assert Index.from_bytes(index.raw) == index
    found = index.select(parse(wanted))
    assert (found.size if found else 0) == size


def test_index_with_one_manifest_of_no_platform() -> None:
    assert Index.create([entry(None, 1)]).select(host()) == entry(None, 1)


def test_manifest_is_no_index() -> None:
    with pytest.raises(FormatError, match="index"):
        Manifest.from_bytes(Index.create([]).raw)
    with pytest.raises(FormatError, match="one image"):
        Index.from_bytes(Manifest.create(described(), []).raw)


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("Linux/AMD64", "linux/amd64"),
        ("linux", str(host())),
    ],
)
def test_platform(text: str, platform: str) -> None:
    assert str(parse(text)) == platform


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/a b"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(FormatError, match="platform"):
        parse(text)
