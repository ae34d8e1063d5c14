"""Results as they travel: what goes in comes out, what does not fit is refused."""

from __future__ import annotations

import json

import pytest

from cache.keys import Part
from cache.records import CacheRecord
from cache.remote import RemoteRecord, decode, encode
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
    found = decode(raw, 4)
    assert found["k1"] == RemoteRecord("k1", "run/definition", A, C, B, "2020-01-02T03:04:05Z", "RUN x", 7, 8, 3)
    assert encode([RECORD._replace(key="k0", created_ns=9), RECORD], {A: 3}) == raw, "order does not count"


def changed(**fields: object) -> str:
    content = json.loads(encode([RECORD], {A: 0}))
    content["records"][0] |= fields
    return json.dumps(content)


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
    ],
)
def test_what_does_not_fit_is_refused(raw: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decode(raw, 1)


def test_first_layer_has_no_parent() -> None:
    assert decode(changed(parent_chain_id=""), 1)["k1"].parent_chain_id == ""
