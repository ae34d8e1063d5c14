"""Dockerfiles called ``….in``, which the C preprocessor goes over first, as buildah has it (buildah-build(1)).

Invariants: the program gets the text on stdin and writes nothing; what it says of comments, which look like directives
it does not know, is no error.
"""

from __future__ import annotations

import os
import re
import subprocess
from itertools import takewhile

from builder.errors import ContextError

_COMMAND = ("cpp", "-E", "-traditional", "-undef", "-nostdinc")
_MARK = rb'# [0-9]+ "'
_DIRECTIVE = rb"#\s*[A-Za-z]+\s*="
_OF_COMMENTS = b"invalid preprocessing directive"


def preprocess(text: bytes, directory: str, shown: str) -> bytes:
    """What the preprocessor makes of ``text``; ``#include "…"`` is looked for in ``directory``.

    Parser directives at the head stay as they are, and lines have their numbers up to the first ``#include``.

    Raises:
        ContextError: there is no preprocessor, or it refuses the text; ``shown`` is its name for people.
    """
    try:
        done = subprocess.run(
            [*_COMMAND, "-iquote", directory, "-"],
            input=text,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        hints = ("cpp comes with a C compiler", "a file whose name does not end in .in is taken as it is")
        raise ContextError(f"Dockerfile {shown!r} is to be preprocessed, and there is no cpp", hints=hints) from None
    errors = [line for line in done.stderr.splitlines() if b"error: " in line and _OF_COMMENTS not in line]
    if done.returncode and (errors or not done.stdout):
        reason = (errors or [done.stderr])[0].decode("utf-8", "replace").strip()
        raise ContextError(f"Dockerfile {shown!r} cannot be preprocessed: {reason.rpartition('error: ')[2]}")
    lines = done.stdout.splitlines(keepends=True)
    first = next((at for at, line in enumerate(lines) if not re.match(_MARK, line)), len(lines))
    head = list(takewhile(lambda line: re.match(_DIRECTIVE, line), text.splitlines(keepends=True)))
    return b"".join([*head, *lines[first + len(head) :]])
