"""Text into statements: directives, continued lines, comments, heredoc bodies.

Invariants: a statement knows the lines it covers, heredocs included; its logical line has continuations joined and
comments removed; what its words mean is not looked at, but for the words that begin a heredoc.
"""

from __future__ import annotations

import re

from builder.dockerfile import shell, words
from builder.dockerfile.characters import SPACES
from builder.dockerfile.instructions import Directives, Heredoc, Origin
from builder.dockerfile.source import Finding, Source, SourceRange
from builder.errors import DockerfileError, ExpansionError
from unionfs.namedtuple import NamedTuple

LONGEST_LINE_BYTES = 65_535
_MOST_BYTES_PER_CHARACTER = 4
# not compiled on import: many files have neither
_DIRECTIVE = r"#\s*([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*\Z"
_HEREDOC = r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)\Z"
_WITH_HEREDOC = frozenset({"RUN", "COPY", "ADD"})
_WORD_RULES = shell.Rules(raw_quotes=True, raw_escapes=True, keep_unset=True)
_NAME_RULES = shell.Rules(keep_unset=True)
_RAW_NAME_RULES = shell.Rules(raw_quotes=True, keep_unset=True)


class Statement(NamedTuple):
    """One instruction, not yet understood: flags unquoted, ``rest`` as written, both without blanks around."""

    keyword: str
    flags: tuple[str, ...]
    rest: str
    heredocs: tuple[Heredoc, ...]
    origin: Origin


class Lexed(NamedTuple):
    """All of a file."""

    directives: Directives
    statements: tuple[Statement, ...]
    warnings: tuple[Finding, ...]


