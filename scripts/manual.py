"""The manual pages in docs/man, made of docs/unionmount.md and docs/cli.md: ``python scripts/manual.py`` writes them.

Each section of the second level that is a command becomes a page. Of Markdown it knows what the pages use: headings,
paragraphs, lists, tables, code between fences, ``code``, *emphasis* and links. Invariant: equal text gives equal pages,
whenever and wherever they are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs/unionmount.md"
REFERENCE = ROOT / "docs/cli.md"
PAGES = ROOT / "docs/man"
BUILDER_PAGES = PAGES / "man1"


class Page(NamedTuple):
    """What a page says beside the text of its section."""

    section: int
    purpose: str
    exit_status: str
    files: tuple[tuple[str, str], ...]
    see_also: str


_STATUS = """\
| status | meaning |
|---|---|
| 0 | {done} |
| 1 | it failed, with one line on stderr and perhaps a hint |
| 2 | the words on the command line make no sense |
| 130 | interrupted |
"""
_SOCKET = ("/run/unionfs/MAJOR-MINOR.sock", "the control socket of a mount of root, named after its device number")
_USERS_SOCKET = ("$XDG_RUNTIME_DIR/unionfs/", "the control sockets of a plain user")
_SNAPSHOTS = (".unionfs-snapshots/", "beside the top branch: its snapshots")
COMMANDS = {
    "unionmount": Page(
        8,
        "mount a union of directories",
        "the union answers; with -f or -d: it has been unmounted",
        (_SOCKET, _USERS_SOCKET, _SNAPSHOTS),
        "unionctl(8), snapmerge(1), mount(8), fstab(5), fusermount3(1), fuse(4)",
    ),
    "unionctl": Page(
        8,
        "look at a mounted union, change its branches, take snapshots",
        "done",
        (_SOCKET, _USERS_SOCKET, _SNAPSHOTS),
        "unionmount(8), snapmerge(1), fuser(1)",
    ),
    "snapmerge": Page(1, "apply snapshots of a union to a directory", "done", (), "unionmount(8), unionctl(8)"),
}
_TOKENS = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*|\[([^\]]+)\]\([^)]*\)")
_CELL = re.compile(r"(?<!\\)\|")


def path_of(command: str) -> Path:
    """Where the page lies."""
    return PAGES / f"{command}.{COMMANDS[command].section}"


def manual(command: str, text: str) -> str:
    """The page of the command, of the text of docs/unionmount.md."""
    page = COMMANDS[command]
    synopsis, rest = _section(command, text)
    lines = [f'.TH {command.upper()} {page.section} "" pybuild "Union file system"', ".nh", ".ad l", ".SH NAME"]
    lines += [rf"{command} \- {page.purpose}", ".SH SYNOPSIS", *_fenced(synopsis), ".SH DESCRIPTION"]
    body = [*_blocks(rest)]
    # the first sentence has the command as its subject, named by the heading
    lines += [f".B {command}", *body[1:]] if body[1][0].islower() else body
    lines += [".SH EXIT STATUS", *_blocks(_STATUS.format(done=page.exit_status).splitlines())]
    if page.files:
        lines.append(".SH FILES")
        for name, meaning in page.files:
            lines += [".TP", rf"\fI{_plain(name)}\fR", _inline(meaning)]
    lines += [".SH SEE ALSO", *_references(page.see_also)]
    return "\n".join(lines) + "\n"


def builder_pages(text: str) -> dict[str, str]:
    """The pages of pybuild and of each of its commands, by name, of the text of docs/cli.md."""
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    commands = [_Command.read(section) for section in sections]
    status = head.partition("| exit status |")[2].partition("\n\n")[0]
    made = {command.page: _command_page(command, status) for command in commands}
    return {"pybuild": _overview(head, commands, status), **made}


class _Command(NamedTuple):
    """One section of docs/cli.md."""

    name: str
    purpose: str
    more: list[str]
    usage: str
    example: str
    options: list[str]

    @property
    def page(self) -> str:
        return self.name.replace(" ", "-")

    @classmethod
    def read(cls, section: str) -> _Command:
        """The command; what other programs have and it refuses is no part of its page."""
        name, purpose, *rest = section.split("\n\n")
        at = next(number for number, part in enumerate(rest) if part.startswith("    "))
        usage, example, options = rest[at : at + 3]
        code = example.partition("`")[2].rpartition("`")[0]
        return cls(name, purpose, rest[:at], usage.strip(), code, options.splitlines())


def _command_page(command: _Command, status: str) -> str:
    purpose = command.purpose[0].lower() + command.purpose[1:].rstrip(".")
    lines = [*_title(command.page), rf"{_plain(command.page)} \- {_inline(purpose)}", ".SH SYNOPSIS"]
    lines += [*_fenced([command.usage]), ".SH DESCRIPTION"]
    for paragraph in (command.purpose, *command.more):
        lines += _blocks(paragraph.splitlines())
    lines += [".SH OPTIONS", *_table(command.options)]
    lines += [".SH EXAMPLES", *_fenced([command.example]), ".SH EXIT STATUS", *_table(status.splitlines())]
    return "\n".join([*lines, ".SH SEE ALSO", *_references("pybuild(1)")]) + "\n"


def _overview(head: str, commands: list[_Command], status: str) -> str:
    """The page that names all commands, with what holds for each of them."""
    description, _, rest = head.partition("\n\n")[2].partition("| exit status |")
    variables = rest.partition("| variable |")[2].partition("\n\n")[0]
    lines = [*_title("pybuild"), r"pybuild \- build container images without a daemon, without root", ".SH SYNOPSIS"]
    lines += [*_fenced(["pybuild [build] [OPTIONS] CONTEXT", "pybuild COMMAND [OPTIONS] [ARGUMENTS]"])]
    # the first paragraph says how the page that it stands on is made
    lines += [".SH DESCRIPTION", *_blocks(description.partition("\n\n")[2].splitlines()), ".SH COMMANDS"]
    for command in commands:
        lines += [".TP", rf"\fB{_plain(command.name)}\fR", _inline(command.purpose)]
    lines += [".SH EXIT STATUS", *_table(status.splitlines()), ".SH ENVIRONMENT", *_table(variables.splitlines())]
    also = ", ".join(f"{name}(1)" for name in sorted(command.page for command in commands))
    return "\n".join([*lines, ".SH SEE ALSO", *_references(f"{also}, unionmount(8)")]) + "\n"


def _title(page: str) -> list[str]:
    return [f'.TH {page.upper()} 1 "" pybuild "Image builder"', ".nh", ".ad l", ".SH NAME"]


def _section(command: str, text: str) -> tuple[list[str], list[str]]:
    """The code at its beginning, and the lines after that."""
    lines = text.splitlines()
    begin = lines.index(f"## {command}") + 1
    end = next((number for number in range(begin, len(lines)) if lines[number].startswith("## ")), len(lines))
    first = lines.index("```", begin, end)
    last = lines.index("```", first + 1, end)
    return lines[first + 1 : last], lines[last + 1 : end]


def _blocks(lines: list[str]) -> Iterator[str]:
    waiting = list(reversed(lines))
    while waiting:
        line = waiting.pop()
        if line.startswith("#"):
            yield f'.SH "{_inline(line.lstrip("# ")).upper()}"'
        elif line.startswith("```"):
            code: list[str] = []
            while not (inner := waiting.pop()).startswith("```"):
                code.append(inner)
            yield from (".PP", *_fenced(code))
        elif line.startswith("|"):
            rows = [line]
            while waiting and waiting[-1].startswith("|"):
                rows.append(waiting.pop())
            yield from _table(rows)
        elif line:
            words = [line]
            while waiting and waiting[-1] and not waiting[-1].startswith(("#", "|", "```", "* ")):
                words.append(waiting.pop().strip())
            yield from _paragraph(" ".join(words))


def _paragraph(text: str) -> Iterator[str]:
    if text.startswith("* "):
        yield r".IP \(bu 2"
        text = text[2:]
    else:
        yield ".PP"
    yield _inline(text)


def _table(rows: list[str]) -> Iterator[str]:
    """Rows as paragraphs under a tag, which is the first cell; without the head and the line below it.

    A row whose first cell is empty goes on where the one above ended.
    """
    for row in rows[2:]:
        tag, *cells = (cell.strip().replace(r"\|", "|") for cell in _CELL.split(row)[1:-1])
        if not tag:
            yield from (".br", _inline(". ".join(cells)))
            continue
        yield from (".TP", _inline(tag.replace("` `", "`, `")), _inline(". ".join(filter(None, cells))) or r"\&")


def _fenced(code: list[str]) -> Iterator[str]:
    yield from (".nf", *map(_plain, code), ".fi")


def _references(text: str) -> Iterator[str]:
    names = text.split(", ")
    for number, name in enumerate(names):
        word, _, section = name.partition("(")
        yield f".BR {word} ({section}" + (" ," if number < len(names) - 1 else "")


def _inline(text: str) -> str:
    made = ""
    at = 0
    for match in _TOKENS.finditer(text):
        code, strong, emphasis, link = match.groups()
        made += _plain(text[at : match.start()])
        if link is not None:
            made += _inline(link)
        else:
            made += rf"\fI{_plain(emphasis)}\fR" if emphasis else rf"\fB{_plain(code or strong)}\fR"
        at = match.end()
    return made + _plain(text[at:])


def _plain(text: str) -> str:
    """The text as roff prints it."""
    made = (
        text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("^", r"\(ha").replace("~", r"\(ti")
    )
    made = made.replace("`", r"\(ga")
    return rf"\&{made}" if made.startswith(".") else made


def main() -> None:
    """The pages are those of the text."""
    text = SOURCE.read_text(encoding="utf-8")
    PAGES.mkdir(exist_ok=True)
    for command in COMMANDS:
        path_of(command).write_text(manual(command, text), encoding="utf-8")
    BUILDER_PAGES.mkdir(exist_ok=True)
    pages = builder_pages(REFERENCE.read_text(encoding="utf-8"))
    for name, page in pages.items():
        (BUILDER_PAGES / f"{name}.1").write_text(page, encoding="utf-8")
    for path in BUILDER_PAGES.iterdir():
        if path.stem not in pages:
            path.unlink()


if __name__ == "__main__":
    main()
