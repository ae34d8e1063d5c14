"""Images in one file, out and in again."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

from corpus.archives.hostile import file, link, whole
from layers import media
from layers.archive import write_docker_archive, write_oci_archive
from layers.config import ImageConfig, RootFS
from layers.descriptor import Descriptor
from layers.digest import sha256
from layers.errors import ArchiveError, BlobNotFoundError, ContentMismatchError, FormatError
from layers.image import Image, make_image, put_image
from layers.load import load
from layers.manifest import Index
from layers.mutate import annotate, append_layer, reconfigure
from layers.platform import Platform
from layers.store import Store, StoredImage
from layers.tar.reader import TarReader
from layers.testing.images import random_image
from layers.validate import validate_store


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "store") as made:
        yield made
        validate_store(made)


@pytest.fixture
def other(tmp_path: Path):
    with Store(tmp_path / "other") as made:
        yield made
        validate_store(made)


def oci(store: Store, image: StoredImage, name: str | None = "hello:latest") -> bytes:
    buffer = io.BytesIO()
    write_oci_archive(store, [(image.descriptor, name)], buffer)
    return buffer.getvalue()


def docker(store: Store, *images: tuple[StoredImage, list[str]]) -> bytes:
    buffer = io.BytesIO()
    write_docker_archive(store, images, buffer)
    return buffer.getvalue()


def test_oci_archive(store: Store, other: Store) -> None:
    image = random_image(store, "hello", 1)
    data = oci(store, image)
    assert oci(store, image) == data
    (loaded,) = load(other, io.BytesIO(data))
    assert (loaded.names, loaded.descriptor.digest) == (("hello:latest",), image.descriptor.digest)
    assert other.image("hello") == image
    names = [entry.name for entry in TarReader(io.BytesIO(data))]
    assert names[:4] == [b"oci-layout", b"index.json", b"blobs", b"blobs/sha256"]
    assert names[4:] == sorted(names[4:])
    assert all(entry.mtime_ns == 0 and entry.uid == 0 for entry in TarReader(io.BytesIO(data)))


def test_oci_archive_without_a_name(store: Store, other: Store) -> None:
    image = random_image(store, "hello", 1)
    (loaded,) = load(other, io.BytesIO(oci(store, image, None)))
    assert (loaded.names, list(other.images())) == ((), [])
    assert loaded.descriptor.digest in other.blobs


def test_oci_archive_of_an_index(store: Store, other: Store) -> None:
    images = [random_image(store, f"r:{seed}", seed) for seed in (1, 2)]
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    absent = Descriptor(media.OCI_MANIFEST, sha256(b"absent"), 6, platform=Platform("linux", "s390x"))
    index = Index.create(
        [*(i.descriptor._replace(platform=p, annotations={}) for i, p in zip(images, platforms, strict=True)), absent]
    )
    descriptor = store.blobs.put(index.raw, expected=index.descriptor())
    buffer = io.BytesIO()
    write_oci_archive(store, [(descriptor, "multi:1")], buffer)
    load(other, io.BytesIO(buffer.getvalue()))
    assert [other.image("multi:1", platform).id for platform in platforms] == [image.id for image in images]
    # both images were made on this machine, whatever the index says
    other.untag("multi:1")


def test_docker_archive(store: Store, other: Store) -> None:
    image, second = random_image(store, "hello", 1), random_image(store, "other", 2)
    data = docker(store, (image, ["hello:latest", "hello:1"]), (second, []), (image, []))
    assert docker(store, (image, ["hello:latest", "hello:1"]), (second, []), (image, [])) == data
    loaded = load(other, io.BytesIO(gzip.compress(data)))
    assert [each.names for each in loaded] == [("hello:latest", "hello:1"), (), ()]
    assert other.image("hello:1").manifest == image.manifest


def test_docker_archive_holds_plain_layers(store: Store, other: Store) -> None:
    image = random_image(store, "hello", 1)
    packed = [
        store.blobs.put(gzip.compress(store.blobs.read(layer.digest), mtime=0), media_type=media.OCI_LAYER_GZIP)
        for layer in image.manifest.layers
    ]
    store.tag("packed", put_image(store, make_image(image.config, packed)))
    load(other, io.BytesIO(docker(store, (store.image("packed"), ["hello:latest"]))))
    assert other.image("hello").manifest == image.manifest


def test_old_docker_archive(other: Store) -> None:
    """Layers as id/layer.tar, one of them a link to another, the configuration last."""
    tar = whole(file(b"f"))
    config = ImageConfig(architecture="amd64", rootfs=RootFS((sha256(tar), sha256(tar)))).to_bytes()
    manifest = [{"Config": "c.json", "RepoTags": ["old:1"], "Layers": ["aa/layer.tar", "bb/layer.tar"]}]
    archive = file(b"aa/VERSION", b"1.0") + file(b"aa/json", b"{}") + file(b"aa/layer.tar", tar)
    archive += link(b"bb/layer.tar", b"../aa/layer.tar")
    archive += (
        file(b"manifest.json", json.dumps(manifest).encode()) + file(b"repositories", b"{}") + file(b"c.json", config)
    )
    load(other, io.BytesIO(whole(archive)))
    assert other.image("old:1").config.rootfs.diff_ids == (sha256(tar), sha256(tar))


def manifest_json(**fields: object) -> bytes:
    return file(b"manifest.json", json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": []} | fields]).encode())


EMPTY = ImageConfig(architecture="amd64")


@pytest.mark.parametrize(
    ("archive", "error", "message"),
    [
        (file(b"x"), ArchiveError, "no images"),
        (b"", ArchiveError, "no images"),
        (manifest_json(), ArchiveError, '"c.json" is missing'),
        (manifest_json(Config="../c.json"), ArchiveError, "missing"),
        (file(b"manifest.json", b"{"), FormatError, "no JSON"),
        (manifest_json(Layers=["l.tar"]) + file(b"c.json", EMPTY.to_bytes()), ArchiveError, '"l.tar" is missing'),
        (manifest_json(Layers=["l"]) + link(b"l", b"l") + file(b"c.json", EMPTY.to_bytes()), ArchiveError, "missing"),
        (manifest_json(Layers=["l.tar"]) + file(b"l.tar") + file(b"c.json", EMPTY.to_bytes()), FormatError, "1 layers"),
        (
            manifest_json(Layers=["l.tar"]) + file(b"l.tar") + file(b"c.json", EMPTY._replace(rootfs=RootFS((sha256(b""),))).to_bytes()),
            FormatError,
            "diff ID",
        ),
        (manifest_json(RepoTags=["BAD NAME"]) + file(b"c.json", EMPTY.to_bytes()), FormatError, "BAD NAME"),
        (file(b"blobs/sha256/" + b"0" * 64), ContentMismatchError, "digest"),
        (file(b"blobs/sha256/xyz"), FormatError, "digest"),
        (
            file(b"index.json", json.dumps({"manifests": [Descriptor(media.OCI_MANIFEST, sha256(b"x"), 1).to_json()]}).encode()),
            ArchiveError,
            "lacks the blob",
        ),
    ],
)  # fmt: skip
def test_bad_archives(other: Store, archive: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(other, io.BytesIO(whole(archive)))
    assert other.entries() == ()


def test_archive_that_lacks_a_layer(store: Store, other: Store) -> None:
    image = random_image(store, "hello", 1)
    reader = TarReader(io.BytesIO(oci(store, image)))
    lacking = b"blobs/sha256/" + image.manifest.layers[0].digest.hex.encode()
    parts = [
        file(entry.name, b"".join(chunk for _, chunk in reader.chunks()))
        for entry in reader
        if entry.type == b"0" and entry.name != lacking
    ]
    with pytest.raises(ArchiveError, match="lacks the blob"):
        load(other, io.BytesIO(whole(b"".join(parts))))
    assert other.entries() == ()


def test_missing_and_damaged_blobs(store: Store) -> None:
    image = random_image(store, "hello", 1)
    path = store.blobs.path(image.manifest.layers[0].digest)
    content = path.read_bytes()
    path.write_bytes(b"x" + content[1:])
    for write in (lambda: oci(store, image), lambda: docker(store, (image, []))):
        with pytest.raises(ContentMismatchError):
            write()
    path.unlink()
    for write in (lambda: oci(store, image), lambda: docker(store, (image, []))):
        with pytest.raises(BlobNotFoundError):
            write()
    path.write_bytes(content)


def test_images_from_images(store: Store) -> None:
    first, second = random_image(store, "a", 1), random_image(store, "b", 2)
    image = Image.stored(store, first)
    layer = second.manifest.layers[0]
    appended = append_layer(image, layer, second.config.rootfs.diff_ids[0], second.config.history[0])
    assert appended.manifest.layers == (*first.manifest.layers, layer)
    changed = reconfigure(appended, appended.config._replace(user="nobody", history=()))
    assert (changed.config.user, changed.config.history) == ("nobody", appended.config.history)
    noted = annotate(changed, {"a": "b"})
    assert (noted.id, noted.manifest.annotations, noted.config_bytes) == (changed.id, {"a": "b"}, changed.config_bytes)
    for number, each in enumerate((appended, changed, noted)):
        store.tag(f"made:{number}", put_image(store, each))
    for part in image.layers(store.blobs):
        assert part.uncompressed_size() == part.descriptor.size
    with pytest.raises(FormatError, match="diff IDs"):
        make_image(image.config, [])
