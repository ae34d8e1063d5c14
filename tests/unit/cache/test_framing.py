"""Framed bytes: unlike values are unlike bytes."""

from itertools import combinations

import pytest

from cache.framing import describe, frame

DISTINCT = [
    None, True, False, 0, 1, -1, 10, "", "0", "1", "True", b"", b"0", b"1", (), ("",), ("", ""), ("a", "b"), ("ab",),
    (("a",), "b"), (("a", "b"),), ("a", ("b",)), {}, {"a": "b"}, {"a": None}, {"b": "a"}, ("a", None), "n;", "s1:a",
    b"s1:a", "\udc80", "\ud800", b"\x80", "é", (None,), ((),), {"a": ("b",)}, ("s1:a",), "ab", b"ab",
]  # fmt: skip


def test_distinct_values_have_distinct_frames():
    assert not [(one, other) for one, other in combinations(DISTINCT, 2) if frame(one) == frame(other)]


def test_order_counts_in_sequences_and_not_in_mappings():
    assert frame(("a", "b")) != frame(("b", "a"))
    assert frame({"a": 1, "b": 2}) == frame({"b": 2, "a": 1})


@pytest.mark.parametrize("sequence", [("a", 1), ["a", 1]])
def test_lists_and_tuples_are_sequences_alike(sequence):
    assert frame(sequence) == frame(("a", 1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"), (True, "yes"), (7, "7"), ("a b", "a b"), (b"\xff", "\\xff"), (("a", 2), "a 2"),
        ({"b": 1, "a": None}, "a=none b=1"), ("x" * 10, "xxxx… (10 characters)"), ("\udc80", "\\xed\\xb2\\x80"),
    ],
)  # fmt: skip
def test_describe(value, text):
    assert describe(value, 4 if value == "x" * 10 else 200) == text
