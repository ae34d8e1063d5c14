"""The store: names, ids, blobs; damage, crashes, several processes; what skopeo makes of it is in tests/e2e."""

from __future__ import annotations

import collections
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layers import media
from layers.blobs import BlobWriter
from layers.config import ImageConfig
from layers.descriptor import REF_NAME, Descriptor
from layers.digest import Digest, sha256
from layers.errors import BlobNotFoundError, ContentMismatchError, FormatError, ImageNotFoundError, StoreError
from layers.gc import collect
from layers.image import make_image, put_image
from layers.manifest import Index
from layers.ownership import is_abandoned, read_name, temporary_name, this_process
from layers.platform import Platform
from layers.reference import Reference
from layers.store import Store
from layers.testing.images import random_image
from layers.validate import validate_store

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "store") as made:
        yield made


def put(store: Store, label: str = "") -> Descriptor:
    return put_image(store, make_image(ImageConfig(architecture="amd64", labels={"x": label} if label else {}), []))


def put_index_entry(store: Store) -> Digest:
    """Something the index names, written past the store."""
    descriptor = Descriptor(media.OCI_MANIFEST, sha256(b""), 0)
    (store.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor.to_json()]}))
    return descriptor.digest


def ended_process() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process


# -- layout ---------------------------------------------------------------------------------------------------------
def test_layout_is_that_of_oci(store: Store) -> None:
    assert json.loads((store.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((store.root / "index.json").read_bytes())["schemaVersion"] == 2
    assert (store.root.stat().st_mode & 0o777, (store.root / "layers").stat().st_mode & 0o777) == (0o700, 0o700)


def test_opening_again_writes_nothing(store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    Store(store.root)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_newer_version(store: Store) -> None:
    (store.root / "version").write_text("2\n")
    with pytest.raises(StoreError, match=r'store" has version 2, this program knows versions up to 1'):
        Store(store.root)


@pytest.mark.parametrize("text", ["", "x"])
def test_damaged_version(store: Store, text: str) -> None:
    (store.root / "version").write_text(text)
    with pytest.raises(StoreError, match='version" is damaged'):
        Store(store.root)


def test_directory_of_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(StoreError, match="holiday"):
        Store(tmp_path)
    assert set(os.listdir(tmp_path)) <= {"holiday.jpg", "lock"}


def test_layout_of_others_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    (tmp_path / "other").touch()
    assert list(Store(tmp_path).images()) == []


def test_place_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        Store(tmp_path / "file" / "store")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"manifests":[{"digest":"x"}]}'])
def test_damaged_index(store: Store, raw: bytes) -> None:
    (store.root / "index.json").write_bytes(raw)
    with pytest.raises(StoreError, match=r'index.json" is damaged'):
        store.resolve("a")


# -- blobs ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("content", [b"abc", io.BytesIO(b"abc"), [b"a", b"", b"bc"]], ids=["bytes", "stream", "pieces"])
def test_put(store: Store, content: object) -> None:
    described = store.blobs.put(content, media_type="text/plain")
    assert described == Descriptor("text/plain", sha256(b"abc"), 3)
    with store.blobs.open(described.digest) as stream:
        assert stream.read() == b"abc"
    assert store.blobs.read(described.digest) == b"abc"
    assert (store.blobs.size(described.digest), list(store.blobs)) == (3, [described.digest])
    assert store.blobs.put(b"abc", expected=described) is described
    store.blobs.remove(described.digest)
    store.blobs.remove(described.digest)
    assert (store.blobs.size(described.digest), list(store.blobs), os.listdir(store.root / "tmp")) == (None, [], [])


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (Descriptor("", sha256(b"abd"), 3), "digest"),
        (Descriptor("", sha256(b"abc"), 2), "bytes"),
        (Descriptor("", sha256(b"abc"), 4), "bytes"),
    ],
)
@pytest.mark.parametrize("content", [b"abc", [b"abc"]], ids=["bytes", "pieces"])
def test_put_of_something_else(store: Store, content: object, expected: Descriptor, message: str) -> None:
    with pytest.raises(ContentMismatchError, match=message):
        store.blobs.put(content, expected=expected)
    assert (list(store.blobs), os.listdir(store.root / "tmp")) == ([], [])