def decode(text: bytes | str) -> str:
    """Return the text without byte-order mark; bytes that are not UTF-8 survive as surrogates (PEP 383)."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return text.removeprefix("\ufeff")


def lex(source: Source) -> Lexed:
    """Return the statements of ``source``.

    Raises:
        DockerfileError: a directive is wrong or repeated, a heredoc has no end, a line is too long, a NUL character.
    """
    return _Lexer(source).run()


def parse_heredoc(word: str) -> Heredoc | None:
    """Return the heredoc that ``word`` begins, with an empty body; None when it begins none."""
    found = re.match(_HEREDOC, word) if "<<" in word else None
    if found is None or not found.group(3):
        return None
    try:
        names = shell.split_words(found.group(3), {}, _NAME_RULES)
        raw_names = shell.split_words(found.group(3), {}, _RAW_NAME_RULES)
    except ExpansionError:
        return None
    if len(names) != 1 or len(raw_names) != 1:
        return None
    name = names[0]
    quoted = _count_quotes(name) != _count_quotes(raw_names[0])
    return Heredoc(name, "", expand=not quoted, chomp=bool(found.group(2)), descriptor=int(found.group(1) or 0))


def split_statement(line: str, escape: str) -> tuple[str, tuple[str, ...], str]:
    """Return keyword, flags and rest of a logical line."""
    keyword, rest = words.split_keyword(line)
    if not rest.startswith("--"):
        return keyword, (), rest
    flags, rest = words.split_flags(rest, escape)
    return keyword, tuple(flags), rest.strip(SPACES)


def _count_quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def _is_comment(line: str) -> bool:
    return line.lstrip(SPACES).startswith("#")


class _Lexer:
    """One pass over the lines; ``_at`` is the index of the next one, and the number of the last one read."""

    __slots__ = ("_at", "_comments", "_directives", "_lines", "_name", "_warnings")

    def __init__(self, source: Source) -> None:
        self._name = source.name
        self._lines = source.text.split("\n")
        if not self._lines[-1]:
            self._lines.pop()
        self._at = 0
        self._comments: list[str] = []
        self._warnings: list[Finding] = []
        self._directives = Directives()

    def run(self) -> Lexed:
        self._check_lines()
        self._read_directives()
        statements: list[Statement] = []
        while self._at < len(self._lines):
            statement = self._read_statement()
            if statement is not None:
                statements.append(statement)
        return Lexed(self._directives, tuple(statements), tuple(self._warnings))

    def _here(self, start: int, end: int) -> SourceRange:
        return SourceRange(self._name, start, end)

    def _check_lines(self) -> None:
        for number, line in enumerate(self._lines, start=1):
            if "\0" in line:
                raise DockerfileError("the line holds a NUL character", source=self._here(number, number))
            if (
                len(line) * _MOST_BYTES_PER_CHARACTER > LONGEST_LINE_BYTES
                and len(line.encode("utf-8", "surrogateescape")) > LONGEST_LINE_BYTES
            ):
                message = f"the line is longer than {LONGEST_LINE_BYTES} bytes"
                raise DockerfileError(message, source=self._here(number, number))

    def _read_directives(self) -> None:
        """Consume the directives at the head; after ``#!`` they count as well, but for ``escape``."""
        shebang = bool(self._lines) and self._lines[0].startswith("#!")
        found: dict[str, str] = {}
        number = int(shebang)
        while number < len(self._lines):
            line = self._lines[number].strip(SPACES)
            match = re.match(_DIRECTIVE, line) if line.startswith("#") else None
            key = match.group(1).lower() if match else ""
            if match is None or key not in Directives._fields:
                break
            number += 1
            if key in found:
                message = f"the directive {key!r} is given twice"
                raise DockerfileError(message, source=self._here(number, number))
            found[key] = match.group(2)
            if key == "escape" and found[key] not in {"\\", "`"}:
                message = f"escape character {found[key]!r} is neither \\ nor `"
                raise DockerfileError(message, source=self._here(number, number))
        if shebang:
            found.pop("escape", None)
        self._directives = Directives(**found)
        self._at = number if found else 0

    def _read_statement(self) -> Statement | None:
        """Consume lines up to the end of a statement; None after a comment, a blank line or the like."""
        line = self._next_line().lstrip(SPACES)
        if line.startswith("#"):
            self._note_comment(line)
            return None
        start = self._at
        line, complete = self._cut_continuation(line)
        if complete and not line:
            self._comments.clear()
            return None
        if not complete:
            line = self._join_continued(line)
        comments, self._comments = tuple(self._comments), []
        keyword, flags, rest = split_statement(line, self._directives.escape)
        heredocs = self._read_heredocs(line, start) if "<<" in line and self._may_hold_heredoc(keyword, rest) else ()
        origin = Origin(self._here(start, self._at), line.strip(SPACES), keyword, comments)
        return Statement(keyword, flags, rest, heredocs, origin)

    def _next_line(self) -> str:
        line = self._lines[self._at].rstrip("\r")
        self._at += 1
        return line

    def _note_comment(self, line: str) -> None:
        comment = line[1:].strip(SPACES)
        if comment:
            self._comments.append(comment)
        else:
            self._comments.clear()

    def _cut_continuation(self, line: str) -> tuple[str, bool]:
        """Return the line without the escape character that ends it, and whether the statement ends here."""
        stripped = line.rstrip(" \t")
        escape = self._directives.escape
        if not stripped.endswith(escape) or stripped.endswith(escape + escape):
            return line, True
        return stripped[:-1], False

    def _join_continued(self, line: str) -> str:
        parts = [line]
        complete = False
        blank = 0
        while not complete and self._at < len(self._lines):
            following = self._next_line()
            if _is_comment(following):
                continue
            if not following.strip(SPACES):
                blank = self._at
                continue
            following, complete = self._cut_continuation(following)
            parts.append(following)
        line = "".join(parts)
        if blank:
            message = f"line {blank} is blank inside a continued instruction, which may become an error"
            self._warnings.append(Finding("NoEmptyContinuation", message, self._here(self._at, self._at)))
        return line

    def _may_hold_heredoc(self, keyword: str, rest: str) -> bool:
        upper = keyword.upper()
        if upper == "ONBUILD":
            keyword, _, rest = split_statement(rest, self._directives.escape)
            upper = keyword.upper()
        if upper not in _WITH_HEREDOC:
            return False
        try:
            return words.parse_json_array(rest) is None
        except DockerfileError:
            return False

    def _read_heredocs(self, line: str, start: int) -> tuple[Heredoc, ...]:
        try:
            candidates = shell.split_words(line, {}, _WORD_RULES)
        except ExpansionError:
            return ()
        begun = [heredoc for word in candidates if (heredoc := parse_heredoc(word)) is not None]
        return tuple(heredoc._replace(body=self._read_body(heredoc, start)) for heredoc in begun)

    def _read_body(self, heredoc: Heredoc, start: int) -> str:
        body: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            end = line.rstrip("\r")
            if (end.lstrip("\t") if heredoc.chomp else end) == heredoc.name:
                return "".join(body)
            body.append(line + "\n")
        message = f"the heredoc {heredoc.name!r} has no end"
        hint = f"a line that holds {heredoc.name} alone ends it"
        raise DockerfileError(message, source=self._here(start, self._at), hints=(hint,))
