"""Results of steps as they travel: records beside the layers they name, by the place of the layer in a manifest.

Invariants: pure; what is read is checked, and what does not fit is a FormatError; a record says nothing of the machine
it comes from: no path, no part of its key.  The form: docs/formats, "Results elsewhere".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from cache.records import CacheRecord
from layers.digest import Digest
from layers.errors import FormatError
from unionfs.namedtuple import NamedTuple

VERSION = 1
CONFIG_TYPE = "application/vnd.pybuild.cache.config.v1+json"
"""Media type of the configuration of a manifest that holds nothing but results."""
ANNOTATION = "org.pybuild.cache.v1"
"""Annotation of an image's manifest whose value are the results that its own layers are."""
_LARGEST_BYTES = 64 << 20
_TEXTS = ("key", "kind", "diff_id", "chain_id", "parent_chain_id", "created", "description")
_LARGEST_MODE = 0o7777
_LARGEST_ID = 0xFFFFFFFF
"""None of a user or group: chown(2) takes it for no change."""
_NUMBERS = ("created_ns", "duration_ns", "layer")


class RemoteRecord(NamedTuple):
    """One result: ``layer`` is the number of its layer in the manifest; the rest as in ``CacheRecord``."""

    key: str
    kind: str
    diff_id: str
    chain_id: str
    parent_chain_id: str
    created: str
    description: str
    created_ns: int
    duration_ns: int
    layer: int


class RemoteMount(NamedTuple):
    """What a cache mount held: ``id`` is the SHA-256 of its id in hex, ``layer`` as in `RemoteRecord`.

    ``mode``, ``uid`` and ``gid`` are of its directory, which is no entry of the layer.
    """

    id: str
    diff_id: str
    mode: int
    uid: int
    gid: int
    layer: int


class Results(NamedTuple):
    """All that is elsewhere: records by key, cache mounts by id."""

    records: dict[str, RemoteRecord]
    mounts: dict[str, RemoteMount]


def encode(records: Sequence[CacheRecord], places: Mapping[str, int], mounts: Sequence[RemoteMount] = ()) -> bytes:
    """``records`` and ``mounts`` as JSON; ``places`` says by diff ID which layer is whose.

    Equal values give equal bytes.
    """
    rows = [
        RemoteRecord(
            **{name: getattr(record, name) for name in (*_TEXTS, *_NUMBERS[:-1])}, layer=places[record.diff_id]
        )._asdict()
        for record in sorted(records, key=lambda record: (record.created_ns, record.key))
    ]
    content: dict[str, object] = {"version": VERSION, "records": rows}
    if mounts:
        # readers that know nothing of it pass over it
        content["mounts"] = [mount._asdict() for mount in sorted(mounts)]
    return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()


def decode(raw: bytes | str, layers: int) -> Results:
    """What ``raw`` says, of a manifest with so many layers.

    Raises:
        FormatError: it is no such text, or of another version.
    """
    if len(raw) > _LARGEST_BYTES:
        raise FormatError(f"results: {len(raw)} bytes are too many")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError("results: they are no JSON") from error
    if not isinstance(content, dict):
        raise FormatError("results: they are no object")
    fields = cast("dict[str, Any]", content)
    if fields.get("version") != VERSION:
        raise FormatError(f"results: they have version {fields.get('version')!r}, expected {VERSION}")
    rows, mounts = fields.get("records"), fields.get("mounts", [])
    if not isinstance(rows, list):
        raise FormatError("results: there are no records")
    if not isinstance(mounts, list):
        raise FormatError("results: the mounts are no list")
    records = [_record(row, layers) for row in cast("list[object]", rows)]
    found = [_mount(row, layers) for row in cast("list[object]", mounts)]
    return Results({record.key: record for record in records}, {mount.id: mount for mount in found})


def _checked(row: object, what: str, texts: Sequence[str], numbers: Sequence[str]) -> dict[str, Any]:
    """The fields of ``row`` of these names."""
    if not isinstance(row, dict):
        raise FormatError(f"results: a {what} is no object")
    fields = cast("dict[str, object]", row)
    good = all(isinstance(fields.get(name), str) for name in texts)
    if not good or any(type(fields.get(name)) is not int for name in numbers):
        raise FormatError(f"results: a {what} lacks a field")
    return {name: fields[name] for name in (*texts, *numbers)}


def _mount(row: object, layers: int) -> RemoteMount:
    mount = RemoteMount(**_checked(row, "mount", ("id", "diff_id"), ("mode", "uid", "gid", "layer")))
    if not 0 <= mount.layer < layers:
        raise FormatError(f"results: a mount names layer {mount.layer} of {layers}")
    if not 0 <= mount.mode <= _LARGEST_MODE or not all(0 <= number < _LARGEST_ID for number in (mount.uid, mount.gid)):
        raise FormatError("results: a mount has impossible attributes")
    Digest(mount.diff_id)
    Digest(f"sha256:{mount.id}")
    return mount


def _record(row: object, layers: int) -> RemoteRecord:
    record = RemoteRecord(**_checked(row, "record", _TEXTS, _NUMBERS))
    if not 0 <= record.layer < layers:
        raise FormatError(f"results: a record names layer {record.layer} of {layers}")
    for digest in (record.diff_id, record.chain_id, *((record.parent_chain_id,) if record.parent_chain_id else ())):
        Digest(digest)
    return record
