"""U10: cold `find -ls` and `tar` of 20,000 small files over 60 branches, beside the same over 2.

All directories are in each branch, so each of them is merged from 59. The limit is 1.3 times the union of 2 branches.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from measure import Goal, arguments, report
from union_tree import find, make_tree, tar
from unions import OURS, Unions, unions

BRANCHES = 60
LIMIT = 1.3


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=5)
    met = True
    with tempfile.TemporaryDirectory(prefix="union-branches-") as name:
        base = Path(name)
        few, many = [base / "lower"], [base / f"b{number}" for number in range(BRANCHES - 1)]
        make_tree(few)
        make_tree(many)
        with unions(base, many) as over_60, unions(base, few) as over_2:
            mounts = {f"{kind}, {BRANCHES} branches": one for kind, one in over_60.mounts.items()}
            mounts |= {f"{kind}, 2 branches": one for kind, one in over_2.mounts.items()}
            both = Unions(mounts, over_2.absent)
            for title, work in (("U10 cold find -ls", find), ("U10 cold tar", tar)):
                rows = both.measure(options, work)
                goals = [Goal(f"{OURS}, 2 branches", LIMIT)]
                met &= report(f"{title}, {BRANCHES} branches", rows, goals=goals, absent=both.absent)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
