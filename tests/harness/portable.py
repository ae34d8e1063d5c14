"""pybuild where neither the checkout nor its virtual environment can be read: for other users, and in containers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

from harness.bases import made
from harness.pybuild import PROJECT

OWN = ("unionfs", "layers", "cache", "builder")
PACKAGES = (
    *OWN,
    "trio",
    "outcome",
    "sniffio",
    "attr",
    "attrs",
    "sortedcontainers",
    "idna",
)
REGISTRY = ("oras", "requests", "urllib3", "certifi", "charset-normalizer", "jsonschema", "zlib-ng")
"""What speaks with registries beside, as distributions; each with what it requires, parts that are compiled among them."""
TESTING = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
_REQUIRED = ("jsonschema-specifications", "referencing", "rpds-py", "typing-extensions")
_UNCOMPILED = shutil.ignore_patterns("__pycache__")
_CLIENT = Path("tests", "sandbox", "rootless_client.py")


def place_packages(directory: Path) -> None:
    """``directory`` holds ``lib``, for PYTHONPATH, and the archive ``busybox.tar``."""
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        source = PROJECT / name if name in OWN else Path(found.origin).parent
        shutil.copytree(source, directory / "lib" / name, ignore=_UNCOMPILED)
    shutil.copy(made("busybox"), directory / "busybox.tar")


def place_registry(directory: Path) -> None:
    """As `place_packages`, with what push and pull need. The interpreter there has to be of this one's version."""
    _place(directory, *REGISTRY, *_REQUIRED)


def place_tests(directory: Path) -> Path:
    """As `place_registry`, with pytest and the tests: what is returned is a checkout with all that it imports."""
    place_registry(directory)
    _place(directory, *TESTING)
    checkout = directory / "lib"
    for name in ("tests", "scripts"):
        shutil.copytree(PROJECT / name, checkout / name, ignore=_UNCOMPILED)
    shutil.copy(PROJECT / "pyproject.toml", checkout)
    return checkout


def _place(directory: Path, *distributions: str) -> None:
    for name in distributions:
        for file in importlib.metadata.distribution(name).files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = directory / "lib" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), target)


def place_client(root: Path) -> None:
    """`placed_client` is there, with what it imports: a checkout in root's home is nothing that another user can read."""
    client = placed_client(root)
    client.parent.mkdir(parents=True)
    for name in (*OWN, "tests/harness"):
        shutil.copytree(PROJECT / name, client.parents[2] / name, ignore=_UNCOMPILED)
    shutil.copy(PROJECT / _CLIENT, client)


def placed_client(root: Path) -> Path:
    """The program of tests/sandbox that runs steps over ``root`` as whoever calls it."""
    return root.parent / "checkout" / _CLIENT
