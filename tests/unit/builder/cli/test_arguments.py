"""Sizes, durations, assignments, outputs, secrets; errors and suggestions of a command line."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path

import pytest

from builder.cli import arguments, outputs
from builder.cli.build import parser_build
from builder.cli.reference import parser_of
from builder.errors import UsageError
from builder.options import SecretSource


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("64k", 64 << 10),
        ("64K", 64 << 10),
        ("512m", 512 << 20),
        ("512MB", 512 << 20),
        ("512MiB", 512 << 20),
        ("2g", 2 << 30),
        ("1.5g", 3 << 29),
        ("1 t", 1 << 40),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert arguments.parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1mm", "0x10", "1,5g", "ten"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a size such as 512m"):
        arguments.parse_bytes(text)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("12h", 43_200), ("7d", 604_800)])
def test_durations(text: str, seconds: int) -> None:
    assert arguments.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1w", "1.5h", "²d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a duration such as 12h"):
        arguments.parse_duration(text)


def test_assignments_take_bare_names_from_the_environment() -> None:
    environment = {"HOME": "/root", "EMPTY": ""}
    texts = ["A=1", "B=x=y", "C=", "HOME", "EMPTY", "ABSENT", "A=2"]
    expected = {"A": "2", "B": "x=y", "C": "", "HOME": "/root", "EMPTY": ""}
    assert arguments.parse_assignments(texts, environment) == expected


def test_outputs() -> None:
    assert outputs.parse_output("type=oci,dest=a.tar") == {"type": "oci", "dest": "a.tar"}
    assert outputs.parse_output("type=docker") == {"type": "image"}
    assert outputs.parse_output("type=registry,name=r.example/x") == {"type": "registry", "name": "r.example/x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=local", "needs dest"),
        ("type=floppy,dest=a", "unknown output type 'floppy'"),
        ("type=oci,dest=a,speed=9", "unknown field 'speed=9'"),
        ("dest=a", "unknown output type ''"),
    ],
)
def test_what_is_no_output_is_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        outputs.parse_output(text)


def test_secrets_come_from_files_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("t")
    monkeypatch.setenv("TOKEN", "v")
    assert arguments.parse_secret(f"id=a,src={file}") == ("a", SecretSource(str(file), None))
    assert arguments.parse_secret("id=a,env=TOKEN") == ("a", SecretSource(None, "TOKEN"))
    assert arguments.parse_secret("id=TOKEN") == ("TOKEN", SecretSource(None, "TOKEN"))
    monkeypatch.chdir(tmp_path)
    assert arguments.parse_secret("id=token") == ("token", SecretSource("token", None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("src=/etc/hostname", "needs an id"),
        ("id=a,mode=7", "expected id=ID,src=FILE"),
        ("id=a,src=/nowhere", "there is no file '/nowhere'"),
        ("id=a,env=NOT_SET_ANYWHERE", "no environment variable 'NOT_SET_ANYWHERE'"),
    ],
)
def test_what_is_no_secret_is_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        arguments.parse_secret(text)


def test_an_agent_needs_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(argparse.ArgumentTypeError, match="SSH_AUTH_SOCK is not set"):
        arguments.parse_agent("default")
    with pytest.raises(argparse.ArgumentTypeError, match="there is no socket"):
        arguments.parse_agent("default=/nowhere")
    key = tmp_path / "id_ed25519"
    key.write_text("a private key, which no step may be given")
    with pytest.raises(argparse.ArgumentTypeError, match="is no socket; ssh-add puts a key into an agent"):
        arguments.parse_agent(f"default={key}")
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        assert arguments.parse_agent(f"default={tmp_path}/agent") == ("default", f"{tmp_path}/agent")


def error_of(*words: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parser_build().read(words)
    return caught.value


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--tagg", "x", "."], "unknown option --tagg", "did you mean --tag?"),
        (["--taget=x", "."], "unknown option --taget", "did you mean --target?"),
        (["--no-cahe", "."], "unknown option --no-cahe", "did you mean --no-cache?"),
        (["--wibble", "."], "unknown option --wibble", None),
        ([], "the following arguments are required: CONTEXT", None),
        (["--verison"], "unknown option --verison", "did you mean --version?"),
        (["-x"], "unknown option -x", None),
        (["--build-arg", "."], "the following arguments are required: CONTEXT", None),
        (["-m", "much", "."], "expected a size such as 512m or 2g, got 'much'", None),
        (["-m", "1", "."], "expected at least 6m, got '1'", None),
        (["--cpus", "two", "."], "expected a number such as 1.5, got 'two'", None),
        (["--cpus", "nan", "."], "expected a number such as 1.5, got 'nan'", None),
        (["--jobs", "0", "."], "expected a whole number above zero, got '0'", None),
        (["--pids-limit", "1.5", "."], "expected a whole number, got '1.5'", None),
        (["--add-host", "db", "."], "expected NAME:ADDRESS such as db:10.0.0.7, got 'db'", None),
        (["--add-host", "db:ten", "."], "expected NAME:ADDRESS such as db:10.0.0.7, got 'db:ten'", None),
        (["-o", "type=local", "."], "output type local needs dest=PATH", None),
    ],
)
def test_errors_name_the_argument_and_the_nearest(words: list[str], message: str, hint: str | None) -> None:
    error = error_of(*words)
    assert message in error.message
    assert "\n" not in error.message
    assert error.exit_status == 2
    assert [text for text in error.hints if text.startswith("did you mean")] == ([hint] if hint else [])
    assert "pybuild build --help lists the options" in error.hints


def test_an_argument_too_many() -> None:
    error = error_of("a", "b")
    assert error.message == "unexpected argument 'b'"
    assert error.hints == ("usage: pybuild build [OPTIONS] CONTEXT",)


def test_options_after_the_command_of_run_are_its_own() -> None:
    parsed = parser_of("run").read(["-i", "image", "ls", "-l", "--wibble", "--", "x"])
    assert (parsed.interactive, parsed.image, parsed.command) == (True, "image", ["ls", "-l", "--wibble", "--", "x"])
    with pytest.raises(UsageError, match="expected a size"):
        parser_of("run").read(["-m", "much", "image", "ls", "--wibble"])


def test_labels_without_a_value_are_empty() -> None:
    assert arguments.parse_labels(["a=1", "b", "c=x=y", "a=2"]) == {"a": "2", "b": "", "c": "x=y"}


def test_an_abbreviated_option_is_unknown() -> None:
    assert error_of("--targ", "x", ".").message == "unknown option --targ"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--squash", "-t", "x", "."], "--squash: layers stay as the Dockerfile makes them"),
        (["-v", "/a:/b", "."], "-v: RUN --mount=type=bind shows files"),
        (["--sbom=generator=docker.io/x", "."], "argument --sbom: generator 'docker.io/x'"),
    ],
)
def test_options_of_docker_that_are_not_there_are_refused_by_name(words: list[str], message: str) -> None:
    assert error_of(*words).message.startswith(message)


def test_options_of_docker_that_change_nothing_are_accepted() -> None:
    words = ["--compress", "--rm", "--force-rm", "--provenance=false", "--sbom", "false", "."]
    parsed = parser_build().read(words)
    assert [note.split(" ")[0] for note in parsed.notes] == ["--compress"]
    assert parser_build().read(["."]).notes == []


def test_no_refused_option_is_one_that_works() -> None:
    parser = parser_build()
    known = {option for action in parser.actions() for option in action.option_strings}
    assert known & parser.refused.keys() == set()


@pytest.mark.parametrize(("columns", "widest"), [("60", 60), ("500", 120), ("x", 120)])
def test_help_is_as_wide_as_the_terminal(columns: str, widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", columns)
    text = parser_build().format_help()
    assert text.startswith("usage: pybuild build [OPTIONS] CONTEXT\n")
    assert text.rstrip().endswith("pybuild -t hello --build-arg WHO=world .")
    assert max(map(len, text.splitlines())) <= widest


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--no-cache"], "no_cache", True),
        (["--no-cache=true"], "no_cache", True),
        (["--no-cache=1"], "no_cache", True),
        (["--no-cache=False"], "no_cache", False),
        (["--no-cache", "--no-cache=false"], "no_cache", False),
        (["--push=false"], "push", False),
        (["--quiet=true"], "quiet", True),
        (["--rm=false"], "rm", False),
        (["--build-arg", "x=--no-cache=true"], "no_cache", False),
        ([], "pull", "missing"),
        (["--pull"], "pull", "always"),
        (["--pull=true"], "pull", "always"),
        (["--pull=false"], "pull", "missing"),
        (["--pull=always"], "pull", "always"),
        (["--pull=newer"], "pull", "newer"),
        (["--pull=ifnewer"], "pull", "newer"),
        (["--pull=never"], "pull", "never"),
        (["--resource", "memory=64m,cpu-shares=3"], "memory", 64 << 20),
        (["--resource", "cpuset-cpus=0,2-3,cpu-quota=50000"], "cpuset_cpus", "0,2-3"),
        (["--resource", "cpuset-cpus=0,2-3,cpu-quota=50000"], "cpu_quota", 50000),
        (["--timestamp", "0"], "epoch", 0),
        (["--report=true"], "report", True),
        (["--source-date-epoch=7"], "epoch", 7),
    ],
)
def test_options_as_other_builders_have_them(words: list[str], name: str, value: object) -> None:
    assert getattr(parser_build().read([*words, "."]), name) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no-cache=perhaps"], "argument --no-cache: expected true, false, got 'perhaps'"),
        (["--pull=sometimes"], "argument --pull: expected true, false, always, missing, .* got 'sometimes'"),
        (["--layers=false"], "argument --layers: expected true, 1, got 'false'"),
        (["--resource", "memory"], "argument --resource: expected NAME=VALUE with one of memory, .* got 'memory'"),
        (["--resource", "gpu=1"], "argument --resource: expected NAME=VALUE .* got 'gpu=1'"),
        (["--resource", "memory=1"], "argument --resource: memory: expected at least 6m, got '1'"),
        (["--format", "docker"], "images are OCI's, got 'docker'; -o type=image,oci-mediatypes=false makes docker's"),
        (["--timestamp", "-1"], "expected"),
        (["--cache-to", "type=registry,ref=r.example/c,oci-mediatypes=false"], "a cache is an OCI image manifest"),
    ],
)
def test_values_that_make_no_sense(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parser_build().read([*words, "."])


def test_words_of_a_command_are_no_switches() -> None:
    arguments = parser_of("run").read(["--rm=true", "image", "program", "--rm=perhaps"])
    assert arguments.rm is True
    assert arguments.command == ["program", "--rm=perhaps"]


def test_a_cache_is_written_as_others_are_told_to_write_theirs() -> None:
    fields = arguments.parse_cache_target(
        "type=registry,ref=r.example/c,mode=max,image-manifest=true,oci-mediatypes=true"
    )
    assert (fields["type"], fields["ref"], fields["mode"]) == ("registry", "r.example/c", "max")
