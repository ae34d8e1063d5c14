"""Results of steps as they travel: records beside the layers they name, by the place of the layer in a manifest.

Invariants: pure; what is read is checked, and what does not fit is a FormatError; a record says nothing of the machine
it comes from: no path, no part of its key.  The form: docs/formats, "Results elsewhere".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from cache.records import CacheRecord
from layers.digest import Digest
from layers.errors import FormatError

VERSION = 1
CONFIG_TYPE = "application/vnd.pybuild.cache.config.v1+json"
"""Media type of the configuration of a manifest that holds nothing but results."""
ANNOTATION = "org.pybuild.cache.v1"
"""Annotation of an image's manifest whose value are the results that its own layers are."""
_LARGEST_BYTES = 64 << 20
_TEXTS = ("key", "kind", "diff_id", "chain_id", "parent_chain_id", "created", "description")
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


def encode(records: Sequence[CacheRecord], places: Mapping[str, int]) -> bytes:
    """``records`` as JSON; ``places`` says by diff ID which layer is whose. Equal records give equal bytes."""
    rows = [
        RemoteRecord(
            **{name: getattr(record, name) for name in (*_TEXTS, *_NUMBERS[:-1])}, layer=places[record.diff_id]
        )._asdict()
        for record in sorted(records, key=lambda record: (record.created_ns, record.key))
    ]
    return json.dumps({"version": VERSION, "records": rows}, ensure_ascii=True, separators=(",", ":")).encode()


def decode(raw: bytes | str, layers: int) -> dict[str, RemoteRecord]:
    """The records in ``raw`` by key, of a manifest with so many layers.

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
    rows = fields.get("records")
    if not isinstance(rows, list):
        raise FormatError("results: there are no records")
    found = [_record(row, layers) for row in cast("list[object]", rows)]
    return {record.key: record for record in found}


def _record(row: object, layers: int) -> RemoteRecord:
    if not isinstance(row, dict):
        raise FormatError("results: a record is no object")
    fields = cast("dict[str, object]", row)
    good = all(isinstance(fields.get(name), str) for name in _TEXTS)
    if not good or any(type(fields.get(name)) is not int for name in _NUMBERS):
        raise FormatError("results: a record lacks a field")
    record = RemoteRecord(**{name: cast("Any", fields[name]) for name in RemoteRecord._fields})
    if not 0 <= record.layer < layers:
        raise FormatError(f"results: a record names layer {record.layer} of {layers}")
    for digest in (record.diff_id, record.chain_id, *((record.parent_chain_id,) if record.parent_chain_id else ())):
        Digest(digest)
    return record
