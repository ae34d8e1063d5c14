"""Values written in Go source: enough of the language to read the tables of a test file without running it.

Understood: literals of strings, numbers and composites (``[]T{…}``, ``map[K]V{…}``, ``&T{…}``, fields with or without
names), names assigned before, ``+``, functions given by the caller, and closures that return one such expression.
A composite with keys becomes a dict, one without a list.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<blank>\s+|//[^\n]*|/\*.*?\*/)
    | (?P<raw>`[^`]*`)
    | (?P<text>"(?:[^"\\\n]|\\.)*")
    | (?P<rune>'(?:[^'\\\n]|\\.)+')
    | (?P<number>0[xo][0-9a-fA-F_]+|[0-9][0-9_.]*)
    | (?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
    | (?P<mark>:=|\.\.\.|&&|\|\||[<>!=]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_CONSTANTS: Mapping[str, Any] = {"nil": None, "true": True, "false": False}


class Token(NamedTuple):
    """A piece of source: its kind, its text, the line it begins on."""

    kind: str
    text: str
    line: int


class NotUnderstoodError(ValueError):
    """The expression is beyond what is read here."""


def tokens(source: str) -> list[Token]:
    """The pieces of ``source`` that mean something."""
    found = []
    line = 1
    for match in _TOKEN.finditer(source):
        if match.lastgroup != "blank":
            found.append(Token(match.lastgroup or "", match.group(), line))
        line += match.group().count("\n")
    return found


def functions(source: str) -> Iterator[tuple[str, list[Token]]]:
    """Name and body of every function at the top level."""
    for match in re.finditer(r"^func (\w+)\(.*?^\}", source, re.MULTILINE | re.DOTALL):
        line = source.count("\n", 0, match.start())
        # without `func NAME`, which would look like a call
        yield match.group(1), [one._replace(line=one.line + line) for one in tokens(match.group())[2:]]


def formatted(text: str, *values: Any) -> str:
    """What ``fmt.Sprintf`` gives for verbs without width."""
    given = iter(values)

    def replaced(match: re.Match[str]) -> str:
        verb = match.group(1)
        return "%" if verb == "%" else json.dumps(next(given)) if verb == "q" else str(next(given))

    return re.sub(r"%([a-z%])", replaced, text)


class Reader:
    """Walks over the pieces of one function; ``names`` are the values of its variables and the functions known."""

    def __init__(self, pieces: list[Token], names: Mapping[str, Any]) -> None:
        self._pieces = pieces
        self._at = 0
        self.names: dict[str, Any] = {**_CONSTANTS, **names}

    def calls(self, wanted: str) -> Iterator[tuple[int, list[Any]]]:
        """Line and arguments of each call of ``wanted``, with the variables as they are there."""
        while self._at < len(self._pieces):
            kind, text, line = self._pieces[self._at]
            after = self._text(self._at + 1)
            if kind == "name" and text == wanted and after == "(":
                self._at += 1
                yield line, self._listed("(")
            elif kind == "name" and after in {"=", ":="}:
                self._assign(text)
            else:
                self._at += 1

    def walk(self) -> dict[str, Any]:
        """All variables, as they are at the end."""
        for _ in self.calls(""):
            pass
        return self.names

    def _assign(self, name: str) -> None:
        self._at += 2
        begun = self._at
        try:
            self.names[name] = self._expression()
        except NotUnderstoodError:
            self.names.pop(name, None)
            self._at = begun

    def _text(self, at: int) -> str:
        return self._pieces[at].text if at < len(self._pieces) else ""

    def _take(self, wanted: str) -> bool:
        if self._text(self._at) == wanted and self._pieces[self._at].kind == "mark":
            self._at += 1
            return True
        return False

    def _expression(self) -> Any:
        value = self._operand()
        while self._take("+"):
            value += self._operand()
        return value

    def _operand(self) -> Any:
        kind, text, line = self._pieces[self._at]
        if kind in _LITERALS:
            self._at += 1
            return _LITERALS[kind](text)
        if text in {"&", "func"}:
            self._at += 1
            return self._operand() if text == "&" else self._closure()
        typed = self._skip_type()
        following = self._text(self._at)
        if following == "{" and typed:
            return self._composite()
        if following == "(" and typed != [text]:
            return self._listed("(")[0]
        if typed == [text] and kind == "name":
            return self._named(text)
        raise NotUnderstoodError(f"line {line}: {text}")

    def _named(self, name: str) -> Any:
        if name not in self.names:
            raise NotUnderstoodError(name)
        value = self.names[name]
        return value(*self._listed("(")) if self._text(self._at) == "(" and callable(value) else value

    def _skip_type(self) -> list[str]:
        """Pass a type; its words."""
        begun = self._at
        while self._text(self._at) in {"[", "*", "map"}:
            if self._text(self._at) == "[":
                self._skip_block("[")
            else:
                self._at += 1
        if self._text(self._at) == "struct":
            self._at += 1
            self._skip_block("{")
        elif self._pieces[self._at].kind == "name":
            self._at += 1
        return [one.text for one in self._pieces[begun : self._at]]

    def _skip_block(self, opening: str) -> None:
        depth = 0
        while self._at < len(self._pieces):
            text = self._text(self._at)
            self._at += 1
            depth += (text == opening) - (text == _CLOSING[opening])
            if depth == 0:
                return

    def _composite(self) -> Any:
        fields: list[Any] = []
        keyed: dict[Any, Any] = {}
        self._at += 1
        while not self._take("}"):
            if self._text(self._at + 1) == ":" and self._pieces[self._at].kind != "mark":
                field = self._pieces[self._at]
                key = field.text if field.kind == "name" else None
                value = None if key is not None else self._operand()
                self._at += key is not None
                self._at += 1
                keyed[value if key is None else key] = self._element()
            else:
                fields.append(self._element())
            self._take(",")
        return keyed or fields

    def _element(self) -> Any:
        # the type of an element may be left out
        return self._composite() if self._text(self._at) == "{" else self._expression()

    def _listed(self, opening: str) -> list[Any]:
        """What stands between brackets; None for an argument that is not understood."""
        self._at += 1
        found: list[Any] = []
        while not self._take(_CLOSING[opening]):
            begun = self._at
            try:
                found.append(self._expression())
            except NotUnderstoodError:
                self._at = begun
                self._skip_argument(_CLOSING[opening])
                found.append(None)
            self._take(",")
        return found

    def _skip_argument(self, end: str) -> None:
        while self._text(self._at) not in {",", end}:
            text = self._text(self._at)
            if text in _CLOSING:
                self._skip_block(text)
            else:
                self._at += 1

    def _closure(self) -> Callable[..., Any]:
        begun = self._at
        self._skip_block("(")
        parameters = [one.text for one in self._pieces[begun + 1 : self._at - 1] if one.kind == "name"][::2]
        while self._text(self._at) != "{":
            self._at += 1
        body = self._at
        self._skip_block("{")
        pieces = self._pieces[body + 1 : self._at - 1]
        if not pieces or pieces[0].text != "return":
            raise NotUnderstoodError("a closure that does more than to return")
        return lambda *values: Reader(pieces[1:], {**self.names, **dict(zip(parameters, values, strict=True))}).value()

    def value(self) -> Any:
        """The value of the one expression that the pieces are."""
        return self._expression()


_LITERALS: Mapping[str, Callable[[str], Any]] = {
    "raw": lambda text: text[1:-1].replace("\r", ""),
    # Go's escapes are Python's
    "text": ast.literal_eval,
    "rune": ast.literal_eval,
    "number": ast.literal_eval,
}
