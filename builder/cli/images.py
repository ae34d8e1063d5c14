"""``pybuild images|inspect|history|tag|rmi``: what is in the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from builder.cli.parser import ArgumentParser
from builder.cli.tables import format_age, print_table
from builder.errors import BuildError
from builder.progress.plain import format_bytes
from builder.rootless import become_root
from builder.session import Session
from layers.config import History, ImageConfig
from layers.descriptor import Descriptor
from layers.reference import Reference
from layers.store import Store, StoredImage


def create_parser(name: str, description: str, example: str) -> ArgumentParser:
    """A parser of a command that works on a store."""
    parser = ArgumentParser(f"pybuild {name}", description, example)
    parser.add_root()
    return parser


def parser_images() -> ArgumentParser:
    """The options of ``pybuild images``."""
    parser = create_parser("images", "List the images of the store.", "pybuild images --format json")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="for people, or for programs")
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    return parser


def command_images(words: Sequence[str]) -> int:
    """The images of the store are on stdout, one line a name."""
    arguments = parser_images().read(words)
    with Store(arguments.root) as store:
        images = sorted(store.images(), key=lambda image: image.names)
    if arguments.quiet:
        sys.stdout.writelines(f"{id_}\n" for id_ in dict.fromkeys(image.id for image in images))
    elif arguments.format == "json":
        sys.stdout.writelines(json.dumps(_summary(image, name)) + "\n" for image, name in _named(images))
    else:
        rows = [
            (*_split_name(name), image.id.short, format_age(image.config.created), format_bytes(_size(image)))
            for image, name in _named(images)
        ]
        print_table(("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"), rows)
    return 0


def parser_inspect() -> ArgumentParser:
    """The options of ``pybuild inspect``."""
    parser = create_parser("inspect", "Show images as JSON.", "pybuild inspect hello")
    parser.add_argument("image", metavar="IMAGE", nargs="+", help="name, id or the beginning of an id")
    return parser


def command_inspect(words: Sequence[str]) -> int:
    """The configuration and digests of the images are on stdout as a JSON list."""
    arguments = parser_inspect().read(words)
    with Store(arguments.root) as store:
        images = [store.image(name) for name in arguments.image]
    sys.stdout.write(json.dumps([_details(image) for image in images], indent=2) + "\n")
    return 0


def parser_history() -> ArgumentParser:
    """The options of ``pybuild history``."""
    parser = create_parser("history", "Show what an image was made by.", "pybuild history --no-trunc hello")
    parser.add_argument("image", metavar="IMAGE", help="name, id or the beginning of an id")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="for people, or for programs")
    parser.add_argument("--no-trunc", action="store_true", help="show commands whole")
    return parser


def command_history(words: Sequence[str]) -> int:
    """What made the image's layers is on stdout, the last first."""
    arguments = parser_history().read(words)
    with Store(arguments.root) as store:
        image = store.image(arguments.image)
    entries = list(_sized_history(image.config, image.manifest.layers))[::-1]
    if arguments.format == "json":
        lines = (json.dumps({**entry._asdict(), "size": size}) for entry, size in entries)
        sys.stdout.writelines(line + "\n" for line in lines)
        return 0
    width = None if arguments.no_trunc else 60
    rows = [
        (format_age(entry.created), _cut(entry.created_by, width), format_bytes(size), entry.comment)
        for entry, size in entries
    ]
    print_table(("CREATED", "CREATED BY", "SIZE", "COMMENT"), rows)
    return 0


def parser_tag() -> ArgumentParser:
    """The options of ``pybuild tag``."""
    parser = create_parser("tag", "Give an image one more name.", "pybuild tag hello registry.example/hello:1")
    parser.add_argument("image", metavar="IMAGE", help="name, id or the beginning of an id")
    parser.add_argument("name", metavar="NAME", help="the new name")
    return parser


def command_tag(words: Sequence[str]) -> int:
    """The image has the new name as well."""
    arguments = parser_tag().read(words)
    with Store(arguments.root) as store:
        store.tag(Reference.parse(arguments.name), store.image(arguments.image).descriptor)
    return 0


def parser_rmi() -> ArgumentParser:
    """The options of ``pybuild rmi``."""
    parser = create_parser("rmi", "Remove images.", "pybuild rmi hello")
    parser.add_argument("image", metavar="IMAGE", nargs="+", help="name, id or the beginning of an id")
    return parser


def command_rmi(words: Sequence[str]) -> int:
    """The names are gone; an image whose last name went is gone with the blobs nothing else needs."""
    arguments = parser_rmi().read(words)
    from builder.cleaning import collect_garbage

    become_root()
    with Session(arguments.root) as session:
        for wanted in arguments.image:
            _remove(session.store, wanted)
        collect_garbage(session)
    return 0


def _remove(store: Store, wanted: str) -> None:
    image = store.image(wanted)
    if image.names and Reference.parse(image.names[0]) == _parse(wanted):
        store.untag(wanted)
        sys.stdout.write(f"Untagged: {image.names[0]}\n")
        return
    names = next((stored.names for stored in store.images() if stored.id == image.id), ())
    if len(names) > 1:
        raise BuildError(
            f"image {wanted!r} has {len(names)} names: {', '.join(names)}", hints=("remove it by each of its names",)
        )
    store.forget(image.descriptor.digest)
    sys.stdout.write(f"Deleted: {image.id}\n")


def _parse(text: str) -> Reference | None:
    from layers.errors import FormatError

    try:
        return Reference.parse(text)
    except FormatError:
        return None


def _named(images: Iterable[StoredImage]) -> Iterable[tuple[StoredImage, str]]:
    return [(image, name) for image in images for name in image.names or ("<none>:<none>",)]


def _split_name(name: str) -> tuple[str, str]:
    repository, _, tag = name.rpartition(":")
    return (repository, tag) if repository and "/" not in tag else (name, "<none>")


def _size(image: StoredImage) -> int:
    return sum(layer.size for layer in image.manifest.layers)


def _summary(image: StoredImage, name: str) -> dict[str, object]:
    repository, tag = _split_name(name)
    return {
        "repository": repository,
        "tag": tag,
        "id": image.id,
        "digest": image.descriptor.digest,
        "created": image.config.created,
        "size": _size(image),
    }


def _details(image: StoredImage) -> dict[str, object]:
    return {
        "Id": image.id,
        "RepoTags": list(image.names),
        "Digest": image.descriptor.digest,
        "Size": _size(image),
        "Layers": [layer.to_json() for layer in image.manifest.layers],
        **json.loads(image.config.to_bytes()),
    }


def _sized_history(config: ImageConfig, layers: Sequence[Descriptor]) -> Iterable[tuple[History, int]]:
    """Each entry with the size of its layer, the first first; layers without an entry are left out."""
    sizes = iter([layer.size for layer in layers])
    for entry in config.history:
        yield entry, 0 if entry.empty_layer else next(sizes, 0)


def _cut(text: str, width: int | None) -> str:
    line = " ".join(text.split())
    return line if width is None or len(line) <= width else line[: width - 1] + "…"
