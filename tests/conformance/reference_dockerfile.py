"""The reference frontend's own test data, run against this project's language.

    python tests/conformance/reference_dockerfile.py BUILDKIT [PATTERNMATCHER]

The arguments are working copies of moby/buildkit and of moby/patternmatcher; their data is read where it lies.
Every row that differs is printed; the exit status says whether there was one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import reference_tables as tables

from builder.dockerfile import ignore, lexer, parser, shell, words
from builder.dockerfile.source import Source
from builder.errors import BuildError

EXPANSION_VARIABLES = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}
LITERAL_UNSET = shell.Rules(raw_quotes=True, keep_unset=True)


def check_expansion(data: Path) -> Iterator[tuple[str, object, object]]:
    """One row per line: platforms, source, expected text or the word ``error``."""
    for number, line in enumerate(data.read_text().splitlines(), start=1):
        if line.startswith("#") or not line.strip():
            continue
        platform, source, expected = (part.strip() for part in line.split("|"))
        if platform == "W":
            continue
        try:
            got = shell.expand(source, EXPANSION_VARIABLES).text
        except BuildError:
            got = "error"
        yield f"{data.name}:{number} {source}", expected, got


def check_words(data: Path) -> Iterator[tuple[str, object, object]]:
    """One row per line: source, expected words joined by commas; ``ENV name=value`` lines set variables."""
    variables: dict[str, str] = {}
    for number, line in enumerate(data.read_text().splitlines(), start=1):
        if line.startswith("#"):
            continue
        if line.startswith("ENV "):
            name, _, value = line.removeprefix("ENV ").lstrip(" ").partition("=")
            variables[name] = value
            continue
        if "|" not in line:
            continue
        source, _, expected = line.partition("|")
        try:
            got = ",".join(shell.split_words(source.strip(), variables))
        except BuildError:
            got = "error"
        yield f"{data.name}:{number} {source}", expected.lstrip(" "), got


def quoted(text: str) -> str:
    """The text as Go quotes it."""
    return re.sub(r"\\u00([01][0-9a-f])", r"\\x\1", json.dumps(text, ensure_ascii=False))


def dump(keyword: str, flags: tuple[str, ...], rest: str, escape: str) -> str:
    """A statement in the notation of the expected results: keyword, flags, arguments, nested for ONBUILD."""
    shown = keyword.lower()
    if flags:
        shown += f" [{' '.join(quoted(flag) for flag in flags)}]"
    upper = keyword.upper()
    if upper == "ONBUILD":
        return f"{shown} ({dump(*lexer.split_statement(rest, escape), escape)})" if rest else shown
    values = arguments(upper, rest, escape)
    return " ".join([shown, *(quoted(value) for value in values)])


def arguments(keyword: str, rest: str, escape: str) -> list[str]:
    """The words of an instruction before they are understood."""
    if keyword in {"ENV", "LABEL"}:
        return pairs(rest, escape)
    if keyword == "ARG":
        return words.split_quoted(rest, escape)
    if keyword == "HEALTHCHECK":
        kind, text = words.split_first(rest)
        return ([kind] if kind else []) + text_or_array(text)
    if keyword in {"ADD", "COPY", "VOLUME", "EXPOSE", "FROM"}:
        array = words.parse_json_array(rest) if keyword not in {"EXPOSE", "FROM"} else None
        return words.split_blanks(rest) if array is None else array
    return text_or_array(rest) if keyword in {"CMD", "ENTRYPOINT", "RUN", "SHELL"} else [rest]


def pairs(rest: str, escape: str) -> list[str]:
    """Names, values and what stands between them."""
    found = words.split_quoted(rest, escape)
    if found and "=" not in found[0]:
        return [*words.split_first(rest), ""]
    return [part for word in found for part in (*word.split("=", 1), "=")]


def text_or_array(text: str) -> list[str]:
    array = words.parse_json_array(text)
    if array is not None:
        return array
    return [text] if text else []


def check_statements(folder: Path) -> Iterator[tuple[str, object, object]]:
    """One row per directory: ``Dockerfile`` and the ``result`` it must give."""
    for case in sorted(folder.iterdir()):
        text = (case / "Dockerfile").read_bytes()
        try:
            lexed = lexer.lex(Source(case.name, lexer.decode(text)))
            got = "\n".join(
                f"({dump(one.keyword, one.flags, one.rest, lexed.directives.escape)})" for one in lexed.statements
            )
        except BuildError as error:
            got = f"error: {error}"
        yield case.name, (case / "result").read_text().strip(), got


def check_refused(folder: Path) -> Iterator[tuple[str, object, object]]:
    """One row per directory, whose ``Dockerfile`` must be an error."""
    for case in sorted(folder.iterdir()):
        try:
            parser.parse((case / "Dockerfile").read_bytes(), case.name)
            got = "accepted"
        except BuildError:
            got = "error"
        yield case.name, "error", got


GO_STRING = r'"((?:[^"\\]|\\.)*)"'
ONE_PATTERN = re.compile(rf"\{{{GO_STRING}, {GO_STRING}, (true|false)(, filepath\.ErrBadPattern|, nil)?\}}")
SEVERAL_PATTERNS = re.compile(rf"\{{\[\]string\{{([^}}]*(?:\}}[^}}]*)*?)\}}, {GO_STRING}, (true|false)\}}")


def check_ignore(data: Path) -> Iterator[tuple[str, object, object]]:
    """One row per case of the tables in the test's source."""
    for number, line in enumerate(data.read_text().splitlines(), start=1):
        found = SEVERAL_PATTERNS.search(line)
        expected: object
        if found:
            patterns = [json.loads(f'"{text}"') for text in re.findall(GO_STRING, found.group(1))]
            name, expected = found.group(2), found.group(3) == "true"
        elif found := ONE_PATTERN.search(line):
            patterns, name = [json.loads(f'"{found.group(1)}"')], found.group(2)
            expected = "error" if "Bad" in (found.group(4) or "") else found.group(3) == "true"
        else:
            continue
        try:
            got: object = ignore.Matcher(patterns).excluded(json.loads(f'"{name}"'))
        except BuildError:
            got = "error"
        yield f"{data.name}:{number} {patterns} {name}", expected, got


def main(checkout: Path, patternmatcher: Path | None) -> int:
    """Print the differences and a line of counts per file of data."""
    frontend = checkout / "frontend" / "dockerfile"
    suites = {
        "expansion": check_expansion(frontend / "shell" / "envVarTest"),
        "words": check_words(frontend / "shell" / "wordsTest"),
        "statements": check_statements(frontend / "parser" / "testfiles"),
        "refused": check_refused(frontend / "parser" / "testfiles-negative"),
        "checks": tables.check_lint(frontend / "dockerfile_check_test.go"),
        "git references": tables.check_git_references(frontend / "dfgitutil" / "git_ref_test.go"),
        "heredocs": tables.check_heredocs(frontend),
        "forms": tables.check_instructions(frontend),
        "words of lines": tables.check_words_of_lines(frontend / "parser" / "parser_test.go"),
        "arrays": tables.check_arrays(frontend / "parser" / "json_test.go"),
        "ports": tables.check_ports(frontend / "dockerfile2llb" / "convert_expose_test.go"),
    }
    if patternmatcher is not None:
        suites["ignore"] = check_ignore(patternmatcher / "patternmatcher_test.go")
    failures = 0
    for name, rows in suites.items():
        total = right = 0
        for label, expected, got in rows:
            total += 1
            if expected == got:
                right += 1
            else:
                print(f"{label}\n  expected {expected!r}\n  got      {got!r}")
        failures += total - right
        print(f"{name}: {right} of {total}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
