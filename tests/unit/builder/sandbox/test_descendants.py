"""Who descends from whom, and that none of them gets away."""

from __future__ import annotations

import subprocess
import sys

from builder.sandbox.descendants import descendants, parent_in

PARENTS = [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (21, 20), (30, 99)]
# a shell whose child has gone to another session and lost its parent
FAMILY = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from builder.sandbox import _sys, descendants
_sys.prctl(_sys.PR_SET_CHILD_SUBREAPER, 1)
kept = subprocess.Popen(["sleep", "1000"])
left = subprocess.Popen(["sh", "-c", "setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & echo; exec sleep 1000"],
    stdout=subprocess.PIPE)
left.stdout.read(1)
descendants.end_strays({kept.pid})
print(kept.poll())
kept.kill()
kept.wait()
other = subprocess.Popen(["sh", "-c", "(setsid sleep 1000 &); exit"])
other.wait()
descendants.end_all()
print(descendants.descendants(os.getpid(), descendants._table().items()))
"""


def test_descendants_of_one() -> None:
    assert sorted(descendants(10, PARENTS)) == [11, 12]
    assert sorted(descendants(1, PARENTS)) == [10, 11, 12, 20, 21]
    assert descendants(30, PARENTS) == []


def test_parent_after_a_name_that_holds_anything() -> None:
    assert parent_in("77 (a) R 1 (b) S 5 77 77 0 -1") == 5


def test_strays_and_descendants_are_ended(project_root: object) -> None:
    script = FAMILY.replace("import subprocess, sys", "import os, subprocess, sys")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(project_root)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("None\n[]\n", "")
