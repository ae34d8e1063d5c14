"""The decision tables as data: every state of a name in every branch × access × operation × delete mode × form of marks.

Each case is carried out by a union, and what it answers, what it shows before, afterwards and after a remount, and what
each branch then holds are compared with ``harness.merged``, which knows the rules and not the union. A spread of the
cases runs always; UNION_TABLES is how many times more of them (``UNION_TABLES=all pytest tests/unit/unionfs/test_tables.py``:
every case of two branches, every one of three for operations on one name, and a hundred times the others).
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import pytest

from harness.tables import Case, Setting, carry_out, rename_cases, settings, single_cases, spread, wide_cases
from unionfs.types import CreatePolicy

pytestmark = pytest.mark.root("makes devices 0:0 and trusted attributes")

WORD = os.environ.get("UNION_TABLES", "1")
ALL = WORD == "all"
TIMES = 100 if ALL else int(WORD)
TOGETHER = 400


def check(cases: Sequence[Case], setting: Setting) -> None:
    """The union does with every case what the rules say."""
    for start in range(0, len(cases), TOGETHER):
        found = carry_out(cases[start : start + TOGETHER], setting)
        assert not found, "\n".join(f"{one.case}: {one.what}\n  {one.setting}" for one in found[:5])


def some(cases: Sequence[Case], number: int, setting: Setting) -> list[Case]:
    return spread(cases, 1 if ALL else min(1, number * TIMES / len(cases)), str(setting))


@pytest.mark.parametrize("access", ["rw rw", "rw ro", "ro rw", "ro ro"])
def test_two_branches(access: str) -> None:
    singles, renames = list(single_cases(2)), list(rename_cases(2))
    for setting in settings(2):
        if setting.access == access:
            check(some(singles, 12, setting), setting)
            check(some(renames, 25, setting), setting)


@pytest.mark.parametrize("top", ["rw", "ro"])
def test_three_branches(top: str) -> None:
    singles = list(single_cases(3))
    for setting in settings(3):
        if setting.access.startswith(top):
            check(some(singles, 12, setting), setting)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_directories_that_lie_in_some_branches(count: int) -> None:
    chance = random.Random(count)
    possible = [one for one in settings(count) if "rw" in one.access]
    for turn in range(2 * TIMES):
        setting = chance.choice(possible)._replace(create=chance.choice(list(CreatePolicy)[:2]).value)
        check(list(wide_cases(count, TOGETHER, f"{count} {turn}")), setting)
