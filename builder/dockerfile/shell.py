"""Variable references and quotes in the words of a Dockerfile.

The grammar is that of the Dockerfile frontend's lexer: ``$name``, ``${name}``, and with a modifier
``${name-w} ${name:-w} ${name+w} ${name:+w} ${name?w} ${name:?w} ${name#p} ${name##p} ${name%p} ${name%%p}
${name/p/r} ${name//p/r}``, where ``w`` is expanded in its turn and ``p`` is a pattern (``globs``).  Single quotes keep
everything, double quotes everything but ``$`` and the escape character, which makes the next character literal.
``$1 $@ $*`` and their like are variables that nobody sets.

Invariants: expansion is pure; it sees the variables as they were when it began.
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.dockerfile.characters import SPACE_SET
from builder.errors import ExpansionError
from unionfs.namedtuple import NamedTuple

_SPECIAL = frozenset("@*#?-$!0")


class Rules(NamedTuple):
    """How text is read.

    ``raw_quotes`` and ``raw_escapes`` keep the quotes and escape characters in the result; ``plain_quotes`` gives
    quotes no meaning at all; ``keep_unset`` leaves a reference to an unset variable as it is written.
    """

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    plain_quotes: bool = False
    keep_unset: bool = False


class Expansion(NamedTuple):
    """The text expanded, which variables were found, and which were not, whatever stands in for them."""

    text: str
    used: frozenset[str]
    missing: frozenset[str]


DEFAULT_RULES = Rules()
_NOTHING: frozenset[str] = frozenset()


def expand(text: str, variables: Mapping[str, str], rules: Rules = DEFAULT_RULES) -> Expansion:
    """Return ``text`` with quotes removed and references replaced, as one word whatever blanks it holds.

    Raises:
        ExpansionError: a quote or a brace is not closed, a modifier is unknown, or ``${name?}`` has no value.
    """
    if "$" not in text and rules.escape not in text and "'" not in text and '"' not in text:
        return Expansion(text, _NOTHING, _NOTHING)
    reader = _Reader(text, variables, rules)
    result = reader.read("", raw_escapes=rules.raw_escapes, words=None)
    return Expansion(result, frozenset(reader.used), frozenset(reader.missing))


def split_words(text: str, variables: Mapping[str, str], rules: Rules = DEFAULT_RULES) -> tuple[str, ...]:
    """Return the words of ``text`` after expansion: unquoted blanks separate, those of variables' values as well.

    Raises:
        ExpansionError: as ``expand``.
    """
    words = _Words()
    _Reader(text, variables, rules).read("", raw_escapes=rules.raw_escapes, words=words)
    return words.finish()


class _Words:
    """Collects words character by character."""

    __slots__ = ("_current", "_done")

    def __init__(self) -> None:
        self._done: list[str] = []
        self._current: list[str] = []

    def add(self, text: str) -> None:
        """Add text whose blanks separate words."""
        for character in text:
            if character not in SPACE_SET:
                self._current.append(character)
            elif self._current:
                self._close()

    def add_raw(self, text: str) -> None:
        """Add text whose blanks belong to the word."""
        if text:
            self._current.append(text)

    def finish(self) -> tuple[str, ...]:
        """Return all words."""
        if self._current:
            self._close()
        return tuple(self._done)

    def _close(self) -> None:
        self._done.append("".join(self._current))
        self._current.clear()


class _Reader:
    """One pass over one text; ``_at`` is the next character."""

    __slots__ = ("_at", "_raw_escapes", "_rules", "_text", "_variables", "missing", "used")

    def __init__(self, text: str, variables: Mapping[str, str], rules: Rules) -> None:
        self._text = text
        self._at = 0
        self._variables = variables
        self._rules = rules
        self._raw_escapes = rules.raw_escapes
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def _peek(self) -> str:
        """Return the next character, the empty string at the end."""
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._text[self._at : self._at + 1]
        self._at += len(character)
        return character

    def read(self, stop: str, *, raw_escapes: bool, words: _Words | None) -> str:
        """Return the expansion up to the character ``stop``, which is consumed, or to the end when it is empty."""
        before, self._raw_escapes = self._raw_escapes, raw_escapes
        out: list[str] = []
        while (character := self._peek()) and character != stop:
            special = self._special(character)
            if special is None:
                piece, literal = self._plain()
            else:
                piece, literal = special, character != "$"
            out.append(piece)
            if words is not None:
                (words.add_raw if literal else words.add)(piece)
        if stop and not self._next():
            raise ExpansionError(f"syntax error: {stop!r} is missing in {self._text!r}")
        self._raw_escapes = before
        return "".join(out)

    def _special(self, character: str) -> str | None:
        """Return what stands for the construct that begins here, None when it is a plain character."""
        if character == "$":
            return self._dollar()
        if character == "<":
            return self._heredoc_mark()
        if not self._rules.plain_quotes:
            if character == "'":
                return self._single_quoted()
            if character == '"':
                return self._double_quoted()
        return None

    def _plain(self) -> tuple[str, bool]:
        """Return the next character or escaped character, and whether it is literal."""
        character = self._next()
        if character != self._rules.escape:
            return character, False
        escaped = self._next()
        return (character + escaped if self._raw_escapes else escaped), True

    def _heredoc_mark(self) -> str:
        """Return ``<``, or ``<<`` with the blanks after it, which belong to the same word."""
        start = self._at
        self._at += 1
        if self._peek() == "<":
            self._at += 1
            while self._peek() in {" ", "\t", "\r"}:
                self._at += 1
        return self._text[start : self._at]

    def _single_quoted(self) -> str:
        start = self._at
        end = self._text.find("'", start + 1)
        if end < 0:
            raise ExpansionError(f"the single quote is not closed in {self._text!r}")
        self._at = end + 1
        return self._text[start : end + 1] if self._rules.raw_quotes else self._text[start + 1 : end]

    def _double_quoted(self) -> str:
        self._at += 1
        quote = '"' if self._rules.raw_quotes else ""
        out = [quote]
        while (character := self._peek()) != '"':
            if not character:
                raise ExpansionError(f"the double quote is not closed in {self._text!r}")
            if character == "$":
                out.append(self._dollar())
                continue
            self._at += 1
            if character == self._rules.escape:
                character = self._escape_in_quotes(character)
            out.append(character)
        self._at += 1
        out.append(quote)
        return "".join(out)

    def _escape_in_quotes(self, escape: str) -> str:
        """Return what an escape character inside double quotes stands for: it keeps itself before most characters."""
        kept = escape if self._raw_escapes else ""
        following = self._peek()
        if not following:
            return kept
        if following in {'"', "$", escape}:
            return kept + self._next()
        return kept + escape

    def _name(self) -> str:
        """Consume a variable's name: a word, digits, or one special character; empty when there is none."""
        start = self._at
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif first and first in _SPECIAL:
            self._at += 1
        else:
            while (character := self._peek()).isalpha() or character.isdecimal() or character == "_":
                self._at += 1
        return self._text[start : self._at]

    def _lookup(self, name: str) -> str | None:
        value = self._variables.get(name)
        (self.missing if value is None else self.used).add(name)
        return value

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() == "{":
            self._at += 1
            return self._braced()
        name = self._name()
        if not name:
            return "$"
        value = self._lookup(name)
        if value is None:
            return f"${name}" if self._rules.keep_unset else ""
        return value

    def _braced(self) -> str:
        if self._peek() in {"{", "}", ":"}:
            raise ExpansionError(f"syntax error: bad substitution in {self._text!r}")
        name = self._name()
        operator = self._next()
        if operator == "}":
            value = self._lookup(name)
            if value is None:
                return f"${{{name}}}" if self._rules.keep_unset else ""
            return value
        if operator == "/":
            return self._substitution(name)
        if operator == ":":
            operator += self._next()
        if operator in {"#", "%"}:
            return self._trimmed(name, operator)
        if operator in {"-", "+", "?", ":-", ":+", ":?"}:
            return self._conditional(name, operator)
        if not operator or operator == ":":
            raise ExpansionError(f"syntax error: '}}' is missing in {self._text!r}")
        raise ExpansionError(f"unsupported modifier {operator!r} in {self._text!r}")

    def _conditional(self, name: str, operator: str) -> str:
        """``-``, ``+`` and ``?``; with a colon an empty value counts as none."""
        word = self.read("}", raw_escapes=False, words=None)
        value = self._lookup(name)
        if value is None and self._rules.keep_unset:
            return f"${{{name}{operator}{word}}}"
        present = value is not None and (value != "" or not operator.startswith(":"))
        kind = operator[-1]
        if kind == "+":
            return word if present else ""
        if value is not None and present:
            return value
        if kind == "-":
            return word
        condition = "empty" if value is not None else "unset"
        raise ExpansionError(f"{name}: {word or f'must not be {condition}'}")

    def _trimmed(self, name: str, operator: str) -> str:
        """``#`` and ``%``, doubled for the longest match."""
        from builder.dockerfile import globs

        pattern = self.read("}", raw_escapes=True, words=None)
        value = self._lookup(name)
        if value is None and self._rules.keep_unset:
            return f"${{{name}{operator}{pattern}}}"
        longest = pattern.startswith(operator)
        remove = globs.remove_prefix if operator == "#" else globs.remove_suffix
        try:
            return remove(value or "", pattern[1:] if longest else pattern, longest=longest)
        except ValueError as error:
            raise ExpansionError(f"pattern {pattern!r} in {self._text!r}: {error}") from None

    def _substitution(self, name: str) -> str:
        """``/pattern/replacement``, with the first slash doubled for every match."""
        from builder.dockerfile import globs

        every = self._peek() == "/"
        self._at += every
        pattern = self.read("/", raw_escapes=True, words=None)
        replacement = self.read("}", raw_escapes=True, words=None)
        value = self._lookup(name)
        if value is None and self._rules.keep_unset:
            return f"${{{name}{'//' if every else '/'}{pattern}/{replacement}}}"
        try:
            return globs.replace(value or "", pattern, replacement, every=every)
        except ValueError as error:
            raise ExpansionError(f"pattern {pattern!r} in {self._text!r}: {error}") from None
