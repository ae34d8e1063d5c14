"""The corpus of Dockerfiles that two builders are compared on: tests/corpus/differential/*.toml.

A file is a list of ``[[case]]`` and a ``[context]`` that all of them start from. A case:

    name         unique in its file
    dockerfile   the text; an indentation common to all lines is taken away
    context      files of its own (harness/contexts.py), over those of the file
    args         more arguments of both ``build`` commands; ``{context}`` is the directory of the context
    reference    the Dockerfile that docker gets instead, where its BuildKit lacks the feature: the same tree, said in
                 older words; history and layers are not compared then
    refused      a regular expression: both builders refuse the Dockerfile, and our message matches
    skip_field   what need not agree, with the reason: ``{field = "history"|"layers"|"config.NAME", reason}`` or
                 ``{path = PATTERN, field = FIELD of an Entry or "*", reason}``
    random       why two builds need not give the same bytes
    always       part of the selection that runs everywhere
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.trees import Ignored

DIRECTORY = Path(__file__).resolve().parents[1] / "corpus" / "differential"
_KNOWN = frozenset(
    "name dockerfile context args reference refused skip_field random always".split()  # noqa: SIM905 -- a list of words
)


class Case(NamedTuple):
    """One Dockerfile and what it needs."""

    name: str
    dockerfile: str
    context: Mapping[str, Any]
    args: tuple[str, ...]
    reference: str | None
    refused: str | None
    skipped: frozenset[str]
    ignored: tuple[Ignored, ...]
    random: str | None
    always: bool


def _case(subject: str, shared: Mapping[str, Any], raw: Mapping[str, Any]) -> Case:
    unknown = raw.keys() - _KNOWN
    if unknown:
        raise ValueError(f"{subject}: case {raw.get('name')!r} has unknown keys {sorted(unknown)}")
    rules = raw.get("skip_field", [])
    reference = raw.get("reference")
    return Case(
        name=f"{subject}-{raw['name'].replace(' ', '-')}",
        dockerfile=_text(raw["dockerfile"]),
        context={**shared, **raw.get("context", {})},
        args=tuple(raw.get("args", ())),
        reference=None if reference is None else _text(reference),
        refused=raw.get("refused"),
        skipped=frozenset(rule["field"] for rule in rules if "path" not in rule),
        ignored=tuple(Ignored(rule["path"], (rule["field"],), rule["reason"]) for rule in rules if "path" in rule),
        random=raw.get("random"),
        always=raw.get("always", False),
    )


def _text(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


def read_corpus() -> tuple[Case, ...]:
    """All cases, in the order of files and lines."""
    cases = []
    for path in sorted(DIRECTORY.glob("*.toml")):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        cases += [_case(path.stem, data.get("context", {}), raw) for raw in data["case"]]
    names = [case.name for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"names are twice in the corpus: {sorted(twice)}")
    return tuple(cases)
