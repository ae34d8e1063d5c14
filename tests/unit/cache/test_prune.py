"""Which records go: a table over one small forest.

base(9) ── a(1) ── b(2)          numbers: when last used
       └── c(3)
old(0)                           each 10 bytes
"""

import pytest

from cache.prune import Filter, Result, plan_prune


def result(name, parent, used):
    return Result(name, parent, f"blob of {name}", 10, 0, used, name)


FOREST = [
    result("base", "", 9),
    result("a", "base", 1),
    result("b", "a", 2),
    result("c", "base", 3),
    result("old", "absent", 0),
]


@pytest.mark.parametrize(
    ("options", "going"),
    [
        ({}, ()),
        ({"everything": True}, ("old", "b", "a", "c", "base")),
        ({"everything": True, "in_use": {"b"}}, ("old", "c")),
        ({"everything": True, "in_use": {"b", "c", "old"}}, ()),
        ({"everything": True, "in_use": {"unknown"}}, ("old", "b", "a", "c", "base")),
        ({"unused_since_ns": 0}, ()),
        ({"unused_since_ns": 1}, ("old",)),
        # a is older, but b stands on it
        ({"unused_since_ns": 2}, ("old",)),
        ({"unused_since_ns": 3}, ("old", "b", "a")),
        ({"unused_since_ns": 100}, ("old", "b", "a", "c", "base")),
        ({"keep_bytes": 50}, ()),
        ({"keep_bytes": 49}, ("old",)),
        ({"keep_bytes": 40}, ("old",)),
        ({"keep_bytes": 25}, ("old", "b", "a")),
        ({"keep_bytes": 25, "in_use": {"b"}}, ("old", "c")),
        ({"keep_bytes": 0}, ("old", "b", "a", "c", "base")),
        ({"keep_bytes": 45, "unused_since_ns": 3}, ("old", "b", "a")),
    ],
)
def test_plan(options, going):
    plan = plan_prune(FOREST, **options)
    assert plan.chain_ids == going
    assert plan.freed_bytes == 10 * len(going)


def test_the_order_given_does_not_matter():
    assert plan_prune(reversed(FOREST), keep_bytes=25) == plan_prune(FOREST, keep_bytes=25)


@pytest.mark.parametrize(
    ("wanted", "going"),
    [
        (Filter(), {"base", "left", "right", "top"}),
        (Filter(chain_id="t"), {"top"}),
        (Filter(chain_id="sha256:top"), {"top"}),
        (Filter(description="igh"), set()),  # it is below top
        (Filter(description="e"), {"left"}),  # so is base
        (Filter(description="nothing"), set()),
        (Filter(unused_since_ns=6), {"left", "top"}),
    ],
)
def test_none_but_what_fits(wanted, going):
    """What does not fit stays, and with it what it stands on, whether that fits or not."""
    results = [result("base", "", 9), result("left", "base", 5), result("right", "base", 7), result("top", "right", 3)]
    assert set(plan_prune(results, everything=True, only=wanted).chain_ids) == going
