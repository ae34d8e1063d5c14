"""Changes of branches as a table, and on their way through a message."""

from __future__ import annotations

import json

import pytest

from unionfs.branch import Branch
from unionfs.changes import Add, Change, Remove, SetAccess, decode_change, encode_change, plan_branches
from unionfs.errors import UnionError
from unionfs.types import Access

A, B, C = Branch(b"/a"), Branch(b"/b", Access.RO), Branch(b"/c\xff")

ROWS: list[tuple[tuple[Branch, ...], list[Change], tuple[Branch, ...]]] = [
    ((A, B), [Add(C)], (C, A, B)),
    ((A, B), [Add(C, before=b"/b")], (A, C, B)),
    ((A, B), [Add(C, after=1)], (A, B, C)),
    ((A, B), [Add(C, after=b"/a")], (A, C, B)),
    ((A, B, C), [Remove(b"/b")], (A, C)),
    ((A, B, C), [Remove(2), Remove(0)], (B,)),
    ((A, B), [SetAccess(1, Access.RW)], (A, Branch(b"/b"))),
    ((A,), [Add(C), Remove(1), SetAccess(b"/c\xff", Access.NFSRO)], (Branch(b"/c\xff", Access.NFSRO),)),
    ((A, B), [], (A, B)),
]


@pytest.mark.parametrize(("before", "changes", "after"), ROWS)
def test_plan(before: tuple[Branch, ...], changes: list[Change], after: tuple[Branch, ...]) -> None:
    assert plan_branches(before, changes) == after
    travelled = [decode_change(json.loads(json.dumps(encode_change(change)))) for change in changes]
    assert travelled == changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Remove(b"/x"), "branch '/x': is no branch of the union"),
        (Remove(9), "branch '9': the union has 1 branches, counted from 0"),
        (Remove(0), "union: the last branch cannot be removed"),
        (Add(B, before=b"/x"), "branch '/x': is no branch of the union"),
    ],
)
def test_refusals(change: Change, message: str) -> None:
    with pytest.raises(UnionError) as refusal:
        plan_branches((A,), [change])
    assert str(refusal.value) == message


@pytest.mark.parametrize("message", [{}, {"remove": None}, {"set": 0}, {"add": "/a", "access": "rx"}])
def test_nonsense_is_no_change(message: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode_change(message)
