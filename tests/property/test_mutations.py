"""The corpus with bytes changed at random: each text is understood or refused with a clear error, never anything else.

``FUZZ=NUMBER`` is how many texts of each kind are tried, ``FUZZ_SEED`` where they begin.
"""

from __future__ import annotations

import os
import random
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.convert import convert, plan_bases
from builder.convert.epoch import plan_epoch
from builder.convert.mounts import Context, parse_mount
from builder.convert.ports import parse_ports
from builder.convert.remote import GitFlags, find_repository, is_remote, parse_remote
from builder.convert.signals import check_signal
from builder.convert.sizes import parse_size
from builder.dockerfile import shell
from builder.dockerfile.durations import parse_duration
from builder.dockerfile.ignore import Matcher, parse_ignore_file
from builder.dockerfile.parser import parse
from builder.errors import BuildError, render
from builder.graph import MAIN_CONTEXT, BaseImage
from builder.lint import check, parse_settings
from builder.modes import parse_mode
from harness.corpus import read_corpus
from layers.config import ImageConfig
from layers.platform import Platform

TRIES = int(os.environ.get("FUZZ", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
AMD64 = Platform("linux", "amd64")
CASES = Path(__file__).parents[1] / "corpus" / "dockerfiles"
PIECES = [
    b"$", b"${", b"}", b":-", b":?", b"#", b"##", b"%", b"/", b"//", b"\\", b"`", b"'", b'"', b"<<E", b"\nE\n", b"\\\n", b"\n",
    b"\r\n", b"\t", b"--", b"--from=", b"=", b",", b"[", b"]", b"\x00", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"FROM ", b"ONBUILD ",
    b"ARG ", b"scratch", b"!", b"**", b"*", b"?", b"..", b"# escape=`\n", b"# check=skip=all\n", b"0", b"-1", b"99999999999",
    b"type=", b"target=", b"sha256:", b"git@h:r", b"https://", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b" ",
]  # fmt: skip


def _corpus() -> list[bytes]:
    texts = [case.dockerfile for case in read_corpus()]
    for name in ("statements", "graphs", "lint", "refused", "unbuildable"):
        texts += [one["text"] for one in tomllib.loads((CASES / f"{name}.toml").read_text())["case"] if "text" in one]
    return [text.encode("utf-8", "surrogateescape") for text in texts]


DOCKERFILES = _corpus()
WORDS = [
    b"${a:-${b#*}}", b"$a$b", b"'$a'\"${b%%x}\"", b"${a/b/c}", b"${a:?m}", b"$1 $@", b"a\\ b", b"${a^}", b"$", b"${a//\\//x}",
]  # fmt: skip
IGNORES = [
    b"*.log\n!a.log\n",
    b"# c\n/a/**/b\n",
    b"a/[b-d]*\n**\n!x",
    b"!",
    b"a\\*b",
    b"[",
    b"dir/\n",
    b"\xef\xbb\xbfa",
]
FLAGS = [
    b"type=bind,from=a,target=/x,rw", b"type=cache,id=a,target=b,sharing=locked,mode=0755,uid=1", b"type=tmpfs,target=/t,size=64m",
    b"type=secret,id=s,env=S,required", b"type=ssh,id=x,mode=0600", b'"type=bind","target=/a,b"', b"u=rwX,go=rX", b"0755", b"1h2m3.5s",
    b"8000-8010/udp", b"[::1]:80:80", b"SIGRTMIN+3", b"1.5GiB", b"https://h/r.git?tag=v1&subdir=d", b"git@h:r.git#a:b",
    b"ssh://h:x/r", b"http://[::1/x", b"skip=A;error=true", b"https://h/%zz?%", b"github.com/a/b?ref=x#y",
]  # fmt: skip


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A text with some bytes cut, doubled, swapped, replaced, or with pieces of the language put in."""
    text = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((1, 1, 2, 5, 20)))
        kind = rng.randrange(5)
        if kind == 0:
            del text[at:end]
        elif kind == 1:
            text[at:at] = text[at:end]
        elif kind == 2:
            text[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
        elif kind == 3:
            other = rng.choice(seeds)
            begin = rng.randrange(len(other) + 1)
            text[at:at] = other[begin : begin + rng.randrange(30)]
        else:
            text[at:at] = rng.choice(PIECES)
    return bytes(text)


def build(text: bytes) -> None:
    """All that is done with a Dockerfile before something is run."""
    arguments = {"a": "b", "x": ""}
    try:
        dockerfile = parse(text, "Dockerfile")
        check(dockerfile, build_args=arguments, ignore=Matcher(["*.log"]))
        plan_epoch(dockerfile, arguments, AMD64, {})
        wanted = plan_bases(dockerfile, build_args=arguments, target=None, platform=AMD64)
        bases = {base.key: BaseImage(ImageConfig(on_build=("RUN x",)), "sha256:" + "0" * 64) for base in wanted}
        convert(dockerfile, bases, build_args=arguments, target=None, platform=AMD64)
    except BuildError as error:
        check_error(error, text)


def check_error(error: BuildError, text: bytes) -> None:
    assert error.message
    assert "\n" not in error.message
    if error.source is not None:
        assert 1 <= error.source.start <= error.source.end <= text.count(b"\n") + 1
    assert render(error, {}).startswith("error: ")


def expand(text: bytes) -> None:
    plain = text.decode("utf-8", "surrogateescape")
    for rules in (shell.Rules(), shell.Rules(escape="`"), shell.Rules(raw_quotes=True, keep_unset=True)):
        _refused(lambda rules=rules: shell.expand(plain, {"a": "ab*", "b": ""}, rules))
        _refused(lambda rules=rules: shell.split_words(plain, {"a": "a b"}, rules))


def ignore(text: bytes) -> None:
    def match() -> None:
        matcher = Matcher(parse_ignore_file(text.decode("utf-8", "surrogateescape")))
        for path in ("a", "a/b/c.log", "dir", "é", "\udcff"):
            matcher.excluded(path)
            matcher.could_reinclude(path)

    _refused(match)


def read_flags(text: bytes) -> None:
    plain = text.decode("utf-8", "surrogateescape")
    context = Context("/work", lambda _: MAIN_CONTEXT, 0)
    _refused(lambda: parse_mount(plain, lambda value: value, context))
    _refused(lambda: find_repository(plain))
    if is_remote(plain):
        _refused(lambda: parse_remote(plain, GitFlags(keep_git_dir=None, checksum="")))
    _refused(lambda: parse_settings(plain))
    for parse_one in (parse_mode, parse_duration, parse_size, check_signal, lambda value: parse_ports([value])):
        _refused(lambda parse_one=parse_one: parse_one(plain), ValueError)


def _refused(work: Callable[[], object], also: type[Exception] = BuildError) -> None:
    try:
        work()
    except (BuildError, also) as error:
        check_kind(error, also)


def check_kind(error: Exception, also: type[Exception]) -> None:
    # exactly ValueError where that may be raised: UnicodeError and others are kinds of it
    assert isinstance(error, BuildError) or type(error) is also
    assert str(error)


KINDS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "dockerfiles": (build, DOCKERFILES),
    "words": (expand, WORDS),
    "ignore files": (ignore, IGNORES),
    "flags": (read_flags, FLAGS),
}


def inputs(seeds: list[bytes]) -> Iterator[bytes]:
    rng = random.Random(SEED)
    for _ in range(TRIES):
        yield mutated(rng, seeds)


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_is_understood_or_refused(kind: str) -> None:
    work, seeds = KINDS[kind]
    for text in inputs(seeds):
        try:
            work(text)
        except Exception as error:
            error.add_note(f"the text was {text!r}")
            raise
