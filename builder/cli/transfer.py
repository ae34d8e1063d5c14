"""``pybuild pull|push|load|save|login|logout``: images between the store, registries and files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from builder.cli.images import create_parser
from builder.cli.parser import ArgumentParser
from builder.cli.registry_options import NO_SECRETS, add_registry_options, registry_settings
from builder.destination import destination
from builder.errors import BuildError, UsageError
from builder.progress.plain import format_bytes
from builder.rootless import become_root
from layers import platform
from layers.errors import BlobNotFoundError, ContentMismatchError, FormatError
from layers.reference import DEFAULT_REGISTRY, Reference
from layers.store import Store

if TYPE_CHECKING:
    from layers.registry.progress import TransferProgress


def parser_pull() -> ArgumentParser:
    """The options of ``pybuild pull``."""
    parser = create_parser("pull", "Fetch an image from a registry.", "pybuild pull debian:bookworm")
    parser.add_argument("image", metavar="IMAGE", help="name, with a tag or a digest")
    parser.refused = NO_SECRETS
    parser.add_argument("--platform", metavar="OS/ARCH", help="which one of a multi-platform image")
    parser.add_argument("--all-platforms", action="store_true", help="all of a multi-platform image")
    add_registry_options(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    return parser


def command_pull(words: Sequence[str]) -> int:
    """The image is in the store, one of a single platform unpacked as well; its digest is on stdout."""
    arguments = parser_pull().read(words)
    from layers.registry import transfer

    wanted = None if arguments.platform is None else platform.parse(arguments.platform)
    if wanted is not None and arguments.all_platforms:
        raise UsageError("--platform chooses one, --all-platforms takes all: they exclude each other")
    reference = Reference.parse(arguments.image)
    try:
        become_root()
        unpack = True
    except BuildError:
        # who cannot unpack, since files belong to others, can still fetch
        unpack = False
    with Store(arguments.root) as store:
        descriptor = transfer.pull(
            store,
            reference,
            platform=wanted,
            all_platforms=arguments.all_platforms,
            unpack=unpack,
            settings=registry_settings(arguments, reference.registry),
            progress=transfer_progress(quiet=arguments.quiet),
        )
    sys.stdout.write(f"{descriptor.digest}\n")
    return 0


def parser_push() -> ArgumentParser:
    """The options of ``pybuild push``."""
    parser = create_parser("push", "Send an image to a registry.", "pybuild push hello registry.example/hello:1")
    parser.add_argument("image", metavar="IMAGE", help="name, id or the beginning of an id")
    parser.add_argument(
        "target", metavar="TARGET", nargs="*", help="names in registries, when it is not the image's own"
    )
    parser.refused = NO_SECRETS
    parser.add_argument("--platform", metavar="OS/ARCH", help="only this one of a multi-platform image")
    parser.add_argument("--digestfile", metavar="FILE", help="write the manifest's digest to FILE as well")
    add_registry_options(parser)
    parser.add_argument("--compression", choices=("gzip", "zstd", "none"), default="gzip", help="of plain layers")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    return parser


def command_push(words: Sequence[str]) -> int:
    """The registry has the image; its manifest's digest is on stdout."""
    arguments = parser_push().read(words)
    from layers.registry import transfer

    targets = [Reference.parse(name) for name in arguments.target or [arguments.image]]
    digests: list[str] = []
    with Store(arguments.root) as store:
        for target, tags in _by_repository(targets):
            try:
                digest = transfer.push(
                    store,
                    arguments.image,
                    target,
                    tags=tags,
                    platform=None if arguments.platform is None else platform.parse(arguments.platform),
                    settings=registry_settings(arguments, target.registry),
                    compression=arguments.compression,
                    progress=transfer_progress(quiet=arguments.quiet),
                )
            except BlobNotFoundError as error:
                hints = () if arguments.platform else ("--platform OS/ARCH sends one platform that is here",)
                raise BuildError(str(error), hints=hints) from error
            digests.append(digest)
    # the same everywhere: it depends on the image and on the compression alone
    if arguments.digestfile is not None:
        with open(arguments.digestfile, "w", encoding="ascii") as file:
            file.write(digests[0])
    sys.stdout.write(f"{digests[0]}\n")
    return 0


