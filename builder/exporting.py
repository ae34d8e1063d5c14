"""Where the finished image goes: names in the store, archives, directories; what of it needs a registry.

On the cached-build path. Invariants: options are checked before anything is built; a file appears under its name only
when it is whole.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import IO, NamedTuple

from builder.assemble import AssembledImage
from builder.errors import BuildError, UsageError
from builder.events import StepJournal
from builder.options import BuildOptions
from builder.session import Session
from layers.descriptor import Descriptor
from layers.errors import FormatError
from layers.reference import Reference
from layers.store import Store


class Output(NamedTuple):
    """One ``-o`` that writes a file, or with the kind local a directory; the destination ``-`` is stdout.

    ``kind`` is oci, docker, tar or local.
    """

    kind: str
    destination: str


class Exports(NamedTuple):
    """What becomes of the image. ``pushes`` are the names to be sent to their registries."""

    names: tuple[Reference, ...]
    outputs: tuple[Output, ...]
    pushes: tuple[Reference, ...]

    @property
    def need_root(self) -> bool:
        """Whether files of the image are looked at."""
        return any(output.kind in {"local", "tar"} for output in self.outputs)

    @property
    def need_network(self) -> bool:
        """Whether a registry takes part."""
        return bool(self.pushes)


def plan_exports(options: BuildOptions) -> Exports:
    """What ``options`` ask for.

    Raises:
        UsageError: a name is none, has a digest, or is missing where one is needed.
    """
    names = [_parse_name(name) for name in options.tags]
    outputs: list[Output] = []
    push = options.push
    for fields in options.outputs:
        if fields["type"] in {"image", "registry"}:
            names += [_parse_name(name) for name in fields.get("name", "").split(",") if name]
            push = push or fields["type"] == "registry" or fields.get("push") == "true"
        else:
            outputs.append(Output(fields["type"], fields["dest"]))
    if push and not names:
        raise UsageError("nothing to push: the image has no name", hints=("-t NAME gives it one",))
    unique = tuple(dict.fromkeys(names))
    return Exports(unique, tuple(outputs), unique if push else ())


def _parse_name(text: str) -> Reference:
    try:
        reference = Reference.parse(text)
    except FormatError as error:
        raise UsageError(str(error)) from error
    if reference.digest is not None:
        raise UsageError(f"name {text!r} has a digest, a result cannot be named by one")
    return reference


def export_local(
    session: Session, image: AssembledImage, exports: Exports, step: StepJournal, *, keep: bool = True
) -> None:
    """The image is in the store under its names, and in the files and directories of the outputs.

    Without ``keep`` its names mean nothing here from now on, and it is only ready to be pushed: layers are not here.
    """
    store = session.store
    store.blobs.put(image.config_bytes)
    store.blobs.put(image.manifest.raw)
    descriptor = image.stored.descriptor
    if not keep:
        for name in exports.names:
            store.untag(name)
        _tell(step, f"image {image.image_id} is pushed only, since layers of it are not here: --load keeps it as well")
        return
    _tell(step, f"writing image {image.image_id}")
    if not exports.names:
        store.keep(descriptor)
    for name in exports.names:
        store.tag(name, descriptor)
        _tell(step, f"naming to {name.canonical}")
    for output in exports.outputs:
        _write(session, image, descriptor, exports, output)
        _tell(step, f"writing {output.kind} to {output.destination}")


def _tell(step: StepJournal, text: str) -> None:
    step.output(1, text.encode("utf-8", "surrogateescape") + b"\n")


def _write(session: Session, image: AssembledImage, descriptor: Descriptor, exports: Exports, output: Output) -> None:
    if output.kind in {"local", "tar"}:
        _write_root(session, image, output)
    else:
        _write_archive(session.store, image, descriptor, exports, output)


def _write_root(session: Session, image: AssembledImage, output: Output) -> None:
    from builder.rootexport import write_directory, write_tar
    from layers.ensure import ensure_unpacked

    chain = ensure_unpacked(session.store, image.manifest, image.config)
    branches = () if chain is None else session.snapshotter.view(chain)
    if output.kind == "local":
        write_directory(branches, output.destination)
    else:
        with destination(output) as out:
            write_tar(session, branches, out)


def _write_archive(
    store: Store, image: AssembledImage, descriptor: Descriptor, exports: Exports, output: Output
) -> None:
    from layers.archive import write_docker_archive, write_oci_archive

    names = [name.name for name in exports.names]
    listed: list[str | None] = [*names] or [None]
    with destination(output) as out:
        if output.kind == "oci":
            write_oci_archive(store, [(descriptor, name) for name in listed], out)
        else:
            write_docker_archive(store, [(image.stored, names)], out)


def _is_special(path: str) -> bool:
    """Whether what lies at ``path`` is to be written to as it is: /dev/stdout, a device, a FIFO."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def destination(output: Output) -> Generator[IO[bytes]]:
    """A stream that becomes the file of ``output`` when the block ends well, and leaves nothing when it does not.

    A link leads to the file that is replaced; what is no regular file is written to as it lies.
    """
    if output.destination == "-":
        yield sys.stdout.buffer
        return
    target = os.path.realpath(output.destination)
    partial = f"{target}.{os.getpid()}.partial"
    try:
        if _is_special(output.destination):
            with open(output.destination, "wb") as file:
                yield file
            return
        with open(partial, "xb") as file:
            yield file
        os.rename(partial, target)
    except OSError as error:
        raise BuildError(f"output {output.destination!r}: {os.strerror(error.errno or 0).lower()}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)
