"""``pybuild images|inspect|history|tag|rmi``: what is in the store."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence

from builder.cli.arguments import parse_switch
from builder.cli.parser import ArgumentParser
from builder.cli.tables import format_age, print_table
from builder.errors import BuildError, UsageError, render
from builder.progress.plain import format_bytes
from layers.config import History, ImageConfig
from layers.descriptor import Descriptor
from layers.errors import ImageNotFoundError, LayersError
from layers.reference import Reference
from layers.store import Store, StoredImage

_NAMELESS = "<none>:<none>"


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
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="only images of this name, of any tag or of the one given"
    )
    parser.add_argument(
        "-f", "--filter", action="append", default=[], type=_parse_filter, metavar="NAME=VALUE",
        help="none but what fits: dangling=true (without a name), reference=PATTERN",
    )  # fmt: skip
    parser.add_argument("--no-trunc", action="store_true", help="show ids whole")
    parser.add_argument("-a", "--all", action="store_true", help="accepted: steps are no images")
    return parser


def _parse_filter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if name == "dangling":
        parse_switch(value)
    elif name != "reference" or not value:
        raise argparse.ArgumentTypeError(f"expected dangling=true, dangling=false or reference=PATTERN, got {text!r}")
    return name, value


def _fits(name: str, arguments: argparse.Namespace) -> bool:
    """Whether the list is to have ``name``, `_NAMELESS` where an image has none. Source: ``docker images --filter``."""
    from fnmatch import fnmatchcase

    repository, tag = _split_name(name)
    patterns = [value for kind, value in arguments.filter if kind == "reference"]
    if arguments.name is not None:
        patterns.append(arguments.name.removeprefix("docker.io/").removeprefix("library/"))
    fits = all(
        name != _NAMELESS and (fnmatchcase(repository, one) or fnmatchcase(f"{repository}:{tag}", one))
        for one in patterns
    )
    dangling = [parse_switch(value) for kind, value in arguments.filter if kind == "dangling"]
    return fits and all(one is (name == _NAMELESS) for one in dangling)


def command_images(words: Sequence[str]) -> int:
    """The images of the store are on stdout, one line a name."""
    arguments = parser_images().read(words)
    unreadable: list[tuple[str, LayersError]] = []
    with Store(arguments.root) as store:
        found = store.images(lambda name, error: unreadable.append((name, error)))
        images = sorted(found, key=lambda image: image.names)
    named = [(image, name) for image, name in _named(images) if _fits(name, arguments)]
    if arguments.quiet:
        sys.stdout.writelines(f"{id_}\n" for id_ in dict.fromkeys(image.id for image, _ in named))
    elif arguments.format == "json":
        sys.stdout.writelines(json.dumps(_summary(image, name)) + "\n" for image, name in named)
    else:
        rows = [
            (
                *_split_name(name),
                image.id if arguments.no_trunc else image.id.short,
                format_age(image.config.created),
                format_bytes(_size(image)),
            )
            for image, name in named
        ]
        print_table(("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"), rows)
    if unreadable:
        _tell_unreadable(unreadable)
    return int(bool(unreadable))


def _tell_unreadable(images: Sequence[tuple[str, LayersError]]) -> None:
    """Which images are not listed, and why."""
    from builder.advice import hints_for

    for name, error in images:
        sys.stderr.write(render(BuildError(f"image {name}: {error}", hints=hints_for(error)), {}) + "\n")


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
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print ids only: the image's, <missing> for what lies below it"
    )
    return parser


def command_history(words: Sequence[str]) -> int:
    """What made the image's layers is on stdout, the last first."""
    arguments = parser_history().read(words)
    with Store(arguments.root) as store:
        image = store.image(arguments.image)
    entries = list(_sized_history(image.config, image.manifest.layers))[::-1]
    if arguments.quiet:
        # as docker has it: what was between the steps of a build is no image
        ids = [image.id, *["<missing>"] * (len(entries) - 1)]
        sys.stdout.writelines(f"{id_}\n" for id_ in ids)
        return 0
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
    parser.add_argument("image", metavar="IMAGE", nargs="*", help="name, id or the beginning of an id")
    parser.add_argument("-f", "--force", action="store_true", help="with all names; one that is not there is no error")
    parser.add_argument("-p", "--prune", action="store_true", help="images without a name")
    parser.add_argument("-a", "--all", action="store_true", help="all images")
    return parser


def command_rmi(words: Sequence[str]) -> int:
    """The names are gone; an image whose last name went is gone with the blobs nothing else needs.

    When one can't be removed, the others are all the same.
    """
    arguments = parser_rmi().read(words)
    if not (arguments.image or arguments.prune or arguments.all):
        raise UsageError("no image was named", hints=("IMAGE, --prune for those without a name, --all",))
    # other commands take their parsers from here, and need none of these
    from builder.cleaning import collect_garbage
    from builder.rootless import become_root
    from builder.session import Session

    become_root()
    errors: list[BuildError] = []
    with Session(arguments.root) as session:
        for image in list(session.store.images(_skip)) if arguments.prune or arguments.all else ():
            if arguments.all or not image.names:
                _forget(session.store, image)
        for wanted in arguments.image:
            try:
                _remove(session.store, wanted, force=arguments.force)
            except ImageNotFoundError as error:
                if not arguments.force:
                    errors.append(BuildError(str(error), hints=("pybuild images lists what is there",)))
            except BuildError as error:
                errors.append(error)
        collect_garbage(session)
    sys.stderr.writelines(f"{render(error, {})}\n" for error in errors)
    return int(bool(errors))


def _skip(_name: str, _error: LayersError) -> None:
    """An image that cannot be read stays, until it is removed by its name."""


def _forget(store: Store, image: StoredImage) -> None:
    store.forget(image.descriptor.digest)
    sys.stdout.write(f"Deleted: {image.id}\n")


def _remove(store: Store, wanted: str, *, force: bool) -> None:
    reference = _parse(wanted)
    if reference is not None and store.untag(reference) is not None:
        # a name can be taken from what is damaged, too
        sys.stdout.write(f"Untagged: {reference.name}\n")
        return
    image = store.image(wanted)
    names = next((stored.names for stored in store.images(_skip) if stored.id == image.id), ())
    if len(names) > 1 and not force:
        raise BuildError(
            f"image {wanted!r} has {len(names)} names: {', '.join(names)}",
            hints=("remove it by each of its names, or --force",),
        )
    _forget(store, image)


def _parse(text: str) -> Reference | None:
    from layers.errors import FormatError

    try:
        return Reference.parse(text)
    except FormatError:
        return None


def _named(images: Iterable[StoredImage]) -> Iterable[tuple[StoredImage, str]]:
    return [(image, name) for image in images for name in image.names or (_NAMELESS,)]


def _split_name(name: str) -> tuple[str, str]:
    if "@" in name:
        # a name by digest has no tag
        return name.partition("@")[0], "<none>"
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
