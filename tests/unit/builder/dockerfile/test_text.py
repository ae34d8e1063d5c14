"""Small parts: word splitting rules, patterns, durations, suggestions, wildcards."""

import re

import pytest

from builder.dockerfile import globs, shell, words
from builder.dockerfile.durations import format_duration, parse_duration
from builder.dockerfile.ignore import Matcher, match_wildcard
from builder.dockerfile.lexer import parse_heredoc
from builder.dockerfile.suggest import nearest
from builder.errors import ContextError, DockerfileError


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a $v b", ("a", "x", "y", "b")),
        ('a "$v" b', ("a", "x y", "b")),
        ("a$v b", ("ax", "y", "b")),
        (r"a\ b 'c d'e", ("a b", "c de")),
        ("'' \"\"", ()),
        ("  ", ()),
        ("a << b", ("a", "<< b")),
    ],
)
def test_words_are_split_after_expansion(text: str, result: tuple[str, ...]) -> None:
    assert shell.split_words(text, {"v": "x y"}) == result


@pytest.mark.parametrize(
    ("rules", "result"),
    [
        (shell.Rules(), "1 it's  `"),
        (shell.Rules(keep_unset=True), "1 it's $w `"),
        (shell.Rules(raw_quotes=True), "\"1\" it's  '`'"),
        (shell.Rules(raw_escapes=True), r"1 it\'s  `"),
        (shell.Rules(plain_quotes=True), "\"1\" it's  '`'"),
    ],
)
def test_rules(rules: shell.Rules, result: str) -> None:
    assert shell.expand(r""""$v" it\'s $w '`'""", {"v": "1"}, rules).text == result


def test_escape_character_can_be_the_backtick() -> None:
    assert shell.expand(r"C:\dir`$v$v", {"v": "1"}, shell.Rules(escape="`")).text == r"C:\dir$v1"


@pytest.mark.parametrize("text", ["${w-$v}", "${w:+a}", "${w#p}", "${w//a/b}", "${w}"])
def test_unset_variables_stay_with_their_modifier(text: str) -> None:
    expected = text.replace("$v", "1")
    assert shell.expand(text, {"v": "1"}, shell.Rules(keep_unset=True)).text == expected


def test_used_and_missing_are_told() -> None:
    expansion = shell.expand("$a ${b:-$c} ${d+$a}", {"a": "1", "d": ""})
    assert expansion.used == {"a", "d"}
    assert expansion.missing == {"b", "c"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('a=1 b=\'x y\' c="z \\" w"', ["a=1", "b='x y'", 'c="z \\" w"']),
        (r"a=x\ y b", [r"a=x\ y", "b"]),
        ("a=1 \\", ["a=1"]),
        ('a="open to the end', ['a="open to the end']),
        ('a="x\\', ['a="x']),
        ("a='x\\' b", ["a='x\\'", "b"]),
        ("", []),
    ],
)
def test_quoted_words_keep_their_quotes(text: str, result: list[str]) -> None:
    assert words.split_quoted(text, "\\") == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('["a", "b\\u00e9\\n"]', ["a", "bé\n"]),
        ("[]", []),
        ("['a']", None),
        ('["a",]', None),
        ('["a"] x', None),
        ("[NaN]", None),
        ("a", None),
        ('["\\ud800"]', ["\ufffd"]),
    ],
)
def test_json_arrays(text: str, result: list[str] | None) -> None:
    assert words.parse_json_array(text) == result


@pytest.mark.parametrize("text", ["[1]", "[null]", '["a", ["b"]]', "[" * 100_000 + "]" * 100_000])
def test_json_arrays_of_anything_but_strings(text: str) -> None:
    with pytest.raises(DockerfileError, match="strings only"):
        words.parse_json_array(text)


@pytest.mark.parametrize("word", ["<<", "<<-", "<x", "<<<x", "x<<y", "<<a b", "<<'a", "", "-<<a"])
def test_what_begins_no_heredoc(word: str) -> None:
    assert parse_heredoc(word) is None


@pytest.mark.parametrize(
    ("word", "name", "expand"),
    [("<<E", "E", True), ("<<'E F'", "E F", False), ('<<-"E"', "E", False), (r"2<<E\ F", "E F", True)],
)
def test_heredoc_words(word: str, name: str, expand: bool) -> None:
    heredoc = parse_heredoc(word)
    assert heredoc is not None
    assert (heredoc.name, heredoc.expand) == (name, expand)