def test_content_that_is_there_is_not_read(store: Store) -> None:
    described = store.blobs.put(b"abc")

    class Unread(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError(size)

    store.blobs.put(Unread(), expected=described)


def test_part_of_a_blob_is_replaced(store: Store) -> None:
    described = store.blobs.put(b"abc")
    store.blobs.path(described.digest).write_bytes(b"a")
    store.blobs.put(b"abc")
    assert store.blobs.read(described.digest) == b"abc"


def test_damaged_blob_is_an_error_for_every_reader(store: Store) -> None:
    described = store.blobs.put(b"a" * 3_000_000)
    with open(store.blobs.path(described.digest), "r+b") as file:
        file.write(b"b")
    with store.blobs.open(described.digest) as stream, pytest.raises(ContentMismatchError, match=described.digest.hex):
        collections.deque(iter(lambda: stream.read(1 << 16), b""), maxlen=0)
    with pytest.raises(ContentMismatchError, match="damaged"):
        store.blobs.read(described.digest)


def test_missing_blob(store: Store) -> None:
    for read in (store.blobs.open, store.blobs.read):
        with pytest.raises(BlobNotFoundError, match="not in the store"):
            read(sha256(b"missing"))


def test_writer_that_is_given_up_leaves_nothing(store: Store) -> None:
    with store.blobs.writer() as writer:
        writer.write(b"abc")
        assert len(os.listdir(store.root / "tmp")) == 1
    assert (list(store.blobs), os.listdir(store.root / "tmp")) == ([], [])


def test_source_that_fails_leaves_nothing(store: Store) -> None:
    def pieces():
        yield b"abc"
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        store.blobs.put(pieces())
    assert (list(store.blobs), os.listdir(store.root / "tmp")) == ([], [])


def test_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own full device stands in for the disk."""
    full = io.FileIO("/dev/full", "wb")
    monkeypatch.setattr(BlobWriter, "_open_file", lambda self: full)
    with full, pytest.raises(StoreError, match="the disk is full"):
        store.blobs.put(b"abc")
    assert os.listdir(store.root / "tmp") == []


def test_store_that_may_not_be_written(store: Store) -> None:
    """Not even root may make files in /sys."""
    (store.root / "tmp").rmdir()
    (store.root / "tmp").symlink_to("/sys/kernel")
    with pytest.raises(StoreError, match=r"tmp.*belongs to somebody else"):
        store.blobs.put(b"abc")
    with pytest.raises(StoreError, match=r"index.json.*belongs to somebody else"):
        store.forget(put_index_entry(store))


# -- names ----------------------------------------------------------------------------------------------------------
def test_names(store: Store) -> None:
    first, second = put(store), put(store, "2")
    store.tag("hello", first)
    store.tag("127.0.0.1:5000/x:1", first)
    assert store.image("hello:latest").descriptor.digest == first.digest
    assert store.image(Reference.parse("docker.io/library/hello")).names == ("hello:latest",)
    assert [image.names for image in store.images()] == [("127.0.0.1:5000/x:1", "hello:latest")]
    store.tag("hello", second)
    assert store.image("hello").descriptor.digest == second.digest
    assert [entry.annotations[REF_NAME] for entry in store.entries()] == ["127.0.0.1:5000/x:1", "hello:latest"]
    removed = store.untag("hello")
    assert removed is not None
    assert removed.digest == second.digest
    assert store.untag("hello") is None
    assert store.resolve("hello") is None
    with pytest.raises(ImageNotFoundError, match="hello"):
        store.image("hello")
    store.forget(first.digest)
    assert store.entries() == ()


def test_kept_image_is_listed_without_a_name_until_it_gets_one(store: Store) -> None:
    manifest = put(store)
    store.keep(manifest)
    store.keep(manifest)
    assert [image.names for image in store.images()] == [()]
    store.tag("named:1", manifest)
    assert [entry.annotations.get(REF_NAME) for entry in store.entries()] == ["named:1"]
    store.keep(manifest)
    assert len(store.entries()) == 1


def test_keep_of_what_is_not_there(store: Store) -> None:
    with pytest.raises(BlobNotFoundError):
        store.keep(Descriptor(media.OCI_MANIFEST, sha256(b"none"), 4))


def test_tag_of_what_is_not_there(store: Store) -> None:
    with pytest.raises(BlobNotFoundError, match="hello:latest"):
        store.tag("hello", Descriptor(media.OCI_MANIFEST, sha256(b""), 0))


def test_ids_and_beginnings_of_ids(store: Store) -> None:
    descriptor = put(store)
    store.tag("hello", descriptor)
    image = store.image("hello")
    for text in (image.id, image.id.hex, image.id.hex[:4], f"sha256:{image.id.hex[:7]}", descriptor.digest.hex[:12]):
        found = store.resolve(text)
        assert found is not None
        assert found.id == image.id
    for text in ("", "abc", "zzzz", "f" * 64):
        assert store.resolve(text) is None
    store.tag(image.id.hex[:8], put(store, "a name goes before an id"))
    assert store.image(image.id.hex[:8]).id != image.id


def test_ambiguous_id(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layers.store._SHORTEST_PREFIX", 0)
    for label in ("a", "b"):
        store.tag(f"x/{label}", put(store, label))
    with pytest.raises(StoreError, match="ambiguous"):
        store.resolve("sha256:")


def test_by_digest(store: Store) -> None:
    descriptor = put(store)
    store.tag("hello:1", descriptor)
    assert store.image(f"hello@{descriptor.digest}").names == ("hello:1",)
    assert store.image(f"hello:7@{descriptor.digest}").descriptor.digest == descriptor.digest
    assert store.resolve(f"other@{descriptor.digest}") is None
    store.tag(f"pinned@{descriptor.digest}", descriptor)
    assert store.image(f"pinned@{descriptor.digest}").names == (f"pinned@{descriptor.digest}",)


def test_platforms(store: Store) -> None:
    arm, amd = put(store, "arm"), put(store, "amd")
    index = Index.create(
        [arm._replace(platform=Platform("linux", "arm64")), amd._replace(platform=Platform("linux", "amd64"))]
    )
    store.tag("multi", store.blobs.put(index.raw, expected=index.descriptor()))
    assert store.image("multi", Platform("linux", "arm64")).descriptor.digest == arm.digest
    assert store.image("multi", Platform("linux", "amd64")).descriptor.digest == amd.digest
    assert store.resolve("multi", Platform("linux", "s390x")) is None
    with pytest.raises(ImageNotFoundError, match="no manifest for linux/s390x"):
        store.image("multi", Platform("linux", "s390x"))


def test_artifact_is_no_image(store: Store) -> None:
    image = make_image(ImageConfig(), [])
    artifact = image._replace(
        manifest=image.manifest.create(image.manifest.config._replace(media_type=media.OCI_EMPTY), [])
    )
    raw = artifact.manifest.raw
    store.tag("artifact", store.blobs.put(raw, expected=artifact.manifest.descriptor()))
    with pytest.raises(FormatError, match="artifact"):
        store.resolve("artifact")
    assert list(store.images()) == []


def test_foreign_fields_of_the_index_stay(store: Store) -> None:
    descriptor = put(store)
    entry = descriptor.to_json() | {"annotations": {"x": "y"}, "later": [1]}
    (store.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    store.tag("hello", descriptor)
    assert json.loads((store.root / "index.json").read_bytes())["manifests"][0] == entry


def test_unnamed_images_stay_until_they_are_forgotten(store: Store) -> None:
    descriptor = put(store)
    store.keep(descriptor)
    store.keep(descriptor)
    assert [image.names for image in store.images()] == [()]
    assert collect(store).blobs == ()
    store.tag("hello", descriptor)
    store.keep(descriptor)
    assert [image.names for image in store.images()] == [("hello:latest",)]
    assert len(store.entries()) == 1
    store.forget(descriptor.digest)
    assert len(collect(store).blobs) == 2
    with pytest.raises(BlobNotFoundError):
        store.keep(descriptor)


def test_random_images_are_valid(store: Store) -> None:
    for seed in range(3):
        random_image(store, f"random:{seed}", seed)
        validate_store(store)


# -- processes ------------------------------------------------------------------------------------------------------
TAGGING = """
import sys
from layers.store import Store
store = Store(sys.argv[1])
descriptor = store.read_manifest(store.entries()[0]).descriptor()
for number in range(20):
    store.blobs.put(f"{sys.argv[2]} {number}".encode())
    store.blobs.put(b"shared %d" % number)
    store.tag(f"p{sys.argv[2]}:{number}", descriptor)
"""


def test_several_processes_at_once(store: Store) -> None:
    store.tag("hello", put(store))
    running = [
        subprocess.Popen([sys.executable, "-c", TAGGING, store.root, str(number)], cwd=PROJECT) for number in range(4)
    ]
    assert [process.wait() for process in running] == [0, 0, 0, 0]
    assert len(store.entries()) == 1 + 4 * 20
    assert len(list(store.blobs)) == 2 + 4 * 20 + 20
    assert os.listdir(store.root / "tmp") == []
    validate_store(store)


def test_many_make_the_store_at_once(tmp_path: Path) -> None:
    code = "import sys; from layers.store import Store; Store(sys.argv[1]).blobs.put(b'x')"
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "s"], cwd=PROJECT) for _ in range(6)]
    assert [process.wait() for process in running] == [0] * 6
    validate_store(Store(tmp_path / "s"))


KILLED = """
import os, sys, signal
from layers.store import Store
with Store(sys.argv[1]).blobs.writer() as writer:
    writer.write(b"x" * 100)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept(store: Store) -> None:
    subprocess.run([sys.executable, "-c", KILLED, store.root], cwd=PROJECT, check=False)
    with store.blobs.writer() as writer:
        assert len(os.listdir(store.root / "tmp")) == 2
        assert store.sweep() == 1
        writer.write(b"kept")
        writer.commit()
    assert store.sweep() == 0


# -- who owns what --------------------------------------------------------------------------------------------------
def test_owner_of_a_name() -> None:
    owner = this_process()
    name = temporary_name(owner)
    assert (read_name(name), is_abandoned(name, 1e9)) == (owner, False)
    assert temporary_name(owner) != name
    assert is_abandoned(temporary_name(owner._replace(start=owner.start + 1)), 0)
    assert is_abandoned(temporary_name(owner._replace(pid=ended_process().pid)), 0)


def test_owner_that_nobody_reaps_is_gone() -> None:
    """Many containers have a first process that doesn't wait for what was killed."""
    script = "import os; from layers.ownership import *; os.write(1, temporary_name(this_process()).encode())"
    with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        name = process.stdout.read().decode()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_abandoned(name, 0)


def test_owner_elsewhere_has_time() -> None:
    foreign = temporary_name(this_process()._replace(namespace=1))
    week = 7 * 24 * 3600
    for name in (foreign, "no owner", "a-b-c-d"):
        assert not is_abandoned(name, week - 1)
        assert is_abandoned(name, week + 1)


def test_a_second_name_for_what_was_found_by_its_first(store: Store) -> None:
    """The descriptor of a found image carries its name; giving another takes the first from nobody."""
    store.tag("first:1", put(store))
    store.tag("second:1", store.image("first:1").descriptor)
    assert store.image("first:1").id == store.image("second:1").id
