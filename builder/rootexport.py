"""The root filesystem of an image, outside of any image: as files in a directory, or as one tar.

Invariants: nothing outside the directory is written, whatever links it or the image holds; what is in it already stays
unless the image has something else under the name.  Source of the rules: ``docker buildx build --output``, types local
(files belong to who builds) and tar (owners as in the image).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from builder.destination import destination
from builder.errors import BuildError, describe_os_error
from builder.exporting import Output
from builder.graph import Copy
from builder.rootfs import RootFs, open_root
from builder.session import Session
from builder.stagefiles import StageFiles
from builder.steps import copy
from layers.image import Image

if TYPE_CHECKING:
    from builder.shipping import Built
    from layers.attestation import Subject


_NO_PLACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))


def write_roots(session: Session, built: Built, output: Output) -> None:
    """The files of each image are in the directory or tar of ``output``, with what is said of them beside them.

    Raises:
        BuildError: something in the directory is in the way, or the disk takes no more.
    """
    roots = [_find_branches(session, image) for image in built.images]
    if output.kind == "local":
        for number, branches in enumerate(roots):
            place = _place(built, number, output)
            directory = os.path.join(output.destination, place) if place else output.destination
            write_directory(branches, directory)
            for name, content in _said(built, number, output, branches):
                _write_file(os.path.join(directory, name), content)
        return
    with destination(output.destination) as out:
        write_tar(session, built, roots, output, out)


def _find_branches(session: Session, image: Image) -> tuple[Path, ...]:
    from layers.ensure import ensure_unpacked

    chain = ensure_unpacked(session.store, image.manifest, image.config)
    return () if chain is None else session.snapshotter.view(chain)


def _place(built: Built, number: int, output: Output) -> str:
    """The directory of an image's files: none, or ``linux_arm64``."""
    return str(built.platforms[number]).replace("/", "_") if output.split else ""


def _said(built: Built, number: int, output: Output, branches: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files with attestations, which are about each file of the image."""
    predicates = built.predicates[number]
    if not predicates:
        return
    from layers.attestation import statement

    with open_root(branches) as root:
        subjects = () if root is None else tuple(_subjects(root))
    several = len(built.images) > 1 and not output.split
    for predicate in predicates:
        stem, dot, extension = predicate.filename.rpartition(".")
        platform = str(built.platforms[number]).replace("/", "_")
        name = f"{stem}.{platform}{dot}{extension}" if several else predicate.filename
        yield output.prefix + name, json.dumps(statement(predicate, subjects), indent=2).encode() + b"\n"


def _subjects(root: RootFs) -> Iterator[Subject]:
    """Every regular file with its digest."""
    from layers.attestation import Subject

    for entry in root.walk(b""):
        if stat.S_ISREG(entry.mode):
            with open(root.open_file(entry.path), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield Subject(entry.path.decode("utf-8", "replace"), digest)


def _write_file(path: str, content: bytes) -> None:
    """The file is there; a link of that name, which the image may hold, is replaced and not followed."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        with open(path, "xb") as file:
            file.write(content)
    except OSError as error:
        raise BuildError(f"output {describe_os_error(error)}") from error


def write_directory(branches: Sequence[Path], directory: str) -> None:
    """The files of the root that ``branches`` (top first) make are in ``directory``, which is made if need be.

    Raises:
        BuildError: something in the directory is in the way, or the disk takes no more.
    """
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise BuildError(f"output {describe_os_error(error)}") from error
    try:
        _copy(branches, Path(directory), f"{os.getuid()}:{os.getgid()}")
    except BuildError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _NO_PLACE:
            raise BuildError(f"output {directory!r}: {os.strerror(cause.errno).lower()}") from cause
        raise


def write_tar(session: Session, built: Built, roots: Sequence[Sequence[Path]], output: Output, out: IO[bytes]) -> None:
    """``out`` has got the tar of the roots that branches (top first) make: sorted, one entry a file."""
    from layers.pack import write_layer

    whole = session.snapshotter.prepare("export", None)
    try:
        for number, branches in enumerate(roots):
            place = whole.path / _place(built, number, output)
            place.mkdir(mode=0o755, exist_ok=True)
            _copy(branches, place, "")
            for name, content in _said(built, number, output, branches):
                _write_file(str(place / name), content)
        write_layer(whole.path, out)
    finally:
        session.snapshotter.remove(whole)


def _copy(branches: Sequence[Path], directory: Path, owner: str) -> None:
    with open_root(branches) as root:
        copy.apply(Copy(("/",), "/", None, chown=owner), StageFiles(root), (), directory)