def _by_repository(targets: Sequence[Reference]) -> list[tuple[Reference, list[str]]]:
    """The first name of each repository, and the tags of the others of it; one with a digest stands alone."""
    found: dict[tuple[str, ...], tuple[Reference, list[str]]] = {}
    for target in targets:
        key = (target.registry, target.repository, str(target.digest or ""))
        if key not in found or target.tag is None:
            found[key] = (target, [])
        else:
            found[key][1].append(target.tag)
    return list(found.values())


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
                try:
                    images = load(store, file)
                except (FormatError, ContentMismatchError) as error:
                    raise BuildError(f"{arguments.input!r}: {error}") from error
    for image in images:
        sys.stdout.writelines(f"Loaded image: {name}\n" for name in image.names or (image.descriptor.digest,))
    return 0


def parser_save() -> ArgumentParser:
    """The options of ``pybuild save``."""
    parser = create_parser("save", "Write images to an archive.", "pybuild save -o hello.tar hello")
    parser.add_argument("image", metavar="IMAGE", nargs="+", help="name, id or the beginning of an id")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to; stdout when left out")
    parser.add_argument(
        "--format", type=lambda text: text.removesuffix("-archive"), choices=("docker", "oci"), default="docker",
        help="form of the archive; docker-archive and oci-archive mean the same",
    )  # fmt: skip
    return parser


def command_save(words: Sequence[str]) -> int:
    """The images are in an archive."""
    arguments = parser_save().read(words)
    if arguments.output is None and sys.stdout.isatty():
        raise UsageError("an archive is not written to a terminal", hints=("-o FILE names a file",))
    from layers.archive import write_docker_archive, write_oci_archive

    with Store(arguments.root) as store, destination(arguments.output or "-") as out:
        images = [store.image(name) for name in arguments.image]
        if arguments.format == "docker":
            write_docker_archive(store, [(image, image.names) for image in images], out)
        else:
            # all platforms of an image, and what is said of it
            roots = [store.target(name) for name in arguments.image]
            pairs = zip(roots, images, strict=True)
            write_oci_archive(store, [(root, name) for root, image in pairs for name in image.names or (None,)], out)
    return 0


def parser_login() -> ArgumentParser:
    """The options of ``pybuild login``."""
    parser = _registry_parser("login", "Store credentials for a registry.", "pybuild login -u me registry.example")
    parser.add_argument("-u", "--username", help="asked for when left out")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from stdin")
    add_registry_options(parser)
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
    registry = arguments.registry or DEFAULT_REGISTRY
    settings = registry_settings(arguments, auth.registry_name(registry))
    place = auth.login(registry, username, password, settings=settings)
    sys.stdout.write(f"Login succeeded, credentials kept in {place}\n")
    return 0


def parser_logout() -> ArgumentParser:
    """The options of ``pybuild logout``."""
    parser = _registry_parser("logout", "Remove credentials for a registry.", "pybuild logout registry.example")
    parser.add_argument("-a", "--all", action="store_true", help="remove the credentials for all registries")
    parser.add_argument("--authfile", metavar="FILE", help="credentials, in place of the usual files")
    return parser


def command_logout(words: Sequence[str]) -> int:
    """No credentials for the registry, or for any, are kept."""
    arguments = parser_logout().read(words)
    if arguments.all and arguments.registry is not None:
        raise UsageError(f"--all removes the credentials for all registries, not for {arguments.registry!r} alone")
    from layers.registry import auth

    settings = registry_settings(arguments, "")
    registry = arguments.registry or DEFAULT_REGISTRY
    places = auth.logout_everywhere(settings=settings) if arguments.all else auth.logout(registry, settings=settings)
    if not places:
        raise BuildError("no credentials are kept" if arguments.all else f"no credentials for {registry!r} are kept")
    sys.stdout.writelines(f"Removed credentials from {place}\n" for place in places)
    return 0


def _registry_parser(name: str, description: str, example: str) -> ArgumentParser:
    parser = ArgumentParser(f"pybuild {name}", description, example, NO_SECRETS)
    parser.add_argument("registry", metavar="REGISTRY", nargs="?", help="host[:port]; Docker Hub when left out")
    return parser


def _ask(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise UsageError("stdin is no terminal to ask for a name", hints=("-u NAME gives it",))
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def transfer_progress(*, quiet: bool) -> Callable[[TransferProgress], None] | None:
    """Writes a line on stderr when a blob has travelled."""
    if quiet:
        return None
    told: set[str] = set()

    def tell(progress: TransferProgress) -> None:
        if progress.state in {"done", "exists", "mounted"} and progress.digest not in told:
            told.add(progress.digest)
            sys.stderr.write(f"{progress.digest.short}: {progress.state}, {format_bytes(progress.total_bytes)}\n")

    return tell
