"""The tables in the reference frontend's Go tests, as rows of what is expected and what comes out here.

The files are read where they lie in a working copy of moby/buildkit (see `golang`), so that a newer one brings its new
rows.  A row is a label, what is expected, what was got.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import golang

from builder.checking import findings_before
from builder.convert import convert, plan_bases, remote
from builder.convert.ports import parse_ports
from builder.dockerfile import instructions, lexer, words
from builder.dockerfile.forms import parse_statement
from builder.dockerfile.ignore import Matcher, parse_ignore_file
from builder.dockerfile.parser import parse
from builder.dockerfile.source import Source
from builder.errors import BuildError
from builder.graph import BaseImage
from builder.lint import check, parse_settings
from layers.config import DEFAULT_PATH, ImageConfig
from layers.platform import Platform

Row: TypeAlias = tuple[str, object, object]
Rows: TypeAlias = Iterator[Row]

HOST = Platform("linux", "amd64")
OTHER = Platform("linux", "arm64")
_ARGUMENT = "build-arg:"
_CHECK = "BUILDKIT_DOCKERFILE_CHECK"
_KNOWN: Mapping[str, Any] = {
    "fmt.Sprintf": golang.formatted,
    "fmt.Appendf": lambda _, text, *values: golang.formatted(text, *values),
    "integration.UnixOrWindows": lambda unix, _: unix,
    "regexp.MustCompile": lambda text: text,
    "regexp.QuoteMeta": lambda text: text,
    "registry": "registry.example.com",
    "targetPlatform": str(OTHER),
    "expectedCurrentPlatform": str(HOST),
}


def _functions(path: Path) -> Iterator[tuple[str, golang.Reader]]:
    for name, pieces in golang.functions(path.read_text(encoding="utf-8")):
        yield name, golang.Reader(pieces, _KNOWN)


def _tables(path: Path, variable: str) -> Iterator[tuple[str, Any]]:
    """Function and row, for all the rows of the tables called ``variable``."""
    for function, reader in _functions(path):
        table = reader.walk().get(variable)
        for row in table if isinstance(table, list) else ():
            yield function, row


def check_lint(data: Path) -> Rows:
    """One row per Dockerfile that is given to the checks: the rules and lines, and the line of an error."""
    for function, reader in _functions(data):
        for line, arguments in reader.calls("checkLinterWarnings"):
            case = arguments[-1]
            # the declaration, and what is done on Windows alone
            if isinstance(case, dict) and "windows" not in (case.get("StreamBuildErrRegexp") or ""):
                label = f"{data.name}:{line} {function}"
                yield _lint_row(label, case, built=False)
                yield _lint_row(f"{label}, in a build", case, built=True)


def _lint_row(label: str, case: Mapping[str, Any], *, built: bool) -> Row:
    attributes = {} if case.get("FrontendAttrs") is None else case["FrontendAttrs"]
    arguments = {
        name.removeprefix(_ARGUMENT): value for name, value in attributes.items() if name.startswith(_ARGUMENT)
    }
    # where stages are left out, the rules alone are compared by the original as well
    unordered = None if built else case.get("UnmarshalWarnings")
    warned = (unordered if unordered is not None else case.get("Warnings")) or []
    expected = sorted((one["RuleName"], 0 if unordered is not None else one["Line"]) for one in warned)
    found, failed = _lint(case, arguments, built=built)
    got = sorted((rule, 0 if unordered is not None else line) for rule, line in found)
    error = case.get("BuildErrLocation") if "BuildErr" in case else None
    return label, (expected, error), (got, failed)


def _lint(
    case: Mapping[str, Any], arguments: Mapping[str, str], *, built: bool
) -> tuple[list[tuple[str, int]], int | None]:
    """What is found, and the line of the error that the build ends with."""
    text = case["Dockerfile"]
    ignore = Matcher(parse_ignore_file(case["DockerIgnore"])) if case.get("DockerIgnore") else None
    known = {
        name: BaseImage(ImageConfig(platform.architecture, env=(f"PATH={DEFAULT_PATH}",)), "sha256:" + "0" * 64)
        for platform, names in {
            HOST: ("alpine", "busybox", "busybox:latest"),
            OTHER: ("registry.example.com/buildkit/testbaseimageplatform:latest",),
        }.items()
        for name in names
    }
    settings = parse_settings(arguments[_CHECK]) if _CHECK in arguments else None
    try:
        dockerfile = parse(text, "Dockerfile")
    except BuildError as error:
        before = findings_before(error, Source("Dockerfile", text))
        return [(one.rule, one.source.start if one.source else 0) for one in before], _line(error)
    failed = None
    stages = None
    try:
        wanted = plan_bases(dockerfile, build_args=arguments, target=None, platform=HOST)
        bases = {ref.key: known.get(ref.reference, BaseImage(ImageConfig(), "sha256:" + "0" * 64)) for ref in wanted}
        graph = convert(dockerfile, bases, build_args=arguments, target=None, platform=HOST)
        stages = graph.stages if built else None
    except BuildError as error:
        failed = _line(error)
    findings = check(
        dockerfile,
        bases=known,
        build_args=arguments,
        platform=HOST,
        ignore=ignore,
        settings=settings,
        stages=stages,
    )
    chosen = settings or parse_settings(dockerfile.directives.check)
    if failed is None and chosen.error and findings:
        failed = findings[0].source.start if findings[0].source else 0
    return [(one.rule, one.source.start if one.source else 0) for one in findings], failed


def _line(error: BuildError) -> int:
    return error.source.start if error.source is not None else 0


def check_git_references(data: Path) -> Rows:
    """One row per reference: what of it names the repository and what is asked of it, or ``error``."""
    for function, case in _tables(data, "cases"):
        if function != "TestParseGitRef":
            continue
        wanted = case.get("expected")
        expected: object = "error"
        if wanted is not None:
            expected = (
                wanted["Remote"],
                wanted.get("Ref", ""),
                wanted.get("SubDir", ""),
                wanted.get("Checksum", ""),
                wanted.get("MTime", ""),
                wanted.get("FetchByCommit", False),
            )
        try:
            # "github.com/…" is deprecated there, and for contexts alone
            source = remote.find_repository(case["ref"])
        except BuildError:
            source = None
        got: object = "error"
        if source is not None:
            got = (
                source.remote.removeprefix("https://") if case["ref"].startswith("github.com/") else source.remote,
                source.ref,
                source.subdirectory,
                source.checksum,
                source.mtime,
                source.fetch_by_commit,
            )
        yield f"{data.name} {case['ref']}", expected, got


def check_heredocs(folder: Path) -> Rows:
    """One row per statement of the long example, per word, per line and per instruction with documents."""
    data = folder / "parser" / "parser_heredoc_test.go"
    for function, reader in _functions(data):
        names = reader.walk()
        if function == "TestParseExtractsHeredoc":
            text = re.search(r"func TestParseExtractsHeredoc.*?`\n(.*?)`\)", data.read_text(), re.DOTALL)
            assert text is not None
            statements = lexer.lex(Source(data.name, text.group(1))).statements[1:]
            for statement, documents in zip(statements, names["tests"], strict=True):
                wanted = [
                    (one["Name"], one["Content"] if isinstance(one["Content"], str) else "") for one in documents or ()
                ]
                label = f"{data.name} {statement.origin.text!r}"
                yield label, wanted, [(one.name, one.body) for one in statement.heredocs]
        elif function == "TestParseHeredocHelpers":
            for kind, expected in (("validHeredocs", "EOF"), ("notHeredocs", None), ("invalidHeredocs", None)):
                for word in names[kind]:
                    begun = lexer.parse_heredoc(word)
                    yield f"{data.name} {kind} {word!r}", expected, None if begun is None else begun.name
        elif function == "TestHeredocsFromLine":
            for case in names["srcs"]:
                ends = "".join(f"\n{name}" for name in case["heredocNames"] or ())
                statement, *_ = lexer.lex(Source(data.name, case["line"] + ends)).statements
                got = [one.name for one in statement.heredocs]
                # the original compares those it finds as well: blanks after << make it none
                yield f"{data.name} {case['line']!r}", (case["heredocNames"] or [])[: len(got)], got


def check_instructions(folder: Path) -> Rows:
    """One row per instruction in the tables of the tests of its forms."""
    data = folder / "instructions" / "parse_heredoc_test.go"
    for function, case in _tables(data, "cases"):
        label = f"{data.name} {case['dockerfile']!r}"
        got = _instruction(case["dockerfile"])
        if "sourcesAndDest" in case:
            wanted = case["sourcesAndDest"]
            contents = [(one["Path"], one["Data"], one["Expand"]) for one in wanted.get("SourceContents") or ()]
            assert isinstance(got, instructions.Copy | instructions.Add | BuildError)
            if isinstance(got, BuildError):
                yield label, "accepted", str(got)
                continue
            documents = [(one.name, one.content, one.expand) for one in got.heredocs]
            expected = (wanted["DestPath"], list(wanted.get("SourcePaths") or ()), contents)
            yield label, expected, (got.destination, list(got.sources), documents)
        elif function == "TestRunHeredoc":
            assert isinstance(got, instructions.Run)
            files = [(one["Name"], one["Data"], one.get("Chomp", False)) for one in case.get("files") or ()]
            heredocs = [(one.name, one.body, one.chomp) for one in got.command.heredocs]
            yield (
                label,
                (case["shell"], case["command"], files),
                (got.command.shell_form, list(got.command.words), heredocs),
            )
        else:
            yield label, "error", "error" if isinstance(got, BuildError) else "accepted"
    yield from _check_refusals(folder / "instructions" / "parse_test.go")


def _check_refusals(data: Path) -> Rows:
    tails = {"TestCommandsNoDestinationArgument": " arg1", "TestCommandsTooManyArguments": " arg1=1 arg2 arg3"}
    for function, reader in _functions(data):
        names = reader.walk()
        for keyword in names.get("commands") or ():
            tail = " =arg2" if function == "TestCommandsBlankNames" else tails.get(function, "")
            got = _instruction(keyword + tail)
            yield f"{data.name} {keyword + tail}", "error", "error" if isinstance(got, BuildError) else "accepted"
        for case in names.get("cases") or ():
            got = _instruction(case["dockerfile"])
            yield f"{data.name} {case['name']}", "error", "error" if isinstance(got, BuildError) else "accepted"


def _instruction(text: str) -> object:
    """The one instruction that ``text`` is, or the error."""
    try:
        lexed = lexer.lex(Source("Dockerfile", text))
        return parse_statement(lexed.statements[0], lexed.directives.escape)
    except BuildError as error:
        return error


def check_arrays(data: Path) -> Rows:
    """One row per text that is, or is not, an array of strings."""
    reader = golang.Reader(golang.tokens(data.read_text(encoding="utf-8")), _KNOWN)
    names = reader.walk()
    for text in names["invalidJSONArraysOfStrings"]:
        try:
            got: object = words.parse_json_array(text)
        except BuildError:
            got = "error"
        yield f"{data.name} {text}", "error", got
    for text, expected in names["validJSONArraysOfStrings"].items():
        yield f"{data.name} {text}", expected or [], words.parse_json_array(text)


def check_ports(data: Path) -> Rows:
    """One row per specification of ports in the tables, and in single assertions."""
    for table in ("tests", "cases"):
        for _, case in _tables(data, table):
            expected: object = "error" if case.get("expError") else case.get("expected")
            yield f"{data.name} {case['spec']!r}", expected, _ports([case["spec"]])
    asked = re.compile(
        r"(?:(\w+), err|_, err) :?= ps\.parsePorts?\((\[\]string\{[^}]*\}|\"[^\"]*\")\)\n"
        r"(?:\trequire\.NoError\(t, err\)\n\tassert\.Equal\(t, (\[\]string\{[^}]*\}))?"
    )
    for match in asked.finditer(data.read_text(encoding="utf-8")):
        given = golang.Reader(golang.tokens(match.group(2)), _KNOWN).value()
        wanted = golang.Reader(golang.tokens(match.group(3)), _KNOWN).value() if match.group(3) else "error"
        yield f"{data.name} {given}", wanted, _ports([given] if isinstance(given, str) else given)


def _ports(specifications: list[str]) -> object:
    try:
        return list(parse_ports(specifications))
    except ValueError:
        return "error"


def check_words_of_lines(data: Path) -> Rows:
    """One row per line that is split into words which keep their quotes."""
    for _, case in _tables(data, "tests"):
        (line,) = case["input"]
        yield f"{data.name} {line!r}", case["expect"], words.split_quoted(line, "\\")
