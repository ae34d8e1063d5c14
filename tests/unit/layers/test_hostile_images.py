"""Archives of images that claim what is not so: each is refused with its reason, and the store has no image of them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from layers import media
from layers.digest import sha256
from layers.ensure import ensure_unpacked
from layers.errors import ArchiveError, LayersError
from layers.limits import Limits
from layers.load import load
from layers.store import Store

TAR = bytes(1024)


class Parts(NamedTuple):
    """The blobs of an archive by digest, and its index."""

    blobs: dict[str, bytes]
    index: dict[str, Any]


def descriptor(content: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(sha256(content)), "size": len(content), **fields}


def put(parts: Parts, content: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
    made = descriptor(content, media_type, **fields)
    parts.blobs[made["digest"]] = content
    return made


def image(layer: bytes = TAR, *, said: Any = None, **changes: Any) -> Parts:
    """A right image, but for what is changed in its manifest."""
    parts = Parts({}, {"schemaVersion": 2, "manifests": []})
    fields = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(sha256(TAR))]}}
    raw = json.dumps(fields | (said or {})).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": put(parts, raw, media.OCI_CONFIG),
        "layers": [put(parts, layer, media.OCI_LAYER if layer == TAR else media.OCI_LAYER_GZIP)],
    } | changes
    parts.index["manifests"].append(put(parts, json.dumps(manifest).encode(), media.OCI_MANIFEST))
    return parts


def changed(change: Callable[[Parts], None]) -> Parts:
    parts = image()
    change(parts)
    return parts


def change_index(**fields: Any) -> Parts:
    parts = image()
    parts.index["manifests"][0] |= fields
    return parts


def nested(depth: int) -> Parts:
    parts = image()
    [entry] = parts.index["manifests"]
    for _ in range(depth):
        raw = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}).encode()
        entry = put(parts, raw, media.OCI_INDEX)
    parts.index["manifests"] = [entry]
    return parts


def other_content(kind: str) -> Parts:
    parts = image()
    for digest, content in parts.blobs.items():
        if (kind == "layer") == (content == TAR) and (kind != "config" or b"rootfs" in content):
            parts.blobs[digest] = content[:-1] + b"\x01"
            break
    return parts


def endless_gzip() -> bytes:
    return gzip.compress(bytes(64 << 20), 9, mtime=0)


HUGE = {"mediaType": media.OCI_CONFIG, "digest": "sha256:" + "1" * 64, "size": 1}
CASES: dict[str, Callable[[], Parts]] = {
    "a blob with another content": lambda: other_content("layer"),
    "a configuration with another content": lambda: other_content("config"),
    "a manifest with a wrong size": lambda: change_index(size=1),
    "a manifest that is not there": lambda: change_index(digest="sha256:" + "0" * 64),
    "a digest of another kind": lambda: change_index(digest="sha512:" + "0" * 128),
    "a digest that is a path": lambda: change_index(digest="sha256:../../../etc/passwd"),
    "a negative size": lambda: change_index(size=-1),
    "a size that is text": lambda: change_index(size="12"),
    "a media type that contradicts": lambda: change_index(mediaType=media.OCI_INDEX),
    "a name that is none": lambda: change_index(annotations={"org.opencontainers.image.ref.name": "../../UP"}),
    "annotations that are a list": lambda: change_index(annotations=["x"]),
    "a platform that is text": lambda: change_index(platform="linux/amd64"),
    "a layer that is not there": lambda: image(layers=[HUGE]),
    "a layer of another size": lambda: image(layers=[descriptor(TAR, media.OCI_LAYER) | {"size": 5}]),
    "layers that are no list": lambda: image(layers={"a": 1}),
    "a manifest without a configuration": lambda: image(config=None),
    "a schema of another version": lambda: image(schemaVersion=1),
    "a manifest with manifests": lambda: image(manifests=[]),
    "a manifest of 10 MB": lambda: image(annotations={"x": "y" * (10 << 20)}),
    "an index of 10 MB": lambda: Parts({}, {"schemaVersion": 2, "manifests": [HUGE] * 100_000}),
    "an index that refers to itself": lambda: Parts(
        {}, {"schemaVersion": 2, "manifests": [HUGE | {"mediaType": media.OCI_INDEX}]}
    ),
    "an index that is deeper than any": lambda: nested(1500),
    "no JSON at all": lambda: changed(
        lambda parts: parts.blobs.update({parts.index["manifests"][0]["digest"]: b"{" * 9})
    ),
}


def archive(parts: Parts) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(parts.index).encode()}
        files |= {f"blobs/sha256/{digest.removeprefix('sha256:')}": content for digest, content in parts.blobs.items()}
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


def test_the_right_one_is_taken(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        assert len(load(store, archive(image()))) == 1


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_and_the_store_is_as_before(tmp_path: Path, name: str) -> None:
    with Store(tmp_path / "store") as store:
        load(store, archive(image(gzip.compress(TAR), said={"author": "before"})))
        before = store.entries()
        with pytest.raises(LayersError) as raised:
            load(store, archive(CASES[name]()))
        assert len(str(raised.value)) < 500
        assert "\n" not in str(raised.value)
        assert store.entries() == before


def docker(
    *,
    manifest: Any = None,
    config: Any = None,
    more: dict[str, bytes] | None = None,
    links: dict[str, str] | None = None,
) -> io.BytesIO:
    """A right archive in docker's form, but for what is changed."""
    said = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(sha256(TAR))]}}
    listed = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"]}
    files = {
        "c.json": said | (config or {}),
        "manifest.json": [listed | manifest] if isinstance(manifest, dict) else manifest,
    }
    if manifest is None:
        files["manifest.json"] = [listed]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        contents = {name: one if isinstance(one, bytes) else json.dumps(one).encode() for name, one in files.items()}
        for name, content in ({"l.tar": TAR} | contents | (more or {})).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    out.seek(0)
    return out


