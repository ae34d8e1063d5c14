"""Images in the forms in which they leave."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from layers import media
from layers.config import ImageConfig, RootFS
from layers.descriptor import Descriptor
from layers.digest import sha256
from layers.errors import ContentMismatchError
from layers.forms import ESTARGZ, GZIP, NONE, ZSTD, Form, reshape
from layers.image import Image, make_image
from layers.store import Store

TAR = b"".join(bytes(512) for _ in range(4))
OTHER = bytes(10240)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def image_of(store: Store) -> Image:
    """A plain layer upon one that came as gzip."""
    came = store.blobs.put(gzip.compress(OTHER, mtime=0), media_type=media.DOCKER_LAYER_GZIP)
    plain = store.blobs.put(TAR, media_type=media.OCI_LAYER)
    config = ImageConfig(architecture="amd64", rootfs=RootFS((sha256(OTHER), plain.digest)))
    made = make_image(config, [came, plain], {"org.opencontainers.image.base.name": "x", "kept": "y"})
    store.blobs.put(made.config_bytes)
    return made


def content(store: Store, layer: Descriptor) -> bytes:
    raw = store.blobs.read(layer.digest)
    if layer.media_type.endswith("zstd"):
        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read()
    return gzip.decompress(raw) if layer.media_type.endswith("gzip") else raw


@pytest.mark.parametrize(
    ("form", "kinds"),
    [
        (Form(), [media.OCI_LAYER_GZIP, media.OCI_LAYER]),
        (Form(GZIP), [media.OCI_LAYER_GZIP, media.OCI_LAYER_GZIP]),
        (Form(GZIP, level=9), [media.OCI_LAYER_GZIP, media.OCI_LAYER_GZIP]),
        (Form(ZSTD), [media.OCI_LAYER_GZIP, media.OCI_LAYER_ZSTD]),
        (Form(ZSTD, level=19, force=True), [media.OCI_LAYER_ZSTD, media.OCI_LAYER_ZSTD]),
        (Form(NONE, force=True), [media.OCI_LAYER, media.OCI_LAYER]),
        (Form(GZIP, docker=True), [media.DOCKER_LAYER_GZIP, media.DOCKER_LAYER_GZIP]),
        (Form(NONE, force=True, docker=True), [media.DOCKER_LAYER, media.DOCKER_LAYER]),
    ],
)
def test_layers_are_converted_as_far_as_is_asked(store: Store, form: Form, kinds: list[str]) -> None:
    image = image_of(store)
    made = reshape(store, image, form)
    assert [layer.media_type for layer in made.manifest.layers] == kinds
    assert [content(store, layer) for layer in made.manifest.layers] == [OTHER, TAR]
    assert made.id == image.id
    assert made.config_bytes == image.config_bytes
    assert reshape(store, image, form).manifest.raw == made.manifest.raw


def test_docker_s_words_are_used_throughout(store: Store) -> None:
    made = reshape(store, image_of(store), Form(GZIP, docker=True))
    assert made.manifest.media_type == media.DOCKER_MANIFEST
    assert made.manifest.config.media_type == media.DOCKER_CONFIG
    assert made.manifest.annotations == {"kept": "y"}


def test_an_image_that_is_in_the_form_stays_byte_for_byte(store: Store) -> None:
    made = reshape(store, image_of(store), Form(GZIP))
    assert reshape(store, made, Form(GZIP)).manifest.raw is made.manifest.raw


def test_estargz_changes_the_configuration_with_the_layers(store: Store) -> None:
    image = image_of(store)
    made = reshape(store, image, Form(ESTARGZ, force=True))
    assert made.id != image.id
    assert all(media.TOC_DIGEST in layer.annotations for layer in made.manifest.layers)
    found = [sha256(content(store, layer)) for layer in made.manifest.layers]
    assert list(made.config.rootfs.diff_ids) == found
    assert reshape(store, made, Form(ESTARGZ)).manifest.raw == made.manifest.raw
    assert made.manifest.config.digest == sha256(made.config_bytes)


def test_a_layer_that_is_not_what_its_diff_id_says_is_never_converted(store: Store) -> None:
    came = store.blobs.put(gzip.compress(OTHER, mtime=0), media_type=media.OCI_LAYER_GZIP)
    image = make_image(ImageConfig(architecture="amd64", rootfs=RootFS((sha256(b"else"),))), [came])
    before = set(store.blobs)
    with pytest.raises(ContentMismatchError, match="diff ID"):
        reshape(store, image, Form(ZSTD, force=True))
    assert set(store.blobs) == before


def test_work_can_be_stopped(store: Store) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reshape(store, image_of(store), Form(ZSTD), check=stop)
