"""pybuild where neither the checkout nor its virtual environment can be read: for other users, and in containers."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from harness.bases import made
from harness.pybuild import PROJECT

PACKAGES = (
    "unionfs",
    "layers",
    "cache",
    "builder",
    "trio",
    "outcome",
    "sniffio",
    "attr",
    "attrs",
    "sortedcontainers",
    "idna",
)


def place_packages(directory: Path) -> None:
    """``directory`` holds ``lib``, for PYTHONPATH, and the archive ``busybox.tar``."""
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        source = PROJECT / name if (PROJECT / name).is_dir() else Path(found.origin).parent
        shutil.copytree(source, directory / "lib" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(made("busybox"), directory / "busybox.tar")