DOCKER_CASES: dict[str, tuple[Callable[[], io.BytesIO], str]] = {
    "a configuration outside": (lambda: docker(manifest={"Config": "../../../etc/passwd"}), "is missing"),
    "a configuration at an absolute path": (lambda: docker(manifest={"Config": "/etc/passwd"}), "is missing"),
    "a configuration that is text": (lambda: docker(manifest={"Config": ["c.json"]}), "no JSON string"),
    "a layer outside": (lambda: docker(manifest={"Layers": ["../../etc/passwd"]}), "is missing"),
    "a layer that is a link outside": (
        lambda: docker(manifest={"Layers": ["a"]}, links={"a": "/etc/passwd"}),
        "is missing",
    ),
    "layers that are links in a circle": (
        lambda: docker(manifest={"Layers": ["a"]}, links={"a": "b", "b": "a"}),
        "is missing",
    ),
    "a layer with another diff ID": (lambda: docker(more={"l.tar": TAR * 2}), "has the diff ID"),
    "a layer too many": (lambda: docker(manifest={"Layers": ["l.tar"] * 2}), "has 2 layers"),
    "layers that are no list": (lambda: docker(manifest={"Layers": {"a": "l.tar"}}), "no JSON list"),
    "names that are none": (lambda: docker(manifest={"RepoTags": ["../UP:1"]}), "name"),
    "a name that a terminal obeys": (lambda: docker(manifest={"RepoTags": ["a\x1b[2J:1"]}), "name"),
    "a manifest that is no JSON": (lambda: docker(manifest=b"[{]"), "is no JSON"),
    "a manifest that is deeper than any": (lambda: docker(manifest=b"[" * 100_000), "is no JSON"),
    "a manifest that is text": (lambda: docker(manifest=b'"x"'), "no JSON list"),
    "a manifest of 20 MB": (lambda: docker(manifest=b" " * (20 << 20)), "neither index.json nor manifest.json"),
    "a configuration that is no object": (lambda: docker(more={"c.json": b"[]"}), "no JSON object"),
    "a configuration without layers": (lambda: docker(config={"rootfs": {}}), "names 0 diff IDs"),
    "diff IDs that are paths": (
        lambda: docker(config={"rootfs": {"type": "layers", "diff_ids": ["sha256:../../x"]}}),
        "sha256",
    ),
    "80 MB of JSON": (
        lambda: docker(more={f"{number}.json": bytes(16 << 20) for number in range(5)}),
        "bytes of JSON",
    ),
    "a blob whose name is a path": (
        lambda: docker(more={"blobs/sha256/x/../../../../up": b"x"}, manifest=b"1"),
        "list",
    ),
    "a blob whose name is no digest": (lambda: docker(more={"blobs/sha256/short": b"x"}), "short"),
    "a blob of another digest": (lambda: docker(more={"blobs/sha256/" + "0" * 64: b"x"}), "digest"),
    "an archive of nothing": (lambda: io.BytesIO(TAR), "neither index.json nor manifest.json"),
    "zeros without end": (lambda: io.BytesIO(endless_gzip()), "neither index.json nor manifest.json|grew more than"),
}


