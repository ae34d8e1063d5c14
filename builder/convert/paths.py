"""Paths inside an image as a Dockerfile has them: text, joined the way Go's ``path`` does.

What a cleaned path is, `builder.paths` says; here it is absolute, as configuration and history have it.
"""

from __future__ import annotations

from builder import paths


def clean(path: str) -> str:
    """Return the absolute path that ``path`` is below the root; ``..`` above the root is dropped."""
    return "/" + paths.clean(path).decode("utf-8", "surrogateescape")


def join(directory: str, path: str) -> str:
    """Return ``path`` as seen from ``directory``, cleaned."""
    return clean(path if path.startswith("/") else f"{directory}/{path}")


def join_destination(directory: str, path: str) -> str:
    """Return ``path`` as seen from ``directory``, cleaned but for a ``/`` at the end, which means a directory.

    ``/.`` at the end means the same, and so do ``.`` and the empty string.
    """
    joined = join(directory, path)
    is_directory = path in {"", "."} or path.endswith(("/", "/."))
    return joined + "/" if is_directory and joined != "/" else joined


def has_wildcard(path: str) -> bool:
    r"""Return whether a character of ``path`` has a meaning as a pattern; ``\`` takes it away from the next one."""
    characters = iter(path)
    for character in characters:
        if character in "*?[":
            return True
        if character == "\\":
            next(characters, None)
    return False
