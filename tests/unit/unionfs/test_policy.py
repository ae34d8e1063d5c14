"""docs/semantics.md, "where a new entry goes", "copy-up", "delete modes", "rename", row by row."""

from __future__ import annotations

import errno

import pytest

from unionfs.policy import Hide, Remove, plan_copyup, plan_create, plan_removal, plan_rename_branch
from unionfs.resolve import Kind, Probe
from unionfs.types import CreatePolicy, DeleteMode

P = CreatePolicy


@pytest.mark.parametrize(
    ("policy", "writable", "holders", "lowest", "chosen"),
    [
        (P.PARENT, (0,), (1,), 2, (0,)),
        (P.PARENT, (0, 1), (1,), 2, (1, 0)),
        (P.PARENT, (0, 1), (0, 1), 2, (0,)),
        (P.PARENT, (0, 1, 2), (1, 2), 2, (1, 0)),
        (P.PARENT, (0, 2), (1,), 2, (0,)),
        (P.PARENT, (0, 2), (1, 2), 2, (2, 0)),
        (P.PARENT, (0, 2), (1, 2), 1, (0,)),
        (P.TOP, (0, 1), (1,), 1, (0,)),
        (P.TOP, (1, 2), (2,), 2, (1,)),
        (P.MFS, (0, 1, 2), (2,), 2, (1, 0)),
        (P.MFS, (0, 1, 2), (2,), 0, (0,)),
        (P.RR, (0, 1), (1,), 1, (1, 0)),
    ],
)
def test_a_new_entry_goes_where_the_policy_says(policy, writable, holders, lowest, chosen):
    assert plan_create(writable, holders, lowest, policy, {0: 5, 1: 9, 2: 7}.__getitem__, 3) == chosen


@pytest.mark.parametrize("policy", list(P))
def test_no_writable_branch_is_erofs(policy):
    with pytest.raises(OSError) as error:
        plan_create((2,), (1,), 1, policy, lambda _: 0, 0)
    assert error.value.errno == errno.EROFS


@pytest.mark.parametrize(
    ("writable", "source", "lowest", "chosen"),
    [((0,), 1, 1, 0), ((0, 1), 2, 2, 1), ((0, 1), 2, 0, 0), ((0, 3), 2, 2, 0)],
)
def test_a_copy_goes_to_the_nearest_writable_branch_above(writable, source, lowest, chosen):
    assert plan_copyup(writable, source, lowest) == chosen


def test_nothing_is_copied_down():
    with pytest.raises(OSError) as error:
        plan_copyup((1,), 0, 1)
    assert error.value.errno == errno.EROFS


H, R = Hide, Remove
WHITEOUT, ALL, FIRST = DeleteMode.WHITEOUT, DeleteMode.ALL, DeleteMode.FIRST


@pytest.mark.parametrize(
    ("mode", "instances", "writable", "actions"),
    [
        (WHITEOUT, (0,), (0,), (R(0),)),
        (WHITEOUT, (1,), (0,), (H(0),)),
        (WHITEOUT, (0, 1), (0,), (H(0), R(0))),
        (WHITEOUT, (0, 1), (0, 1), (H(0), R(0))),
        (WHITEOUT, (1,), (0, 1), (R(1),)),
        (WHITEOUT, (1, 2), (0, 1), (H(1), R(1))),
        (WHITEOUT, (2,), (0, 1), (H(1),)),
        (ALL, (0,), (0,), (R(0),)),
        (ALL, (1,), (0,), (H(0),)),
        (ALL, (0, 1), (0,), (H(0), R(0))),
        (ALL, (0, 1), (0, 1), (R(1), R(0))),
        (ALL, (0, 1, 2), (0, 2), (R(2), H(0), R(0))),
        (ALL, (1, 3), (0, 2), (H(2), H(0))),
        (FIRST, (0,), (0,), (R(0),)),
        (FIRST, (0, 1), (0,), (R(0),)),
        (FIRST, (1, 2), (0, 1), (R(1),)),
    ],
)
def test_removal(mode, instances, writable, actions):
    assert plan_removal(instances, writable, mode) == actions


@pytest.mark.parametrize(
    ("mode", "instances", "writable"),
    [(WHITEOUT, (0,), ()), (WHITEOUT, (0, 1), (1,)), (ALL, (0,), (1,)), (ALL, (0, 1), (1,)), (FIRST, (1,), (0,))],
)
def test_removal_that_no_branch_allows_is_erofs_and_nothing_is_planned(mode, instances, writable):
    with pytest.raises(OSError) as error:
        plan_removal(instances, writable, mode)
    assert error.value.errno == errno.EROFS


def test_an_instance_with_hidden_content_is_hidden_not_removed():
    assert plan_removal((0, 1), (0, 1), ALL, kept=(1,)) == (H(0), R(0))
    assert plan_removal((0, 1, 2), (0, 1), ALL, kept=(1,)) == (H(0), R(0))


@pytest.mark.parametrize(
    ("writable", "source", "claim", "floor", "chosen"),
    [
        ((0,), 0, None, 1, 0),
        ((0,), 1, None, 1, 0),
        ((0, 1), 1, None, 1, 1),
        ((0, 1), 1, Probe(0, Kind.FILE), 1, 0),
        ((0, 1), 1, Probe(0, Kind.WHITEOUT), 1, 0),
        ((0, 1), 0, Probe(1, Kind.FILE), 1, 0),
        ((0, 1), 1, None, 0, 0),
    ],
)
def test_a_rename_takes_place_where_nothing_hides_the_new_name(writable, source, claim, floor, chosen):
    assert plan_rename_branch(writable, source, (claim,) if claim else (), floor) == chosen