def test_the_right_one_in_docker_s_form_is_taken(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        assert [image.names for image in load(store, docker())] == [("x:1",)]


@pytest.mark.parametrize("name", DOCKER_CASES)
def test_it_is_refused_in_docker_s_form(tmp_path: Path, name: str) -> None:
    make, words = DOCKER_CASES[name]
    with Store(tmp_path / "store") as store:
        load(store, archive(image(gzip.compress(TAR), said={"author": "before"})))
        before = store.entries()
        with pytest.raises(LayersError, match=words) as raised:
            load(store, make())
        assert len(str(raised.value)) < 500
        assert "\n" not in str(raised.value)
        assert store.entries() == before
        assert not list((store.root / "tmp").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


BEYOND = {
    "members": (Limits(entries=2), docker, "more than 2 entries"),
    "links": (Limits(entries=9), lambda: docker(links={str(n): "x" for n in range(9)}), "more than 9 entries"),
    "bytes": (Limits(total_bytes=1 << 20), lambda: docker(more={"a": bytes(2 << 20)}), "more than 1048576 bytes"),
    "ratio": (
        Limits(ratio=10, ratio_free_bytes=1 << 20),
        lambda: io.BytesIO(gzip.compress(docker(more={"a": bytes(8 << 20)}).getvalue())),
        "grew more than 10 times",
    ),
}


@pytest.mark.parametrize("what", BEYOND)
def test_an_archive_beyond_the_limits_is_refused(tmp_path: Path, what: str) -> None:
    limits, make, words = BEYOND[what]
    with Store(tmp_path / "store") as store:
        with pytest.raises(ArchiveError, match=words):
            load(store, make(), limits=limits)
        assert store.entries() == ()
        assert not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize(
    ("layer", "config"),
    [
        (gzip.compress(TAR)[:-9], None),
        (endless_gzip(), None),
        (gzip.compress(b"no archive" * 100), None),
        (gzip.compress(TAR), {"rootfs": {"type": "layers", "diff_ids": [str(sha256(b"other"))]}}),
        (gzip.compress(TAR), {"rootfs": {"type": "layers", "diff_ids": []}}),
        (gzip.compress(TAR), {"rootfs": {"type": "layers", "diff_ids": [str(sha256(TAR))] * 2}}),
    ],
    ids=["cut off", "zeros without end", "no archive", "other diff ID", "no diff ID", "one diff ID too many"],
)
def test_a_layer_that_is_not_what_it_claims_is_never_unpacked(tmp_path: Path, layer: bytes, config: Any) -> None:
    with Store(tmp_path / "store") as store:
        [loaded] = load(store, archive(image(layer, said=config)))
        found = store.load(loaded.descriptor)
        with pytest.raises(LayersError):
            ensure_unpacked(store, found.manifest, found.config)
        assert list((tmp_path / "store" / "layers").glob("sha256*")) == []
