"""What a plain user looks at as root of a user namespace: the files of his steps, whose owners are subordinate ids outside.

As root everything here is done as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.abilities import missing_for_ids
from harness.pybuild import PROJECT
from layers.store import Store
from layers.validate import validate_store

_VALIDATE = """import sys
from layers.store import Store
from layers.validate import validate_store
with Store(sys.argv[1]) as store:
    validate_store(store)
"""


def as_root(*command: str | Path) -> list[str | Path]:
    """The command, with what makes it see owners as images have them, and read files whoever owns them."""
    return in_namespace(*command) if os.geteuid() != 0 else [*command]


def in_namespace(*command: str | Path) -> list[str | Path]:
    """The command in a mount namespace of its own, as root of it: what it mounts nobody else sees."""
    user = (
        [] if os.geteuid() == 0 else ["--user", "--map-root-user", *(["--map-auto"] if not missing_for_ids() else [])]
    )
    return ["unshare", *user, "--mount", "--propagation", "private", *command]


def validate(root: Path) -> None:
    """All of the store is what it claims to be, or the test fails with what is not."""
    if os.geteuid() == 0:
        with Store(root) as store:
            validate_store(store)
        return
    done = subprocess.run(
        as_root(sys.executable, "-c", _VALIDATE, root),
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def write(path: Path, text: str) -> None:
    """The file holds the text."""
    subprocess.run(as_root("tee", path), input=text, text=True, stdout=subprocess.DEVNULL, check=True)


def is_there(path: Path) -> bool:
    return subprocess.run(as_root("test", "-e", path), check=False).returncode == 0


def remove_tree(path: Path) -> None:
    """The directory is gone, with files that only root of the namespace may remove; what can't be removed stays."""
    subprocess.run(as_root("rm", "-rf", "--", path), capture_output=True, check=False)
