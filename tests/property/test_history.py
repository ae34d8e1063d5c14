"""A union lives through everything at once: operations, changes of branches, snapshots, remounts, changes from outside.

Steps come as chance has it (``harness.fate``); each is made on a union and on the oracle (``harness.history``).
UNION_STEPS is their number: ``UNION_STEPS=100000 pytest -o faulthandler_timeout=0 tests/property/test_history.py``.
"""

from __future__ import annotations

import os

import pytest

from harness import fate

pytestmark = pytest.mark.root("makes devices 0:0 and trusted attributes")

STEPS = int(os.environ.get("UNION_STEPS", "1500"))
SEED = int(os.environ.get("UNION_SEED", "1"))


def test_a_long_history() -> None:
    fate.run(STEPS, SEED)
