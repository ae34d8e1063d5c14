"""The page docs/cli.md, made of the parsers: ``python -m builder.cli.reference > docs/cli.md``.

Invariants: every command of `builder.cli.commands` and every option of its parser is on the page, and nothing else; the
page is the same on every machine and under every version of Python (argparse's own layout of help is not).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module

from builder.cli.commands import COMMANDS, SYNONYMS, function_name
from builder.cli.parser import ArgumentParser

_HEAD = """\
# The command line

This page is made of the program's own tables of options: `make docs` writes it, and a test compares.

`pybuild -t hello .` is short for `pybuild build -t hello .`: words that name no command are those of a build. Options
have docker's names and meanings where docker has them. Data is on stdout; progress, warnings and errors are on stderr.
`pybuild help COMMAND` and `pybuild COMMAND --help` tell what is told here, `pybuild --version` tells the version.

| exit status | meaning |
|---|---|
| 0 | done |
| the step's own | a RUN step failed, or the command of `pybuild run`; 137 when it ran out of memory |
| 1 | any other error |
| 2 | the command line makes no sense |
| 130 | interrupted, by SIGINT (Ctrl-C) or SIGTERM |

| variable | meaning |
|---|---|
| `XDG_DATA_HOME` | images and cache live in `pybuild` below it, else below `~/.local/share`; `--root` wins |
| `XDG_CONFIG_HOME` | `pybuild/config.toml` below it says how registries are spoken to ([registries](registries.md)), \
and has options that commands begin with: `[build]` with `progress = "plain"`, `build-arg = ["A=1"]` |
| `SOURCE_DATE_EPOCH` | seconds since 1970: no time in the image is later, and equal builds give equal images |
| | or `context`, the name of a context, or of a stage that is one remote ADD: the time of what is fetched there |
| `SSH_AUTH_SOCK` | the agent that `--ssh` offers to steps |
| `NO_COLOR` | progress on a terminal has no colours |
| `SSL_CERT_FILE`, `GIT_SSL_CAINFO` | the certificate authorities that are believed; the second by git alone |

| secret (`--secret id=…`) | said as `Authorization` when |
|---|---|
| `HTTP_AUTH_HEADER_<host>`, `HTTP_AUTH_TOKEN_<host>` | a context or ADD fetches a file from that host |
| `GIT_AUTH_HEADER.<host>`, `GIT_AUTH_TOKEN.<host>` | a repository of that host is fetched |
| `GIT_AUTH_HEADER`, `GIT_AUTH_TOKEN` | a repository of any other host is fetched by HTTP |
"""
_BAR = r"\|"


def reference() -> str:
    """The text of the page."""
    return "\n".join([_HEAD, *_synonyms(), *(line for name in COMMANDS for line in _command(name, parser_of(name)))])


def _synonyms() -> Iterator[str]:
    yield "| words of other programs | here |"
    yield "|---|---|"
    yield from (f"| `pybuild {words}` | `pybuild {meant}` |" for words, meant in SYNONYMS.items())
    yield ""


def parser_of(name: str) -> ArgumentParser:
    """The parser of the command ``name``."""
    parser: ArgumentParser = getattr(import_module(COMMANDS[name][0]), f"parser_{function_name(name)}")()
    return parser


def _command(name: str, parser: ArgumentParser) -> Iterator[str]:
    yield f"## pybuild {name}\n"
    yield f"{parser.summary}\n"
    yield f"    {parser.format_usage_line()}\n"
    yield f"Example: `{parser.example}`\n"
    yield "| argument or option | meaning |"
    yield "|---|---|"
    yield from (_row(_form(action), _meaning(action)) for action in parser.actions() if action.dest != "help")
    yield ""
    if parser.refused:
        yield "Options of other programs that are refused:\n"
        yield "| option | why |"
        yield "|---|---|"
        yield from (_row(f"`{option}`", reason) for option, reason in parser.refused.items())
        yield ""


def _row(*cells: str) -> str:
    """A row of a table: a bar in a cell would end it."""
    return f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |"


def _form(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_value(action)}`"
    value = "" if action.nargs == 0 else f" {_value(action)}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.metavar is not None:
        return str(action.metavar)
    if action.choices is not None:
        return "/".join(str(choice) for choice in action.choices)
    return action.dest.upper()


def _meaning(action: argparse.Action) -> str:
    notes = [action.help or ""]
    if action.choices is not None and action.metavar is not None:
        notes.append(f"one of {', '.join(str(choice) for choice in action.choices)}")
    if action.choices is not None and isinstance(action.default, str):
        notes.append(f"`{action.default}` when left out")
    if action.default == [] and action.nargs != 0:
        notes.append("may be given several times")
    return "; ".join(notes)


if __name__ == "__main__":
    sys.stdout.write(reference())
