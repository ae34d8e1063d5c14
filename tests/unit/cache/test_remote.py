"""Results as they travel: what goes in comes out, what does not fit is refused."""

from __future__ import annotations

import json

import pytest

from cache.keys import Part
from cache.records import CacheRecord
from cache.remote import RemoteMount, RemoteRecord, decode, encode
from layers.errors import FormatError

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
RECORD = CacheRecord(
    *(
        "k1",
        "run/definition",
        C,
        B,
        A,
        "application/x",
        A,
        10,
        "2020-01-02T03:04:05Z",
        7,
        8,
        "/home/me [1 RUN]",
        "RUN x",
    ),
    parts=(Part("env TOKEN", "secret", "1234"),),
)


def test_record_comes_back_without_what_concerns_one_machine() -> None:
    raw = encode([RECORD, RECORD._replace(key="k0", created_ns=9)], {A: 3})
    assert b"/home/me" not in raw
    assert b"secret" not in raw
    found = decode(raw, 4).records
    assert found["k1"] == RemoteRecord("k1", "run/definition", A, C, B, "2020-01-02T03:04:05Z", "RUN x", 7, 8, 3)
    assert encode([RECORD._replace(key="k0", created_ns=9), RECORD], {A: 3}) == raw, "order does not count"


def changed(**fields: object) -> str:
    content = json.loads(encode([RECORD], {A: 0}))
    content["records"][0] |= fields
    return json.dumps(content)


MOUNT = RemoteMount("1" * 64, B, 0o1777, 7, 8, 0)


def mounted(**fields: object) -> str:
    content = json.loads(encode([], {}, [MOUNT]))
    content["mounts"][0].update(fields)
    return json.dumps(content)


def test_mounts_come_back_beside_the_records() -> None:
    other = MOUNT._replace(id="0" * 64)
    raw = encode([RECORD], {A: 0}, [MOUNT, other])
    found = decode(raw, 1)
    assert found.mounts == {MOUNT.id: MOUNT, other.id: other}
    assert set(found.records) == {"k1"}
    assert encode([RECORD], {A: 0}, [other, MOUNT]) == raw, "order does not count"


def test_without_mounts_nothing_speaks_of_them() -> None:
    raw = encode([RECORD], {A: 0})
    assert b"mounts" not in raw
    assert decode(raw, 1).mounts == {}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no object"),
        ('{"version":2,"records":[]}', "version 2, expected 1"),
        ('{"version":1}', "no records"),
        ('{"version":1,"records":[1]}', "no object"),
        ('{"version":1,"records":[{}]}', "lacks a field"),
        (changed(layer=1), "layer 1 of 1"),
        (changed(layer=-1), "layer -1 of 1"),
        (changed(layer=True), "lacks a field"),
        (changed(created_ns="7"), "lacks a field"),
        (changed(diff_id="sha256:../../x"), "digest"),
        (changed(parent_chain_id="x"), "digest"),
        ('{"version":1,"records":[],"mounts":{}}', "the mounts are no list"),
        ('{"version":1,"records":[],"mounts":[7]}', "a mount is no object"),
        ('{"version":1,"records":[],"mounts":[{}]}', "a mount lacks a field"),
        (mounted(layer=1), "a mount names layer 1 of 1"),
        (mounted(layer=-1), "a mount names layer -1 of 1"),
        (mounted(mode=0o10000), "impossible attributes"),
        (mounted(uid=-1), "impossible attributes"),
        (mounted(gid=0xFFFFFFFF), "impossible attributes"),
        (mounted(uid="0"), "a mount lacks a field"),
        (mounted(id="../../etc"), "digest"),
        (mounted(diff_id="x"), "digest"),
    ],
)
def test_what_does_not_fit_is_refused(raw: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decode(raw, 1)


def test_first_layer_has_no_parent() -> None:
    assert decode(changed(parent_chain_id=""), 1).records["k1"].parent_chain_id == ""
