"""The root filesystem of an image, outside of any image: as files in a directory, or as one tar.

Invariants: nothing outside the directory is written, whatever links it or the image holds; what is in it already stays
unless the image has something else under the name.  Source of the rules: ``docker buildx build --output``, types local
(files belong to who builds) and tar (owners as in the image).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from builder.errors import BuildError, describe_os_error
from builder.graph import Copy
from builder.rootfs import open_root
from builder.session import Session
from builder.stagefiles import StageFiles
from builder.steps import copy


def write_directory(branches: Sequence[Path], directory: str) -> None:
    """The files of the root that ``branches`` (top first) make are in ``directory``, which is made if need be.

    Raises:
        BuildError: something in the directory is in the way, or the disk takes no more.
    """
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise BuildError(f"output {describe_os_error(error)}") from error
    _copy(branches, Path(directory), f"{os.getuid()}:{os.getgid()}")


def write_tar(session: Session, branches: Sequence[Path], out: IO[bytes]) -> None:
    """``out`` has got the tar of the root that ``branches`` (top first) make: sorted, one entry a file."""
    from layers.pack import write_layer

    whole = session.snapshotter.prepare("export", None)
    try:
        _copy(branches, whole.path, "")
        write_layer(whole.path, out)
    finally:
        session.snapshotter.remove(whole)


def _copy(branches: Sequence[Path], directory: Path, owner: str) -> None:
    with open_root(branches) as root:
        copy.apply(Copy(("/",), "/", None, chown=owner), StageFiles(root), (), directory)