def test_patterns_take_linear_time() -> None:
    """The same with backtracking over every star would not end."""
    value, pattern = "a" * 5000, "*a" * 30 + "b"
    assert globs.remove_prefix(value, pattern, longest=False) == value
    assert globs.remove_suffix(value, pattern, longest=True) == value


@pytest.mark.parametrize(
    ("value", "pattern", "result"),
    [("abc", "", "-a-b-c-"), ("abc", "*", "-"), ("aXbX", "X", "a-b-"), ("", "x", ""), ("a.c", "?", "---")],
)
def test_replacing_every_match(value: str, pattern: str, result: str) -> None:
    assert globs.replace(value, pattern, "-", every=True) == result


@pytest.mark.parametrize(
    ("text", "nanoseconds", "shown"),
    [
        ("0", 0, "0s"),
        ("1ns", 1, "1ns"),
        ("1500ns", 1_500, "1.5µs"),
        ("2.5ms", 2_500_000, "2.5ms"),
        ("90s", 90_000_000_000, "1m30s"),
        ("1h", 3_600_000_000_000, "1h0m0s"),
        ("1h2m3.5s", 3_723_500_000_000, "1h2m3.5s"),
        ("-2m", -120_000_000_000, "-2m0s"),
        (".5s", 500_000_000, "500ms"),
    ],
)
def test_durations(text: str, nanoseconds: int, shown: str) -> None:
    assert parse_duration(text) == nanoseconds
    assert format_duration(nanoseconds) == shown
    assert parse_duration(shown) == nanoseconds


@pytest.mark.parametrize("text", ["", "3", "s", "1x", "1s ", "99999999999h", "+", "1h-2m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("word", "result"),
    [("copi", "COPY"), ("RNU", "RUN"), ("ENTRYPIONT", "ENTRYPOINT"), ("HELLO", None), ("X", None), ("", None)],
)
def test_suggestions(word: str, result: str | None) -> None:
    assert nearest(word, ["COPY", "RUN", "ENV", "ENTRYPOINT", "ARG"]) == result


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.c", ["a.c", ".c"], ["a/b.c", "a.cc"]),
        ("a**b", ["ab", "axxb"], ["a/b"]),
        ("[a-cx]", ["b", "x"], ["d", "[a-cx]"]),
        ("[^a]", ["b", "é", "^"], ["a", ""]),
        (r"\[a]", ["[a]"], ["a"]),
        ("a?c", ["a☺c"], ["ac", "a/c"]),
        ("[b-a]", [], ["a", "b"]),
        ("[^b-a]", ["a"], [""]),
    ],
)
def test_wildcards(pattern: str, matching: list[str], others: list[str]) -> None:
    assert [name for name in matching if not match_wildcard(pattern, name)] == []
    assert [name for name in others if match_wildcard(pattern, name)] == []


def test_wildcards_over_bytes() -> None:
    assert match_wildcard("?.x", b"\xff.x")
    assert not match_wildcard("?.x", b"\xff\xfe.x")


@pytest.mark.parametrize("pattern", ["[", "[]", "[a", "[a-", "[-a]", "[a-]", "\\", "[^]", "a[\\"])
def test_malformed_wildcards(pattern: str) -> None:
    with pytest.raises(ContextError, match=re.escape(repr(pattern))):
        match_wildcard(pattern, "a")


def test_an_exclamation_mark_alone_is_refused() -> None:
    with pytest.raises(ContextError, match="nothing to bring back"):
        Matcher(["!"])


@pytest.mark.parametrize(
    ("patterns", "directory", "expected"),
    [
        (["a"], "a", False),
        (["a", "!a/b"], "a", True),
        (["a", "!a/b"], "a/c", False),
        (["a", "!a/b/c"], "a/b", True),
        (["!a/b", "a"], "a", False),
        (["*", "!**/x"], "anything/at/all", True),
        (["*", "!a*/x"], "abc", True),
        (["*", "!a*/x"], "bcd", False),
        (["*", "!a"], "b", False),
        (["*", "!a[/]b"], "a", True),
    ],
)
def test_where_a_walk_must_go_on(patterns: list[str], directory: str, expected: bool) -> None:
    assert Matcher(patterns).could_reinclude(directory) == expected
