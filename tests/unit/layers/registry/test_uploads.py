"""Blobs on their way up: in parts, taken up where they broke, begun anew where that cannot be."""

from __future__ import annotations

import pytest

from layers.digest import sha256
from layers.registry import errors, transfer
from layers.registry.progress import TransferProgress
from layers.registry.settings import RegistrySettings
from layers.store import Store
from layers.testing.faults import DropRequest, Fault, Headers, Status
from layers.testing.registry import FaultyRegistry
from layers.testing.simple import make_tar, store_image

CONTENT = bytes(range(251)) * 5_000
BLOB = make_tar("file0", CONTENT)
DIGEST = sha256(BLOB)
PART = 300_000
WHOLE_PARTS = len(BLOB) // PART


@pytest.fixture
def image(store: Store) -> str:
    store_image(store, "one:1", [CONTENT])
    return "one:1"


def push(registry: FaultyRegistry, store: Store, settings: RegistrySettings) -> None:
    transfer.push(store, "one:1", f"{registry.host}/a:1", settings=settings, compression="none")
    assert registry.memory.blobs["a", DIGEST] == BLOB


def ranges(registry: FaultyRegistry) -> list[str]:
    return [seen.headers["content-range"] for seen in registry.seen("PATCH")]


def test_parts_when_the_settings_say_so(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    push(registry, store, settings._replace(part_bytes=PART))
    starts = range(0, len(BLOB), PART)
    assert ranges(registry)[: len(starts)] == [f"{at}-{min(at + PART, len(BLOB)) - 1}" for at in starts]


def test_parts_are_as_long_as_the_registry_wants(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    registry.memory.least_part_bytes = 2 * PART
    push(registry, store, settings._replace(part_bytes=PART))
    assert ranges(registry)[0] == f"0-{2 * PART - 1}"


def test_parts_when_the_whole_is_refused(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layers.registry.uploads._USUAL_PART_BYTES", PART)
    registry.memory.largest_body_bytes = PART
    push(registry, store, settings)
    assert len(ranges(registry)) == WHOLE_PARTS + 1


@pytest.mark.parametrize("part_bytes", [0, PART])
def test_what_broke_off_is_taken_up(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings, part_bytes: int
) -> None:
    method = "PATCH" if part_bytes else "PUT"
    registry.fail(method, "/blobs/uploads/", DropRequest(100_000), times=1)
    seen: list[TransferProgress] = []
    transfer.push(
        store,
        "one:1",
        f"{registry.host}/a:1",
        settings=settings._replace(part_bytes=part_bytes, connections=1),
        compression="none",
        progress=seen.append,
    )
    assert registry.memory.blobs["a", DIGEST] == BLOB
    first = int(ranges(registry)[-1 if not part_bytes else 1].partition("-")[0])
    assert 100_000 <= first < 300_000
    assert len(registry.seen("POST")) == 2, "one for the layer, one for the configuration"
    counts = [one.done_bytes for one in seen if one.digest == DIGEST and one.state == "transferring"]
    assert counts[-1] == len(BLOB) == max(counts)


def test_what_the_registry_threw_away_is_sent_anew(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    registry.memory.keeps_parts = False
    registry.fail("PUT", "/blobs/uploads/", DropRequest(100_000), times=1)
    push(registry, store, settings._replace(connections=1))
    assert not registry.seen("PATCH")
    assert len(registry.seen("POST")) == 3


def test_the_registry_that_lost_track_is_asked_where_to_go_on(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    registry.fail("PATCH", "/blobs/uploads/", Status(416), skip=2, times=1)
    push(registry, store, settings._replace(part_bytes=PART, connections=1))
    assert len(registry.seen("GET", "/blobs/uploads/")) == 1
    asked = ranges(registry)
    assert asked[2] == asked[3], "the part that was refused is the one that is sent again"


@pytest.mark.parametrize(
    "fault", [Status(404), Status(500), Status(204, {"Range": "0-99999999999"}), Status(204, {"Range": "nonsense"})]
)
def test_no_place_to_go_on_is_the_beginning(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings, fault: Fault
) -> None:
    registry.fail("PUT", "/blobs/uploads/", DropRequest(100_000), times=1)
    registry.fail("GET", "/blobs/uploads/", fault)
    push(registry, store, settings)


def test_a_wrong_place_to_go_on_is_found_out(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    """The registry says that it has more than it has: what it puts together is refused, and sent anew."""
    registry.memory.keeps_parts = False
    registry.fail("PUT", "/blobs/uploads/", DropRequest(100_000), times=1)
    registry.fail("GET", "/blobs/uploads/", Headers({"Range": "0-49999"}), times=1)
    push(registry, store, settings)


def test_a_registry_that_claims_more_than_there_is(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    registry.fail("PATCH", "/blobs/uploads/", Headers({"Range": "0-99999999999"}))
    with pytest.raises(errors.ProtocolError, match=r"received 100000000000 bytes of blob"):
        push(registry, store, settings._replace(part_bytes=PART))


def test_tries_end(registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings) -> None:
    registry.memory.keeps_parts = False
    registry.fail("PUT", "/blobs/uploads/", DropRequest(100_000))
    with pytest.raises(errors.ConnectionFailedError):
        push(registry, store, settings)
