"""``pybuild pull|push|load|save|login|logout``: images between the store, registries and files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from builder.cli.images import create_parser
from builder.cli.parser import ArgumentParser
from builder.configuration import read_registry_settings
from builder.errors import BuildError, UsageError
from builder.exporting import Output, destination
from builder.progress.plain import format_bytes
from layers import platform
from layers.reference import Reference
from layers.store import Store

if TYPE_CHECKING:
    from layers.registry.progress import TransferProgress


def parser_pull() -> ArgumentParser:
    """The options of ``pybuild pull``."""
    parser = create_parser("pull", "Fetch an image from a registry.", "pybuild pull debian:bookworm")
    parser.add_argument("image", metavar="IMAGE", help="name, with a tag or a digest")
    parser.add_argument("--platform", metavar="OS/ARCH", help="which one of a multi-platform image")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    return parser


def command_pull(words: Sequence[str]) -> int:
    """The image is in the store; its digest is on stdout."""
    arguments = parser_pull().read(words)
    from layers.registry import transfer

    wanted = None if arguments.platform is None else platform.parse(arguments.platform)
    with Store(arguments.root) as store:
        descriptor = transfer.pull(
            store,
            arguments.image,
            platform=wanted,
            settings=read_registry_settings(os.environ),
            progress=_progress(quiet=arguments.quiet),
        )
    sys.stdout.write(f"{descriptor.digest}\n")
    return 0


def parser_push() -> ArgumentParser:
    """The options of ``pybuild push``."""
    parser = create_parser("push", "Send an image to a registry.", "pybuild push hello registry.example/hello:1")
    parser.add_argument("image", metavar="IMAGE", help="name, id or the beginning of an id")
    parser.add_argument(
        "target", metavar="TARGET", nargs="?", help="name in the registry, when it is not the image's own"
    )
    parser.add_argument("--compression", choices=("gzip", "zstd", "none"), default="gzip", help="of plain layers")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    return parser


def command_push(words: Sequence[str]) -> int:
    """The registry has the image; its manifest's digest is on stdout."""
    arguments = parser_push().read(words)
    from layers.registry import transfer

    with Store(arguments.root) as store:
        image = store.image(arguments.image)
        digest = transfer.push(
            store,
            image,
            Reference.parse(arguments.target or arguments.image),
            settings=read_registry_settings(os.environ),
            compression=arguments.compression,
            progress=_progress(quiet=arguments.quiet),
        )
    sys.stdout.write(f"{digest}\n")
    return 0


def parser_load() -> ArgumentParser:
    """The options of ``pybuild load``."""
    parser = create_parser("load", "Read images from an archive.", "pybuild load -i images.tar")
    parser.add_argument("-i", "--input", metavar="FILE", help="the archive, docker's or OCI's; stdin when left out")
    return parser


def command_load(words: Sequence[str]) -> int:
    """The images of the archive are in the store; their names are on stdout."""
    arguments = parser_load().read(words)
    if arguments.input is None and sys.stdin.isatty():
        raise UsageError("an archive is not read from a terminal", hints=("-i FILE names a file",))
    from layers.load import load

    with Store(arguments.root) as store:
        if arguments.input is None:
            images = load(store, sys.stdin.buffer)
        else:
            with open(arguments.input, "rb") as file:
                images = load(store, file)
    for image in images:
        sys.stdout.writelines(f"Loaded image: {name}\n" for name in image.names or (image.descriptor.digest,))
    return 0


def parser_save() -> ArgumentParser:
    """The options of ``pybuild save``."""
    parser = create_parser("save", "Write images to an archive.", "pybuild save -o hello.tar hello")
    parser.add_argument("image", metavar="IMAGE", nargs="+", help="name, id or the beginning of an id")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to; stdout when left out")
    parser.add_argument("--format", choices=("docker", "oci"), default="docker", help="form of the archive")
    return parser


def command_save(words: Sequence[str]) -> int:
    """The images are in an archive."""
    arguments = parser_save().read(words)
    if arguments.output is None and sys.stdout.isatty():
        raise UsageError("an archive is not written to a terminal", hints=("-o FILE names a file",))
    from layers.archive import write_docker_archive, write_oci_archive

    with Store(arguments.root) as store, destination(Output(arguments.format, arguments.output or "-")) as out:
        images = [store.image(name) for name in arguments.image]
        if arguments.format == "docker":
            write_docker_archive(store, [(image, image.names) for image in images], out)
        else:
            named = [(image.descriptor, name) for image in images for name in image.names or (None,)]
            write_oci_archive(store, named, out)
    return 0


def parser_login() -> ArgumentParser:
    """The options of ``pybuild login``."""
    parser = _registry_parser("login", "Store credentials for a registry.", "pybuild login -u me registry.example")
    parser.add_argument("-u", "--username", help="asked for when left out")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from stdin")
    return parser


def command_login(words: Sequence[str]) -> int:
    """The registry has accepted the credentials and they are kept."""
    arguments = parser_login().read(words)
    from layers.registry import auth

    if not arguments.password_stdin and not sys.stdin.isatty():
        raise UsageError("stdin is no terminal to ask for a password", hints=("--password-stdin reads it",))
    username = arguments.username or _ask("Username: ")
    if arguments.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        from getpass import getpass

        password = getpass("Password: ")
    place = auth.login(arguments.registry, username, password, settings=read_registry_settings(os.environ))
    sys.stdout.write(f"Login succeeded, credentials kept in {place}\n")
    return 0


def parser_logout() -> ArgumentParser:
    """The options of ``pybuild logout``."""
    return _registry_parser("logout", "Remove credentials for a registry.", "pybuild logout registry.example")


def command_logout(words: Sequence[str]) -> int:
    """No credentials for the registry are kept."""
    arguments = parser_logout().read(words)
    from layers.registry import auth

    places = auth.logout(arguments.registry, settings=read_registry_settings(os.environ))
    if not places:
        raise BuildError(f"no credentials for {arguments.registry!r} are kept")
    sys.stdout.writelines(f"Removed credentials from {place}\n" for place in places)
    return 0


def _registry_parser(name: str, description: str, example: str) -> ArgumentParser:
    parser = ArgumentParser(f"pybuild {name}", description, example)
    parser.add_argument(
        "registry", metavar="REGISTRY", nargs="?", default="docker.io", help="host[:port]; Docker Hub when left out"
    )
    return parser


def _ask(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise UsageError("stdin is no terminal to ask for a name", hints=("-u NAME gives it",))
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def _progress(*, quiet: bool) -> Callable[[TransferProgress], None] | None:
    """Writes a line on stderr when a blob has travelled."""
    if quiet:
        return None
    told: set[str] = set()

    def tell(progress: TransferProgress) -> None:
        if progress.state in {"done", "exists", "mounted"} and progress.digest not in told:
            told.add(progress.digest)
            sys.stderr.write(f"{progress.digest.short}: {progress.state}, {format_bytes(progress.total_bytes)}\n")

    return tell
