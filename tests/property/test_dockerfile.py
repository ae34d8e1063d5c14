"""Whatever the text, the language answers with a value or with a BuildError that names a line of it."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from builder.convert import convert, plan_bases
from builder.dockerfile import globs, shell
from builder.dockerfile.ignore import Matcher, parse_ignore_file
from builder.dockerfile.opinion import second_opinion
from builder.dockerfile.parser import parse
from builder.dockerfile.source import Source
from builder.errors import BuildError, render
from builder.graph import BaseImage
from layers.config import ImageConfig
from layers.platform import Platform

AMD64 = Platform("linux", "amd64")
KEYWORDS = [
    "FROM", "ARG", "RUN", "COPY", "ADD", "ENV", "LABEL", "MAINTAINER", "EXPOSE", "VOLUME", "USER", "WORKDIR", "STOPSIGNAL",
    "CMD", "ENTRYPOINT", "SHELL", "HEALTHCHECK", "ONBUILD", "#", "NOPE",
]  # fmt: skip
PIECES = [
    "a", "b=c", "AS", "$x", "${x:-y}", "${x#*}", "${", "}", "'", '"', "\\", "`", "<<E", "<<-E", "E", "#!", "[", "]", '["a"]',
    "--from=a", "--mount=type=cache,target=/x", "--link", "--chmod=u+x", "--x", "--", "=", ",", "/", "..", "*", "scratch", "0",
    "80/udp", "https://h/r.git#x:y", "\t", " ", "\r", "\ufeff", "é", "\udcff", "\x00", "escape=`", "NONE", "CMD",
]  # fmt: skip
words = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=8).map(" ".join)
lines = st.tuples(st.sampled_from(["", " "]), st.sampled_from(KEYWORDS), words, st.sampled_from(["", "\\", "`"])).map(
    lambda parts: f"{parts[0]}{parts[1]} {parts[2]}{parts[3]}"
)
texts = st.lists(lines | words, max_size=10).map("\n".join)


@given(texts, st.booleans(), st.dictionaries(st.sampled_from(["x", "y"]), st.text(max_size=3)))
@settings(max_examples=400, deadline=None)
def test_any_text_is_built_or_refused(text: str, headed: bool, build_args: dict[str, str]) -> None:
    text = f"FROM a AS a\n{text}\nFROM scratch\n" if headed else text
    try:
        dockerfile = parse(text, "Dockerfile")
        plan = plan_bases(dockerfile, build_args=build_args, target=None, platform=AMD64)
        bases = {base.key: BaseImage(ImageConfig(), "sha256:" + "0" * 64) for base in plan}
        convert(dockerfile, bases, build_args=build_args, target=None, platform=AMD64)
    except BuildError as error:
        check_error(error, text, build_args)


def check_error(error: BuildError, text: str, build_args: dict[str, str]) -> None:
    assert error.message
    assert "\n" not in error.message or "\n" in "".join(build_args.values())
    if error.source is not None:
        assert 1 <= error.source.start <= error.source.end <= text.count("\n") + 1
    assert render(error, {}).startswith("error: ")


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_are_parsed_or_refused(text: bytes) -> None:
    with contextlib.suppress(BuildError):
        parse(text, "Dockerfile")


@given(st.text(alphabet="ab$ {}:-+?#%/*\\'\"", max_size=16))
@settings(max_examples=300, deadline=None)
def test_expansion_ends(text: str) -> None:
    with contextlib.suppress(BuildError):
        shell.expand(text, {"a": "ab*", "b": ""})
    with contextlib.suppress(BuildError):
        shell.split_words(text, {"a": "a b"}, shell.Rules(raw_quotes=True, raw_escapes=True, keep_unset=True))


@given(st.text(alphabet="ab.", max_size=12), st.text(alphabet="ab.*?", max_size=6))
@settings(max_examples=300, deadline=None)
def test_prefixes_and_suffixes_against_all_cuts(value: str, pattern: str) -> None:
    """The shortest and the longest cut are found among all cuts by the plainest matching there is."""
    import fnmatch

    cuts = [at for at in range(len(value) + 1) if fnmatch.fnmatchcase(value[:at], pattern)]
    for longest, pick in (False, min), (True, max):
        expected = value[pick(cuts) :] if cuts else value
        assert globs.remove_prefix(value, pattern, longest=longest) == expected
    cuts = [at for at in range(len(value) + 1) if fnmatch.fnmatchcase(value[at:], pattern)]
    for longest, pick in (False, max), (True, min):
        expected = value[: pick(cuts)] if cuts else value
        assert globs.remove_suffix(value, pattern, longest=longest) == expected


segments = st.sampled_from(["a", "b", "*", "**", "a*", "?", "[ab]", "[^a]"])
patterns = st.lists(
    st.tuples(st.sampled_from(["", "!", "/"]), st.lists(segments, min_size=1, max_size=3)).map(
        lambda parts: parts[0] + "/".join(parts[1])
    ),
    max_size=4,
)
paths = st.lists(st.sampled_from(["a", "b", "ab", "c"]), min_size=1, max_size=4).map("/".join)


@given(patterns, paths)
@settings(max_examples=400, deadline=None)
def test_pruned_walks_miss_nothing(ignored: list[str], path: str) -> None:
    """A path that is kept is never below a directory that a walk may leave out."""
    matcher = Matcher(parse_ignore_file("\n".join(ignored)))
    components = path.split("/")
    parents = ["/".join(components[:count]) for count in range(1, len(components))]
    if not matcher.excluded(path):
        assert [one for one in parents if matcher.excluded(one) and not matcher.could_reinclude(one)] == []


@given(patterns, paths)
@settings(max_examples=300, deadline=None)
def test_the_last_match_on_the_way_decides(ignored: list[str], path: str) -> None:
    """The same answer from one pattern at a time: the definition, without any of the shortcuts."""
    kept = parse_ignore_file("\n".join(ignored))
    components = path.split("/")
    way = ["/".join(components[:count]) for count in range(1, len(components) + 1)]
    expected = False
    for pattern in kept:
        matcher = Matcher([pattern.removeprefix("!")])
        if any(matcher.excluded(one) for one in way):
            expected = not pattern.startswith("!")
    assert Matcher(kept).excluded(path) == expected


plain_words = st.text(alphabet="abcXYZ019/._-=:,", min_size=1, max_size=8).filter(lambda word: not word.startswith("-"))
plain_lines = st.tuples(
    st.sampled_from([keyword for keyword in KEYWORDS if keyword not in {"#", "NOPE"}]),
    st.lists(plain_words, min_size=1, max_size=3).map(" ".join),
    st.lists(st.lists(plain_words, min_size=1, max_size=3).map(" ".join), max_size=2),
).map(lambda parts: " \\\n    ".join([f"{parts[0]} {parts[1]}", *parts[2]]))
plain_files = st.lists(plain_lines | plain_words.map("# {}".format), min_size=1, max_size=8).map(
    lambda parts: "\n".join(parts) + "\n"
)


@given(plain_files)
@settings(max_examples=150, deadline=None)
def test_statements_agree_with_dockerfile_parse(text: str) -> None:
    """The second opinion, on what both claim to know: no heredocs, no blank lines in continued ones (ADR 0010)."""
    assert second_opinion(Source("Dockerfile", text)) == ()
