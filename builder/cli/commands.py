"""Which commands there are, and where each lives.

A module that holds a command has two functions for it, ``parser_NAME()`` and ``command_NAME(words) -> status``; a
command of a group (``cache ls``) has both words in its NAME, joined by ``_``.

Invariants: nothing heavy is imported; docs/cli.md lists exactly these commands (tests/unit/builder/cli/test_pages.py).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

COMMANDS = {
    "build": ("builder.cli.build", "build an image from a Dockerfile"),
    "check": ("builder.cli.check", "check a Dockerfile without building it"),
    "run": ("builder.cli.run", "run a command in an image"),
    "shell": ("builder.cli.shell", "look around in a step of an image, or in one that failed"),
    "resume": ("builder.cli.shell", "build again what failed last"),
    "images": ("builder.cli.images", "list the images of the store"),
    "inspect": ("builder.cli.images", "show an image's configuration as JSON"),
    "history": ("builder.cli.images", "show what an image's layers were made by"),
    "diff": ("builder.cli.difference", "show which files differ between two images or steps"),
    "tag": ("builder.cli.images", "give an image one more name"),
    "rmi": ("builder.cli.images", "remove an image's name, and what nothing else needs"),
    "pull": ("builder.cli.transfer", "fetch an image from a registry"),
    "push": ("builder.cli.transfer", "send an image to a registry"),
    "copy": ("builder.cli.copying", "copy an image between registries, layouts, archives and the store"),
    "load": ("builder.cli.transfer", "read images from an archive"),
    "save": ("builder.cli.transfer", "write images to an archive"),
    "login": ("builder.cli.transfer", "store credentials for a registry"),
    "logout": ("builder.cli.transfer", "remove credentials for a registry"),
    "completion": ("builder.cli.completion", "write what a shell needs to complete words"),
    "cache ls": ("builder.cli.cache", "list the results of steps"),
    "cache du": ("builder.cli.cache", "show what images and cache take on disk"),
    "cache verify": ("builder.cli.cache", "read everything, and tell what is damaged"),
    "cache prune": ("builder.cli.cache", "remove results that were not used"),
    "cache explain": ("builder.cli.explain", "show which steps of a build are in the cache, and why not the others"),
    "cache export": ("builder.cli.exchange", "write the results of steps elsewhere"),
    "cache import": ("builder.cli.exchange", "take results of steps from elsewhere"),
}
"""Command → its module, and its one line of help."""

SYNONYMS = {
    "explain": "cache explain",
    "prune": "cache prune",
    "du": "cache du",
    "bud": "build",
    "builder build": "build",
    "builder prune": "cache prune",
    "buildx build": "build",
    "buildx du": "cache du",
    "buildx prune": "cache prune",
    "container run": "run",
    "image build": "build",
    "image history": "history",
    "image inspect": "inspect",
    "image load": "load",
    "image ls": "images",
    "image prune": "rmi --prune",
    "image pull": "pull",
    "image push": "push",
    "image rm": "rmi",
    "image save": "save",
    "image tag": "tag",
    "system check": "cache verify",
    "system df": "cache du",
    "system prune": "cache prune",
}
"""What docker, buildx, buildah and podman call it → what it is here."""

GROUPS = frozenset(name.split(" ")[0] for name in COMMANDS if " " in name)


def find_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the command that ``words`` call, and what follows it; words that name none are those of a build.

    Raises:
        UsageError: the first word is neither a command nor, as a build's context may be, a directory.
    """
    for count in (2, 1):
        meant = SYNONYMS.get(" ".join(words[:count]))
        if meant is not None:
            words = [*meant.split(" "), *words[count:]]
            break
    first = words[0]
    if first in GROUPS:
        name = " ".join(words[:2])
        if name not in COMMANDS:
            members = _members(first)
            there = f"there are {', '.join(members)}"
            raise _unknown(f"{first} has no command {words[1]!r}", words[1], members, there)
        return name, list(words[2:])
    if first in COMMANDS:
        return first, list(words[1:])
    if _is_plain(first) and not os.path.lexists(first):
        message = f"{first!r} is neither a command nor a directory"
        raise _unknown(message, first, [*COMMANDS, *GROUPS], "pybuild --help lists the commands")
    return "build", list(words)


def _unknown(message: str, word: str, known: Sequence[str], otherwise: str) -> Exception:
    from builder.dockerfile.suggest import did_you_mean
    from builder.errors import UsageError

    return UsageError(message, hints=did_you_mean(word, known) or (otherwise,))


def _members(group: str) -> list[str]:
    return [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{group} ")]


def _is_plain(word: str) -> bool:
    """Whether ``word`` looks like a command: a path with a separator or a dot, a URL or an option does not."""
    return word.replace("-", "").isalpha() and not word.startswith("-")


def overview() -> str:
    """The help of ``pybuild`` itself."""
    return (
        "usage: pybuild [build] [OPTIONS] CONTEXT\n       pybuild COMMAND [OPTIONS]\n\n"
        "Builds OCI images from Dockerfiles, without a daemon.\n\n"
        f"commands:\n{_lines(COMMANDS)}\n\n"
        "example:\n  pybuild -t hello examples/Dockerfiles/hello\n\n"
        "pybuild COMMAND --help tells a command's options, pybuild --version the version.\n"
    )


def group_overview(group: str) -> str:
    """The help of a group of commands."""
    names = [name for name in COMMANDS if name.startswith(f"{group} ")]
    return (
        f"usage: pybuild {group} {'|'.join(_members(group))} [OPTIONS]\n\ncommands:\n{_lines(names)}\n\n"
        f"pybuild {names[0]} --help tells a command's options.\n"
    )


def _lines(names: Collection[str]) -> str:
    width = max(map(len, names))
    return "\n".join(f"  {name:<{width}}  {COMMANDS[name][1]}" for name in names)


def function_name(name: str) -> str:
    """The part of a function's name that stands for the command ``name``."""
    return name.replace(" ", "_")
